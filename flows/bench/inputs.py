"""What the runs of a comparison read of a line: its digests, and whether it is as they say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ruamel.yaml.error import YAMLError

from flows.dvc import commands, lockfile
from flows.line import workspace
from flows.programs import plain_yaml
from otmf import settings
from otmf.runtime import layout


def digests(line: layout.Layout, params: settings.Params, tasks: Sequence[str]) -> dict[str, str]:
    """Digests of all of the line that a run reads, by name.

    Raises:
        WorkspaceError: if something of it was never made, or does not lie here.
    """
    stages = ["pretrained", *(f"{kind}@{task}" for task in tasks for kind in ("finetune", "extract"))]
    text = (line.root / lockfile.NAME).read_text(encoding="utf-8") if (line.root / lockfile.NAME).exists() else ""
    found: dict[str, str] = {}
    with _readable(line.root / lockfile.NAME):
        locked = lockfile.read(text, stages) if text else {}
        for stage in stages:
            for out in locked.get(stage, {}).get("outs", []):
                found[out["path"]] = out["md5"]
    for task in tasks:
        found[f"split of {task}"] = params.tasks[task].split.model_dump_json()
        raw = line.raw(task).relative_to(line.root).as_posix()
        pointer = line.root / f"{raw}.dvc"
        with _readable(pointer):
            found[raw] = plain_yaml.load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
    for path in (
        line.pretrained,
        *(place(task) for task in tasks for place in (line.task_vector, line.finetuned, line.raw)),
    ):
        name = path.relative_to(line.root).as_posix()
        if name not in found or not path.exists():
            raise workspace.WorkspaceError(
                f"expected {name} of {line.root.name}; received none; {'fetch it with `dvc pull`' if name in found else 'onboard the task first'}"
            )
    return found


def require_as_locked(line: layout.Layout, params: settings.Params, tasks: Sequence[str]) -> None:
    """Refuses to run over files that are other than dvc.lock says: rows are bound to what it says.

    Raises:
        WorkspaceError: naming the first.
    """
    changed, read = commands.changed(line.root), digests(line, params, tasks)
    if other := [path for path in changed if path in read]:
        raise workspace.WorkspaceError(
            f"expected {other[0]} of {line.root.name} as dvc.lock has it; received it {changed[other[0]]}; put it back with `dvc checkout "
            f"{other[0]}`, or make it again with `otmf retrain`"
        )


def require_left(line: layout.Layout, tasks: Sequence[str], drawn: int) -> None:
    """Raises SettingsError if merges draw all unlabelled inputs of a task, so that none is left to score."""
    for task in tasks:
        path = line.manifest(task)
        with _readable(path):
            count = (
                int(json.loads(path.read_text(encoding="utf-8"))["parts"]["unlabelled"]["images"])
                if path.exists()
                else None
            )
        if count is not None and count <= drawn:
            raise settings.SettingsError(
                f"score: expected more than the {drawn} unlabelled inputs of {task} that data.new leaves to merges; received {count}; lower data.new, "
                "leave out the task, or score the test inputs"
            )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """One sentence for a file of the line that is there and does not read as its writer writes it."""
    try:
        yield
    except (YAMLError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise workspace.WorkspaceError(
            f"expected {path} as otmf and DVC write it; received another text; put it back with `git checkout -- {path.name}`, or from a copy"
        ) from error
