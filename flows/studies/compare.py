"""OTMF's presets beside three other methods over several task orders, as one DVC stage beside the line's chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from statistics import mean, stdev
from typing import Any

from rich.table import Table
from ruamel.yaml import YAML

from flows.dvc import commands
from flows.line import clones, landing, workspace
from flows.programs import git
from flows.rendering import templates
from flows.services import tracking
from otmf import settings
from otmf.runtime import layout

FIRST_SEED = 42
NEUTRAL = ("steps", "batch_size", "memory_size", "unlabelled_images", "seed")
METHODS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    # name: preset, single values over it, heads to score it with; the paper's preset tunes the head of the previous task
    "running_average": ("default", {"method": "running_average"}, ["frozen", "previous"]),
    "task_arithmetic": ("default", {"method": "task_arithmetic"}, ["frozen"]),
    "wudi": ("default", {"method": "wudi"}, ["frozen"]),
    "exponential_average": ("paper", {"steps": 0, "pre_images": "none", "memory_size": 0}, ["frozen"]),
    "otmf_paper": ("paper", {}, ["frozen", "previous"]),
    "otmf_frozen_heads": ("default", {}, ["frozen"]),
    "otmf_default": ("default", {}, ["aligned"]),
}


def run(line: layout.Layout, *, orders: int, trained: int | None = None, log: Callable[[str], None]) -> None:
    """Brings the comparison of the tasks merged so far up to date, and commits it; the line is as before if it fails.

    Args:
        line: the folder.
        orders: number of task orders.
        trained: how many of them methods that train masks are run over; all otherwise.
        log: takes the lines of output.
    """
    with landing.turn(line, say=log):
        params = workspace.params(line)
        tasks = [params.steps[name].task for name in settings.chain(params.steps)]
        if not tasks:
            raise workspace.WorkspaceError(
                "expected tasks to compare methods on; received a line without any; onboard some first"
            )
        tracking.prepare(line, params.line)
        attempt = clones.begin(line, "compare")
        _write(
            attempt,
            tasks,
            [FIRST_SEED + place for place in range(orders)],
            params.defaults.merge,
            params.defaults.head_tune,
            trained,
        )
        commit = git.run(attempt.root, "rev-parse", "HEAD").strip()
        uri = tracking.uri(line)
        extra = {"OTMF_COMMIT": commit, "MLFLOW_TRACKING_URI": uri}
        commands.stage(attempt.root, f"{layout.COMPARISON}/dvc.yaml:compare", log=log, extra=extra)
        workspace.commit(attempt.root, f"Compare methods on {len(tasks)} tasks over {orders} orders")
        landing.land(line, attempt)


def summary(line: layout.Layout) -> list[dict[str, Any]]:
    """The rows of the line's comparison."""
    return rows(json.loads(line.compared.read_text(encoding="utf-8")))


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per method and heads: what it sees, mean and deviation over orders of ACC, BWT and normalised accuracy."""
    finetuned = {task: scores["finetuned"] for task, scores in found["references"].items()}
    shown = []
    for name, heads in dict.fromkeys((row["method"], row["heads"]) for row in found["rows"]):
        own = [row for row in found["rows"] if (row["method"], row["heads"]) == (name, heads)]
        able = [task for task, accuracy in finetuned.items() if accuracy > 0]
        normalised = [mean(row["final"][task] / finetuned[task] for task in able) for row in own] if able else []
        shown.append(
            {
                "method": name,
                "sees": own[0]["sees"],
                "labels": {"frozen": "none", "aligned": "none, heads aligned"}.get(heads, f"{heads} head tuned"),
                "orders": len(own),
                "acc": _spread([row["acc"] for row in own]),
                "bwt": _spread([row["bwt"] for row in own if row["bwt"] is not None]),
                "normalised": _spread(normalised),
                "final": {task: mean(row["final"][task] for row in own) for task in finetuned},
            }
        )
    return shown


def references(line: layout.Layout) -> dict[str, dict[str, float]]:
    """For each task compared, the accuracies of the base and of its expert."""
    return json.loads(line.compared.read_text(encoding="utf-8"))["references"]


def table(line: layout.Layout) -> Table:
    """The comparison as a table for the terminal, in per cent."""
    tasks = references(line)
    shown = Table(title=f"Methods over {len(tasks)} tasks (mean and deviation over orders, %)")
    for column in ("method", "sees", "labels", "orders", "ACC", "BWT", "of fine-tuned"):
        shown.add_column(
            column, justify="left" if column in ("method", "sees", "labels") else "right", no_wrap=column == "method"
        )
    for name in ("base", "finetuned"):
        shown.add_row(name, "", "", "", f"{100 * mean(scores[name] for scores in tasks.values()):.1f}", "", "")
    for row in summary(line):
        shown.add_row(
            row["method"],
            row["sees"],
            row["labels"],
            str(row["orders"]),
            *(templates.per_cent(row[key]) for key in ("acc", "bwt", "normalised")),
        )
    return shown


def _spread(values: list[float]) -> tuple[float, float | None] | None:
    if not values:
        return None
    return mean(values), stdev(values) if len(values) > 1 else None


def _write(
    attempt: layout.Layout,
    tasks: list[str],
    orders: list[int],
    overrides: dict[str, Any],
    heads: dict[str, Any],
    trained: int | None,
) -> None:
    methods = {
        name: {
            "merge": settings.merge(preset, _neutral(overrides), values, heads=kinds[0]).model_dump(mode="json"),
            "head_tune": [
                settings.head_tune(preset, {**heads, "heads": kind}).model_dump(mode="json") for kind in kinds
            ],
        }
        for name, (preset, values, kinds) in METHODS.items()
    }
    for method in methods.values() if trained and trained < len(orders) else ():
        if method["merge"]["method"] == "otmf" and method["merge"]["steps"]:
            method["orders"] = orders[:trained]
    deps = ["data/models/pretrained"]
    for task in tasks:
        deps += [f"data/models/task_vectors/{task}", f"data/models/finetuned/{task}", f"data/raw/{task}"]
    stage = {
        "wdir": "../..",
        "cmd": "python -m stages compare",
        "deps": deps,
        "params": [{f"{layout.COMPARISON}/compare.yaml": None}],
        "outs": [{layout.COMPARED: {"cache": False}}],
    }
    folder = attempt.comparison
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "compare.yaml", {"tasks": tasks, "orders": orders, "methods": methods})
    _dump(folder / "dvc.yaml", {"stages": {"compare": stage}})


def _neutral(overrides: dict[str, Any]) -> dict[str, Any]:
    """Of a line's own merge settings those that make no method into another."""
    return {key: value for key, value in overrides.items() if key in NEUTRAL}


def _dump(path, content: object) -> None:
    yaml = YAML(typ="rt")
    stream = StringIO()
    yaml.dump(content, stream)
    path.write_text(stream.getvalue(), encoding="utf-8")
