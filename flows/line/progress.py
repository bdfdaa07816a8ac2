"""Where a running stage is: noted beside its attempt while it runs, read by `otmf status`."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from otmf.runtime import layout, processes

FILE = "running.json"
EVERY = 0.5
_COUNT = re.compile(r"\b(?:epoch|step) (\d+)/(\d+)\b")


class Note(BaseModel):
    """What a stage said last.

    Attributes:
        stage: name in dvc.yaml.
        process: id of the flow's process that runs it.
        begun: when it started.
        said: its last line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    process: int
    begun: datetime
    said: str = ""


@dataclass(frozen=True)
class Running:
    """A stage under way: of which attempt, since when, what it said last, and the minutes left by that (None: unknown)."""

    attempt: str
    stage: str
    minutes: float
    said: str
    left: float | None


@contextlib.contextmanager
def noted(clone: layout.Layout, stage: str, log: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """A log that also notes its last line beside the attempt, twice a second at most; the note goes with the stage."""
    clone.private.mkdir(exist_ok=True)
    path, begun, last = clone.private / FILE, datetime.now(UTC), 0.0

    def write(said: str) -> None:
        part = path.with_suffix(".part")
        part.write_text(
            Note(stage=stage, process=os.getpid(), begun=begun, said=said).model_dump_json(), encoding="utf-8"
        )
        part.replace(path)

    def both(text: str) -> None:
        nonlocal last
        log(text)
        if text.strip() and time.monotonic() - last > EVERY:
            last = time.monotonic()
            write(text.strip()[:200])

    write("")
    try:
        yield both
    finally:
        path.unlink(missing_ok=True)


def running(line: layout.Layout) -> list[Running]:
    """The stages under way on this machine, those of dead processes left out."""
    found, now = [], datetime.now(UTC)
    for path in sorted((line.private / "attempts").glob(f"*/.otmf/{FILE}")):
        with contextlib.suppress(OSError, ValidationError):
            note = Note.model_validate_json(path.read_text(encoding="utf-8"))
            if processes.lives(note.process):
                minutes = (now - note.begun).total_seconds() / 60
                found.append(Running(_attempt(path), note.stage, minutes, note.said, _left(note.said, minutes)))
    return found


def _attempt(path: Path) -> str:
    return path.parent.parent.name


def _left(said: str, minutes: float) -> float | None:
    counted = _COUNT.search(said)
    if not counted or counted.group(1) == "0":
        return None
    done, total = int(counted.group(1)), int(counted.group(2))
    return minutes / done * max(0, total - done)
