"""The inbox of a line: submissions delivered, accepted in an order that is kept, and put aside with what became of them.

A submission is a folder with one card and everything the card refers to. Accepting it takes it out of the inbox, so that
nobody changes it any more, and gives it a place; it keeps both until it is onboarded or refused, whatever dies meanwhile.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flows.changes import fetching
from flows.line import workspace
from otmf.data import cards, gathering
from otmf.provenance import digests
from otmf.runtime import errors, layout

CARD = "card.yaml"
REASON, TRACE = "reason.txt", "trace.txt"
SETTLED = 5.0
TRIES = 6
WEEK = 7 * 24 * 3600.0
FIRST_PAUSE = timedelta(seconds=15)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,120}")
_STATE, _CONTENT = "place.json", "submission"
_LAST = 2**53
Kind = Literal["arrived", "refused"]


class Place(BaseModel):
    """A submission's place in the order of acceptance.

    Attributes:
        number: earlier is less.
        at: when it was accepted.
        failures: of its environment so far; not of the submission itself.
        due: it is not tried before.
        said: the last failure.
        trained: whether its fine-tuning was done ahead of its turn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    at: datetime
    failures: int = 0
    due: datetime
    said: str = ""
    trained: bool = False


def inbox(line: layout.Layout) -> Path:
    """The folder that is watched."""
    return line.root / "data/inbox"


def check_name(submission: object) -> str:
    """The name of a submission, which an event may have filled with anything.

    Raises:
        WorkspaceError: if it cannot be the name of a folder of the inbox.
    """
    if not isinstance(submission, str) or not is_name(submission):
        raise workspace.WorkspaceError(
            f"expected the name of a folder in the inbox; received {str(submission)[:60]!r}; name the submission as `otmf submit` does"
        )
    return submission


def is_name(name: str) -> bool:
    """Whether a folder of the inbox is called as a submission can be."""
    return _NAME.fullmatch(name) is not None


def turn(name: str) -> str:
    """The lock of whoever trains, merges or puts aside a submission."""
    return f"ahead-{name}"


def deliver(line: layout.Layout, card_path: Path) -> str:
    """Puts a card and what it refers to into the inbox, whole or not at all; the same content lies there once.

    Returns:
        The name of the submission's folder: the task's name and the content's hash.

    Raises:
        CardError: if the card does not hold up, or refers to what is not there.
        ProcessError: if its data cannot be fetched.
    """
    part = line.private / "delivery"
    with fetching.brought(line, cards.read(card_path), card_path.resolve().parent) as (card, base):
        return _delivered(line, card, base, part)


def _delivered(line: layout.Layout, card: cards.Card, base: Path, part: Path) -> str:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        renamed = card.model_copy(
            update={"path": _copied(card, base, part), "checkpoint": _copied_checkpoint(card, base, part)}
        )
        (part / CARD).write_text(cards.dump(renamed), encoding="utf-8")
        name = f"{card.name}-{digests.digest(part)[:16]}"
        inbox(line).mkdir(parents=True, exist_ok=True)
        if not (inbox(line) / name).exists() and not _accepted(line, name).exists():
            part.rename(inbox(line) / name)
        return name
    finally:
        shutil.rmtree(part, ignore_errors=True)


def settled(line: layout.Layout) -> list[str]:
    """Names of the submissions in the inbox that nobody has written to for a while."""
    folder = inbox(line)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [one.name for one in found if is_name(one.name) and one.is_dir() and _quiet(one)]


def accept(line: layout.Layout, name: str) -> bool:
    """Takes a submission out of the inbox and gives it its place; False if it was dealt with before.

    What is accepted already keeps its place; a second folder of that name and content goes, one of other content stays in
    the inbox until the first is dealt with.

    Raises:
        WorkspaceError: if there is nothing of that name, nor ever was.
    """
    folder, target = inbox(line) / name, _accepted(line, name)
    with workspace.locked(line, patience=60, name="accepting"):
        _recover(line)
        if folder.is_symlink():
            raise workspace.WorkspaceError(
                f"expected a folder in the inbox; received {name!r}, which is a link; put the folder itself there"
            )
        if target.exists():
            if folder.is_dir() and _plain(folder) and digests.digest(folder) == digests.digest(target / _CONTENT):
                shutil.rmtree(folder)
            return True
        if not folder.is_dir():
            if outcome(line, name) is None:
                raise workspace.WorkspaceError(
                    f"expected a folder in the inbox; received {name!r}, which is not there; submit the card again"
                )
            return False
        now = datetime.now(UTC)
        last = max((place.number for _, place in waiting(line) if place.number < _LAST), default=0)
        part = target.with_name(f".{name}")
        part.mkdir(parents=True)
        _write(part, Place(number=last + 1, at=now, due=now))
        folder.rename(part / _CONTENT)
        _own(part / _CONTENT)
        part.rename(target)
        return True


def waiting(line: layout.Layout) -> list[tuple[str, Place]]:
    """What is accepted and not yet dealt with, in order."""
    return sorted(_places(line), key=lambda found: found[1].number)


def place(line: layout.Layout, name: str) -> Place | None:
    """The place of a submission; None if it is not waiting."""
    return next((found for waits, found in _places(line) if waits == name), None)


def card(line: layout.Layout, name: str) -> Path:
    """The one card of an accepted submission; everything in its folder, and all it refers to, stays inside.

    Raises:
        CardError: if the submission does not hold up.
    """
    content, part = _accepted(line, name) / _CONTENT, line.private / "refused" / f".{name}"
    if part.is_dir() and not content.exists():  # whoever was putting it aside died over it
        part.rename(content)
    return _card(content)


def in_words(line: layout.Layout, name: str, error: BaseException) -> str:
    """The sentence of an error over a submission, with paths as whoever submitted it knows them: within its folder."""
    content = _accepted(line, name) / _CONTENT
    said = errors.sentence(error)
    for place in (content, content.resolve(), content.relative_to(line.root)):
        said = said.replace(f"{place}/", "").replace(str(place), "the submission's folder")
    return said


def postpone(line: layout.Layout, name: str, said: str) -> bool:
    """Notes that a submission could not be dealt with for reasons outside it; False if that has happened too often."""
    found = place(line, name)
    failures = found.failures + 1
    pause = FIRST_PAUSE * 2 ** (failures - 1)
    _write(_accepted(line, name), found.model_copy(
        update={"failures": failures, "due": datetime.now(UTC) + pause, "said": said}
    ))  # fmt: skip
    return failures < TRIES


def note_trained(line: layout.Layout, name: str) -> None:
    """Notes that a submission's fine-tuning is done."""
    _write(_accepted(line, name), place(line, name).model_copy(update={"trained": True}))


def put_aside(line: layout.Layout, name: str, kind: Kind, reason: str, *, trace: str = "") -> None:
    """Ends a submission's wait: what arrived leaves its card and the reason, what was refused its data as well.

    Args:
        line, name: the submission.
        kind: what became of it.
        reason: a sentence.
        trace: where a failure came from, for those who mend it.
    """
    source, target = _accepted(line, name), line.private / kind / name
    part = target.with_name(f".{name}")
    shutil.rmtree(target, ignore_errors=True)
    if (source / _CONTENT).exists():
        shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    content = source / _CONTENT
    if kind == "refused" and content.is_dir():
        content.rename(part)  # not copied: it may hold what cannot be read
    else:
        part.mkdir(exist_ok=True)
        if kind == "arrived":
            shutil.copyfile(_card(content), part / CARD)
    _note(part / REASON, reason + "\n")
    if trace:
        _note(part / TRACE, trace)
    part.rename(target)
    shutil.rmtree(source)


def _note(path: Path, text: str) -> None:
    """Writes a note of ours beside a submission; what lies there under its name, a link perhaps, is given another."""
    if path.is_symlink() or path.exists():
        path.rename(path.with_name(f"submitted-{path.name}"))
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def outcome(line: layout.Layout, name: str) -> tuple[Kind, str] | None:
    """What became of a submission, and why; None if it waits or never was."""
    if _accepted(line, name).exists():
        return None
    found = [(kind, line.private / kind / name / REASON) for kind in ("arrived", "refused")]
    there = [(path.stat().st_mtime, kind, path) for kind, path in found if path.is_file()]
    if not there:
        return None
    _, kind, path = max(there)
    return kind, path.read_text(encoding="utf-8").strip()


def refused(line: layout.Layout) -> list[tuple[str, str]]:
    """Submissions refused in the last week and not handed in again since, with the reason, the latest first."""
    folder, now = line.private / "refused", time.time()
    found = [(one.stat().st_mtime, one.parent.name) for one in folder.glob(f"*/{REASON}")]
    recent = [name for at, name in sorted(found, reverse=True) if now - at < WEEK]
    outcomes = [(name, outcome(line, name)) for name in recent]
    return [(name, known[1]) for name, known in outcomes if known is not None and known[0] == "refused"]


def alone(line: layout.Layout) -> list[str]:
    """Names of cards that lie in the inbox without a folder of their own, where nobody takes them."""
    folder = inbox(line)
    return sorted(one.name for one in folder.glob("*.y*ml") if one.is_file()) if folder.is_dir() else []


def unnamed(line: layout.Layout) -> list[str]:
    """Names of folders in the inbox that cannot be those of submissions, so that nobody takes them."""
    folder = inbox(line)
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(one.name for one in found if one.is_dir() and not is_name(one.name))


def _accepted(line: layout.Layout, name: str) -> Path:
    return line.private / "accepted" / name


def _places(line: layout.Layout) -> Iterator[tuple[str, Place]]:
    folder = line.private / "accepted"
    for one in folder.iterdir() if folder.is_dir() else ():
        if not one.name.startswith("."):
            try:
                yield one.name, Place.model_validate_json((one / _STATE).read_text(encoding="utf-8"))
            except FileNotFoundError:  # dealt with in this moment
                continue
            except ValueError:  # damaged: it comes last, and is dealt with all the same
                now = datetime.now(UTC)
                yield one.name, Place(number=_LAST, at=now, due=now, said=f"its {_STATE} did not read")


def _plain(folder: Path) -> bool:
    """Whether a folder holds files and folders alone: a pipe would be read for ever."""
    return not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in folder.rglob("*"))


def _own(folder: Path) -> None:
    """Gives a submission files that nobody else holds a name of."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            copy = path.with_name(f".{path.name}.own")
            shutil.copyfile(path, copy)
            copy.replace(path)


def _write(folder: Path, found: Place) -> None:
    part = folder / f".{_STATE}"
    part.write_text(found.model_dump_json(), encoding="utf-8")
    part.replace(folder / _STATE)


def _recover(line: layout.Layout) -> None:
    """Ends what a process that died while accepting had begun."""
    folder = line.private / "accepted"
    for part in folder.glob(".*") if folder.is_dir() else ():
        if (part / _CONTENT).exists():
            part.rename(folder / part.name[1:])
        else:
            shutil.rmtree(part)


def _card(folder: Path) -> Path:
    """The one card of a submission; everything in the folder, and all it refers to, stays inside."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if len(found) != 1:
        raise cards.CardError(
            f"expected one card (YAML) in the submission; received {len(found)}; submit one task per folder"
        )
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            raise cards.CardError(
                f"expected files in the submission; received the link {path.name}; put the file itself there"
            )
        if not (path.is_file() or path.is_dir()):
            raise cards.CardError(
                f"expected files in the submission; received {path.name}, which is none; put a file there"
            )
    card = cards.read(found[0])
    named = [] if card.source == "embedded" else [card.path]
    if card.checkpoint is not None:
        named += [path for path in (card.checkpoint.path, card.checkpoint.head) if path]
    for path in named:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise cards.CardError(
                f"expected paths inside the submission's folder; received {path!r}, which leads outside; put the data beside the card"
            )
    return found[0]


def _quiet(folder: Path) -> bool:
    try:
        newest = max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
    except OSError:  # somebody is at it
        return False
    return time.time() - newest > SETTLED


def _copied(card: cards.Card, base: Path, part: Path) -> str:
    source = gathering.resolve(card, base)
    if card.source == "embedded":
        return card.path
    name = card.reads if source.is_dir() else card.reads + source.suffix.lower()
    shutil.copytree(source, part / name) if source.is_dir() else shutil.copyfile(source, part / name)
    return name


def _copied_checkpoint(card: cards.Card, base: Path, part: Path) -> cards.Checkpoint | None:
    if card.checkpoint is None:
        return None
    names = gathering.copy_checkpoint(card, base, part)
    return card.checkpoint.model_copy(update={"path": names["checkpoint"], "head": names["head"]})
