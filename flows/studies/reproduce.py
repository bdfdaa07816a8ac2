"""A published protocol as one command: a line, its tasks, every method in several orders, tables of accuracies.

A recipe names models, base, cards and counts. What was done before is kept: the command goes on where it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.changes import series
from flows.line import workspace
from flows.programs import warm
from flows.rendering import templates
from flows.services import prefect_server
from flows.studies import compare
from otmf.data import cards, torchvision_sets
from otmf.runtime import layout
from otmf.settings import messages, names

FOLDER = "data/recipes"
TABLES = "tables.md"


class Recipe(BaseModel):
    """A protocol.

    Attributes:
        title: for people.
        models: key -> a model of open_clip, or a JSON file of an encoder beside the recipe.
        base: a base card; what it refers to lies beside the recipe.
        cards: the folder of the cards; `sets` the one that their paths lead to where nobody names another.
        tasks: cards, in the order configured, which is what orders are drawn from.
        counts: after how many of them the methods are compared.
        orders: how many, with seeds 42, 43, ...
        params: sections of params.yaml.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    models: dict[str, str]
    base: cards.BaseCard
    cards: str
    sets: str
    tasks: list[names.Slug] = Field(min_length=1)
    counts: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    orders: int = Field(default=10, ge=1, le=10)
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_once(self) -> Recipe:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("expected distinct `tasks`; received one twice; name each once")
        if max(self.counts) > len(self.tasks):
            raise ValueError(
                f"expected `counts` of at most {len(self.tasks)} tasks; received {max(self.counts)}; lower it"
            )
        return self


def find(name: str) -> tuple[Path, Recipe, str]:
    """A recipe's file, the recipe, and the key of a model, by a name such as `paper-vit-b-32` or `my_recipe.yaml-small`.

    Raises:
        WorkspaceError: if there is no such recipe or model, or it does not hold up.
    """
    shipped = workspace.template() / FOLDER
    known = {f"{path.stem}-{key}": (path, key) for path in sorted(shipped.glob("*.yaml")) for key in _read(path).models}
    stem, mark, key = name.rpartition(".yaml-")
    path, key = (Path(f"{stem}.yaml"), key) if mark else known.get(name, (None, ""))
    if path is None or not path.is_file():
        raise workspace.WorkspaceError(
            f"expected a recipe ({', '.join(known)}), or a file of your own as FILE.yaml-MODEL; received {name!r}; choose one of them"
        )
    recipe = _read(path)
    if key not in recipe.models:
        raise workspace.WorkspaceError(
            f"expected a model of {path.name} ({', '.join(recipe.models)}); received {key!r}; choose one of them"
        )
    return path, recipe, key


def run(name: str, folder: Path, out: Console, *, data: Path | None, orders: int | None, tasks: int | None) -> None:
    """Follows a recipe in a folder, as far as it is not done yet; prints and keeps its tables.

    Args:
        name: as in `find`.
        folder: of the line and the tables; made where it is missing.
        out: where to print.
        data: the folder of the data sets, instead of the recipe's; of a recipe of ours `sets` in `folder` otherwise.
        orders: how many, instead of the recipe's.
        tasks: only the first so many; None: all.
    """
    path, recipe, key = find(name)
    most = min(tasks or len(recipe.tasks), len(recipe.tasks))
    counts = sorted({min(count, most) for count in recipe.counts})
    chosen = orders or recipe.orders
    root = folder / "line"
    if data is None and path.is_relative_to(workspace.template()):
        data = folder / "sets"
    known = workspace.params(workspace.open_line(root)).tasks if (root / "params.yaml").exists() else ()
    _require_data(path, recipe, [task for task in recipe.tasks[: counts[-1]] if task not in known], data)
    with warm.interpreter():
        if not (root / "params.yaml").exists():
            _create(root, path, recipe, key)
        line = workspace.open_line(root)
        # Prefect reads its server's address once a process: one server for all cards, however far apart
        with prefect_server.connected(line) if _missing(line, recipe, counts[-1]) else contextlib.nullcontext():
            for count in counts:
                missing = _missing(line, recipe, count)
                if missing:
                    series.onboard(line, [_card(path, recipe, task, folder / "cards", data) for task in missing], out)
                _compare(line, count, chosen, _result(folder, count, chosen), out)
    text = tables(recipe, recipe.models[key], {count: _result(folder, count, chosen) for count in counts}, chosen)
    (folder / TABLES).write_text(text, encoding="utf-8")
    out.print(text)
    out.print(f"Tables: {folder / TABLES}; the line: {root}")


def _missing(line: layout.Layout, recipe: Recipe, count: int) -> list[str]:
    known = workspace.params(line).tasks
    return [task for task in recipe.tasks[:count] if task not in known]


def _compare(line: layout.Layout, count: int, orders: int, result: Path, out: Console) -> None:
    """Compares the methods on the line's tasks and keeps the result, unless that was done."""
    if result.exists():
        return
    known = len(workspace.params(line).tasks)
    if known != count:
        raise workspace.WorkspaceError(
            f"expected the comparison of {count} tasks before others arrived; received a line with {known}; take another folder"
        )
    out.rule(f"OTMF beside other methods on {count} tasks, {orders} orders")
    compare.run(line, orders=orders, log=out.print)
    result.parent.mkdir(exist_ok=True)
    shutil.copyfile(line.compared, result)


def tables(recipe: Recipe, model: str, results: dict[int, Path], orders: int) -> str:
    """Markdown: ACC and BWT of each method after each number of tasks, and its accuracy on each task of the smallest number."""
    found = {count: json.loads(path.read_text(encoding="utf-8")) for count, path in results.items()}
    rows = {count: compare.rows(content) for count, content in found.items()}
    head = [f"{count} tasks" for count in found]
    parts = [f"# {recipe.title}", f"{model}, {orders} orders (seeds {compare.FIRST_SEED} and on), mean and standard deviation in per cent; test splits only scored."]  # fmt: skip
    for title, value in (("ACC", "acc"), ("BWT", "bwt")):
        lines = []
        if value == "acc":
            for one, said in (("base", "base"), ("finetuned", "fine-tuned, each on its own")):
                scores = [mean(task[one] for task in content["references"].values()) for content in found.values()]
                lines.append([said, "", "", *(f"{100 * score:.1f}" for score in scores)])
        for number, row in enumerate(next(iter(rows.values()))):
            cells = [templates.per_cent(rows[count][number][value], signed=value == "bwt") for count in found]
            lines.append([row["method"], row["sees"], row["labels"], *cells])
        parts += [f"## {title}", _table(["method", "sees at a merge", "labels", *head], lines)]
    least = min(found)
    tasks = list(found[least]["references"])
    lines = [[row["method"], row["labels"], *(f"{100 * row['final'][task]:.1f}" for task in tasks)] for row in rows[least]]  # fmt: skip
    parts += [f"## Each of {least} tasks", _table(["method", "labels", *tasks], lines)]
    return "\n\n".join(parts) + "\n"


def _table(columns: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *lines])


def _create(root: Path, path: Path, recipe: Recipe, key: str) -> None:
    """Makes the line; its base card and parameters lie beside it meanwhile, with paths that hold there."""
    part = root.with_name("recipe")
    part.mkdir(parents=True, exist_ok=True)
    base = recipe.base
    if base.path:
        base = base.model_copy(update={"path": str((path.parent / base.path).resolve())})
    parts = tuple(cards.absolute(one, path.parent) for one in base.parts)
    (part / "pretrained.yaml").write_text(cards.dump(base.model_copy(update={"parts": parts})), encoding="utf-8")
    yaml = YAML(typ="rt")
    document = yaml.load((workspace.template() / "params.yaml").read_text(encoding="utf-8"))
    model = recipe.models[key]
    own = path.parent / model if model.endswith(".json") else None
    for section, values in {**recipe.params, **({} if own else {"backbone": {"model": model}})}.items():
        _over(document, section, values)
    with (part / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)
    workspace.create(root, name=names.check_slug(key), base=part / "pretrained.yaml", params=part / "params.yaml", backbone=own)  # fmt: skip


def _over(document: Any, section: str, values: Any) -> None:
    """Puts values over those of a document, section by section."""
    if isinstance(values, dict) and isinstance(document.get(section), dict):
        for key, value in values.items():
            _over(document[section], key, value)
    else:
        document[section] = values


def _require_data(path: Path, recipe: Recipe, tasks: list[str], data: Path | None) -> None:
    """Refuses, before anything is trained, a recipe with data sets that are not there and that no program fetches.

    Raises:
        WorkspaceError: naming all of them.
    """
    lacking = []
    for task in tasks:
        card = _with_data(path, recipe, task, data)
        by_hand = torchvision_sets.DATASETS[card.dataset].by_hand if card.source == cards.PACKAGED else ""
        if card.source != "embedded" and by_hand is not None and not Path(card.path, by_hand).exists():
            lacking.append(f"{task} at {Path(card.path, by_hand)}")
    if lacking:
        raise workspace.WorkspaceError(
            f"expected the data sets that nobody may fetch for you; received none for {', '.join(lacking)}; put them there "
            "(docs/reproduce.md), or name their folder with --data"
        )


def _card(path: Path, recipe: Recipe, task: str, folder: Path, data: Path | None) -> Path:
    """A file with a card whose path leads to the data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task}.yaml").write_text(cards.dump(_with_data(path, recipe, task, data)), encoding="utf-8")
    return folder / f"{task}.yaml"


def _with_data(path: Path, recipe: Recipe, task: str, data: Path | None) -> cards.Card:
    shipped = path.parent / recipe.cards / f"{task}.yaml"
    card = cards.absolute(cards.read(shipped), shipped.parent)
    usual = (path.parent / recipe.sets).resolve()
    if data is not None and Path(card.path).is_relative_to(usual):
        card = card.model_copy(update={"path": str((data / os.path.relpath(card.path, usual)).resolve())})
    return card


def _result(folder: Path, count: int, orders: int) -> Path:
    return folder / "results" / f"{count}_tasks_{orders}_orders.json"


def _read(path: Path) -> Recipe:
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        if not cards.says_each_thing_once(content):
            raise YAMLError("aliases that repeat it many times over")
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise workspace.WorkspaceError(
            f"recipe {path.name}: {messages.described(error, Recipe.model_fields)}"
        ) from error
    except (YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise workspace.WorkspaceError(
            f"expected a recipe (YAML) in {path}; received text that does not parse ({reason}); mend it"
        ) from error
