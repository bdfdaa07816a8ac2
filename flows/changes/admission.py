"""What happens to a card before any work: card, data and settings checked, the data gathered into a clone of the line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.changes import fetching
from flows.dvc import cache as dvc_cache
from flows.dvc import commands, subset
from flows.line import branch, clones, encoders, landing, workspace
from flows.programs import process
from otmf import settings
from otmf.data import cards, datasets, gathering, images, splits
from otmf.provenance import digests
from otmf.runtime import layout, processes
from otmf.settings import limits, merge_sequence


def open_all(root: Path, card_path: Path) -> tuple[layout.Layout, cards.Card]:
    """The line and the card, with everything checked that takes no work: before a server or an interpreter starts."""
    line = workspace.open_line(root)
    branch.require(line.root)
    card = cards.read(card_path)
    if card.source != cards.PACKAGED:
        gathering.resolve(card, card_path.resolve().parent)
    params = workspace.params(line)
    encoders.require_known(line.root, params.backbone.model)
    _require_following(params, card, entries(params.defaults, card)[1])
    encoder = encoders.of(line, params)
    if card.reads != encoder.reads:
        raise cards.CardError(
            f"expected a card of {encoder.reads}, which this line's encoder ({encoder.name}) reads; received source {card.source}, "
            f"{card.reads}; take it to a line that reads those"
        )
    return line, card


def require_ready(line: layout.Layout, card: cards.Card, *, replace: bool = False) -> None:
    """Refuses a line that a new commit of the card would trip over; to be asked by the holder of the line's lock.

    Args:
        line, card: what is to be onboarded where.
        replace: whether the card may take the place of a known task's.
    """
    step, known = place(workspace.params(line), card)
    if known and not replace:
        raise workspace.WorkspaceError(
            f"expected a new task; received {card.name!r}, which is onboarded already as {step}; give the card another name, or "
            "pass --replace to train it again where card or data have changed"
        )
    workspace.require_clean(line)
    if not known:
        workspace.require_absent(line, line.card(card.name), line.raw(card.name).with_suffix(".dvc"))


def place(params: settings.Params, card: cards.Card) -> tuple[str, bool]:
    """The step of a card's task, and whether the line has that task already."""
    for step, found in params.steps.items():
        if found.task == card.name:
            return step, True
    return f"s{len(params.steps) + 1:02d}", False


class Gathered:
    """A card's data, copied into the line's private folder and checked; what its task and step are set to.

    No dataclass: Prefect would take it apart to store it as a flow's parameter.
    """

    __slots__ = ("folder", "merged", "said", "task")

    def __init__(self, folder: Path, task: settings.Task, merged: dict[str, Any], said: list[str]) -> None:
        self.folder, self.task, self.merged, self.said = folder, task, merged, said


@contextlib.contextmanager
def gathered(line: layout.Layout, card: cards.Card, card_path: Path) -> Iterator[Gathered | None]:
    """The card's data, gathered and checked before anything is started; None if the line has that card with that data already.

    Raises:
        CardError, SettingsError: if the card, its data or its settings do not hold up.
        ProcessError: if its checkpoint does not fit the line's encoder.
    """
    _tidy(line)
    _require_contents(line)
    folder = line.private / "incoming" / f"{card.name}.{os.getpid()}"
    try:
        found = _gathered(line, card, card_path, folder)
        if found is not None and card.checkpoint is not None:
            _check_checkpoint(line, folder)
        yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_contents(line: layout.Layout) -> None:
    """Refuses a line that lacks, in DVC's cache, what its next step reads: a clone without `dvc pull`. Raises WorkspaceError."""
    cache, order = commands.cache(line.root), settings.chain(workspace.params(line).steps)
    stages = ["pretrained", *(f"{name}@{order[-1]}" for name in ("merge-step", "head-tune") if order)]
    missing = [path for path, md5 in commands.held(line.root, stages) if not dvc_cache.place(cache, md5).exists()]
    if missing:
        raise workspace.WorkspaceError(
            f"expected what {line.root.name} is made of in DVC's cache; received no {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; "
            "fetch it with `dvc pull`"
        )


def prepare(
    line: layout.Layout, card: cards.Card, card_path: Path, *, name: str | None = None, found: Gathered | None = None
) -> tuple[layout.Layout, list[str]] | None:
    """The work of `admit`: the card's data gathered and checked aside first, then the clone.

    Args:
        line, card, card_path: what is to be onboarded where.
        name: of the attempt; the task's otherwise.
        found: its data, where that has been gathered already for the settings that the line has now.

    Returns:
        The clone, and sentences on its data: how many inputs each part of the split has, what is odd about them; None if the line
        has the same card with the same data already.

    Raises:
        CardError, SettingsError: if the card, its data or its settings do not hold up; the line is as before.
        Overtaken: if others have changed the line meanwhile.
    """
    params = workspace.params(line)
    step, known = place(params, card)
    name = name or card.name
    entry, merged = entries(params.defaults, card)
    usable = found is not None and found.folder.is_dir() and (found.task, found.merged) == (entry, merged)
    aside = found.folder if usable else line.private / "incoming" / name
    try:
        if not usable:
            found = _gathered(line, card, card_path, aside)
        if found is None:
            return None
        before = params.steps[step].previous if known else f"s{int(step[1:]) - 1:02d}"
        attempt = clones.begin(line, name, after=None if known else before)
        if workspace.params(attempt) != params:
            raise landing.Overtaken(
                f"expected {line.root.name} to stay as it was while the data of {card.name} was gathered; received other parameters; call it again"
            )
        if known:
            commands.untrack(attempt.root, attempt.raw(card.name))
            shutil.rmtree(attempt.raw(card.name), ignore_errors=True)
        aside.rename(attempt.raw(card.name))
        with contextlib.nullcontext() if known else subset.cut(attempt.root, ["pretrained"], [card.name]):
            commands.track(attempt.root, attempt.raw(card.name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    workspace.add_to_params(
        attempt,
        {
            "tasks": {card.name: entry.model_dump(mode="json")},
            "steps": {step: {"task": card.name, "previous": before, **merged}},
        },
    )
    attempt.card(card.name).parent.mkdir(parents=True, exist_ok=True)
    attempt.card(card.name).write_text(cards.dump(card), encoding="utf-8")
    return attempt, found.said


def _gathered(line: layout.Layout, card: cards.Card, card_path: Path, aside: Path) -> Gathered | None:
    """A card's data in a folder aside, checked; None if the line has the same card with the same data already."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    params = workspace.params(line)
    try:
        with limits.applied(params.limits):
            return _checked(line, card, card_path, aside, params)
    except (cards.CardError, settings.SettingsError, limits.LimitError) as error:  # name the user's data, not our copy
        raise type(error)(_of_the_user(str(error), card, aside)) from error


def _of_the_user(said: str, card: cards.Card, aside: Path) -> str:
    """A sentence with the paths that the card names in place of those of our copies."""
    copies = {str(aside / images.ARRAYS): card.path, str(aside): card.path}
    for copy, own in copies.items():
        said = said.replace(copy, own)
    return said.replace(images.ARRAYS, Path(card.path).name) if card.source == "npz" else said


def _checked(
    line: layout.Layout, card: cards.Card, card_path: Path, aside: Path, params: settings.Params
) -> Gathered | None:
    entry, merged = entries(params.defaults, card)
    _require_following(params, card, merged)
    with fetching.brought(line, card, card_path.resolve().parent) as (found, base):
        gathering.gather(found, base, aside)
    if place(params, card)[1] and _same(line, card, aside):
        return None
    loaded = datasets.load(aside)
    _check_held_back(line, entry.split)
    datasets.check(loaded, needs_training_labels=card.checkpoint is None)
    split = splits.split(
        loaded, unlabelled=entry.split.unlabelled, held_back=entry.split.held_back, seed=entry.split.seed
    )
    counts = {part: described["images"] for part, described in split.manifest["parts"].items()}
    said = [", ".join(f"{count} {part}" for part, count in counts.items() if count)]
    if dropped := split.manifest["train_images_dropped_because_in_test"]:
        said.append(f"{dropped} train {loaded.train.noun} left out, as they occur in test")
    return Gathered(aside, entry, merged, said + datasets.remarks(loaded))


def _check_checkpoint(line: layout.Layout, folder: Path) -> None:
    """Compares a gathered checkpoint with the line's base, where that is made already."""
    described = datasets.describe(folder)
    if line.pretrained.is_dir() and described["checkpoint"] is not None:
        patterns = json.dumps({name: described.get(name, []) for name in ("missing", "ignored")})
        process.pump(
            [sys.executable, "-m", "stages", "imported", str(folder / described["checkpoint"]), "", patterns],
            folder=line.root, log=lambda _: None,
        )  # fmt: skip


def _tidy(line: layout.Layout) -> None:
    """Removes what commands that died had gathered."""
    for folder in (line.private / "incoming").glob("*.*"):
        number = folder.name.rpartition(".")[2]
        if number.isdigit() and not processes.lives(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _require_following(params: settings.Params, card: cards.Card, merged: dict[str, Any]) -> None:
    """Refuses a card whose merge cannot follow, or be followed, where it would stand. Raises SettingsError."""
    name, _ = place(params, card)
    steps = {step: params.steps[step].merge for step in settings.chain(params.steps)}
    try:
        merge_sequence.require(steps | {name: settings.merge(params.defaults.preset, merged["merge"])})
    except settings.SettingsError as error:
        raise settings.SettingsError(f"card {card.name}: {error}") from error


def _same(line: layout.Layout, card: cards.Card, aside: Path) -> bool:
    """Whether the line's card and data of that name have this content; what the card's files are called does not count."""
    kept, names = line.card(card.name), {"path", "checkpoint"}
    return (
        kept.exists()
        and cards.read(kept).model_dump(exclude=names) == card.model_dump(exclude=names)
        and line.raw(card.name).is_dir()
        and digests.digest(line.raw(card.name)) == digests.digest(aside)
    )


def _check_held_back(line: layout.Layout, split: settings.Split) -> None:
    """Refuses a split that does not leave out what the line's base was pretrained on."""
    path = line.raw("pretrained") / "base.json"
    base = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if base.get("held_back") and (base["held_back"], base["seed"]) != (split.held_back, split.seed):
        raise settings.SettingsError(
            f"expected defaults.split with held_back {base['held_back']} and seed {base['seed']}, as the base was pretrained on that "
            f"part; received {split.held_back} and {split.seed}; set them so"
        )


def entries(defaults: settings.Defaults, card: cards.Card) -> tuple[settings.Task, dict[str, Any]]:
    """The settings a card's task and step get: the line's defaults, with the card's own values over them.

    Raises:
        SettingsError: if a value of the card does not hold up.
    """
    try:
        chosen = settings.Task(
            split=defaults.split,
            head=settings.section(settings.Head, {**defaults.head.model_dump(), **card.head}),
            finetune=settings.section(settings.Finetune, {**defaults.finetune.model_dump(), **card.finetune}),
        )
        head_tune = settings.head_tune(defaults.preset, defaults.head_tune)
        merge = settings.merge(defaults.preset, defaults.merge, card.merge, heads=head_tune.heads)
        settings.require_together(merge, head_tune)
    except settings.SettingsError as error:
        raise settings.SettingsError(f"card {card.name}: {error}") from error
    return chosen, {
        "merge": merge.model_dump(mode="json"),
        "head_tune": head_tune.model_dump(mode="json"),
        "evaluate": settings.Evaluate().model_dump(mode="json"),
    }
