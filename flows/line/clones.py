"""Clones of a line, in which a change is attempted or a version looked at: the line itself stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from flows.dvc import commands, subset
from flows.line import workspace
from flows.programs import git
from otmf import settings
from otmf.runtime import layout

_OF_STEP = ("merge-step", "head-tune", "evaluate")


def begin(
    line: layout.Layout, name: str, *, commit: str = "HEAD", outputs: bool = True, after: str | None = None
) -> layout.Layout:
    """A clone of the line to attempt a change in, with the line's DVC cache; an older attempt of that name goes.

    Nothing in the line itself changes until `land`; a failed attempt stays where it is, to be looked at.

    Args:
        line: the folder.
        name: of the attempt.
        commit: where it begins.
        outputs: whether it gets what DVC holds.
        after: only of that what a task reads that is merged after this step.
    """
    revision = git.run(line.root, "rev-parse", commit).strip()
    clone = _clone(line, line.private / "attempts" / name, revision, outputs and after is None)
    if outputs and after is not None:
        _bring(clone, after)
    return clone


def at(line: layout.Layout, commit: str, name: str) -> layout.Layout:
    """The line as it was at a commit, in a clone that is kept under a name and made again only if it differs."""
    folder = line.private / "versions" / name
    if (folder / ".git").exists() and git.run(folder, "rev-parse", "HEAD").strip() == commit:
        return layout.Layout(folder)
    part = _clone(line, folder.with_name(f".{name}.part"), commit)
    shutil.rmtree(folder, ignore_errors=True)
    part.root.rename(folder)
    return layout.Layout(folder)


def drop(line: layout.Layout, name: str) -> None:
    """Removes the clone of an attempt that nobody is at any more, and the lock it had; nothing where there is none."""
    shutil.rmtree(line.private / "attempts" / name, ignore_errors=True)
    (line.private / name).unlink(missing_ok=True)


def without(clone: layout.Layout, task: str) -> int:
    """Takes a task, its data and its step out of a clone; later steps move up by one.

    Returns:
        The number of the first step that has to be made again (one more than there are, if the last task went).
    """
    document = workspace.read_params(clone)
    steps = workspace.params(clone).steps
    order = settings.chain(steps)
    gone = next(place for place, step in enumerate(order) if steps[step].task == task)
    kept = [document["steps"][step] for step in order if steps[step].task != task]
    for place, step in enumerate(kept):
        step["previous"] = f"s{place:02d}"
    document["steps"] = {f"s{place:02d}": step for place, step in enumerate(kept, start=1)}
    del document["tasks"][task]
    workspace.write_params(clone, document)
    commands.untrack(clone.root, clone.raw(task))
    last = order[-1]
    commands.forget(clone.root, {f"finetune@{task}", f"extract@{task}"} | {f"{name}@{last}" for name in _OF_STEP})
    shutil.rmtree(clone.raw(task), ignore_errors=True)
    for path in (clone.card(task), clone.manifest(task), clone.evaluation(last), clone.trace(last), clone.gate(last)):
        path.unlink(missing_ok=True)
    comparison = clone.root / "data/results/compare.json"
    if comparison.exists() and task in json.loads(comparison.read_text(encoding="utf-8"))["tasks"]:
        comparison.unlink()
        shutil.rmtree(clone.root / "data/compare")
    return gone + 1


def _bring(clone: layout.Layout, step: str) -> None:
    """Brings all data, which evaluations read, and of what was made what a task reads that is merged after a step."""
    with subset.cut(clone.root, ["pretrained", f"merge-step@{step}", f"head-tune@{step}"], None):
        commands.checkout(clone.root)


def _clone(line: layout.Layout, folder: Path, commit: str, outputs: bool = True) -> layout.Layout:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    git.run(line.root, "clone", "--quiet", "--shared", "--no-tags", "--no-checkout", str(line.root), str(folder))
    git.run(folder, "checkout", "--quiet", "-B", "main", commit)
    clone = layout.Layout(folder)
    commands.share_cache(clone.root, line.root)
    if outputs:
        commands.checkout(clone.root)
    return clone
