"""The doors by which tasks arrive unattended: a command, an event, a watched folder. Each ends in the flow `arrive`.

A submission lies in the line's inbox as a folder of its own, with its card and everything the card refers to; an event
only names it. What was onboarded leaves the inbox; what cannot be is put aside with the reason.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from prefect import flow, get_run_logger

from flows import attempt, workspace
from flows.onboard import Onboarded, onboard
from otmf import cards, errors, gathering, layout, lineage

EVENT = "otmf.task.submitted"
CARD = "card.yaml"
PATIENCE = 24 * 3600.0
SETTLED = 5.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,120}")


def inbox(line: layout.Layout) -> Path:
    """The folder that is watched."""
    return line.root / "data/inbox"


def resource(name: str) -> str:
    """The Prefect resource that events about a line name."""
    return f"otmf.line.{name}"


def deliver(line: layout.Layout, card_path: Path) -> str:
    """Puts a card and what it refers to into the inbox, whole or not at all; the same content lies there once.

    Returns:
        The name of the submission's folder: the task's name and the content's hash.

    Raises:
        CardError: if the card does not hold up, or refers to what is not there.
    """
    card = cards.read(card_path)
    base, part = card_path.resolve().parent, line.private / "delivery"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        renamed = card.model_copy(
            update={"path": _copied(card, base, part), "checkpoint": _copied_checkpoint(card, base, part)}
        )
        (part / CARD).write_text(cards.dump(renamed), encoding="utf-8")
        name = f"{card.name}-{lineage.digest(part)[:16]}"
        inbox(line).mkdir(parents=True, exist_ok=True)
        if not (inbox(line) / name).exists():
            part.rename(inbox(line) / name)
        return name
    finally:
        shutil.rmtree(part, ignore_errors=True)


def announce(line_name: str, submission: str) -> None:
    """Emits the event that a submission lies in a line's inbox."""
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker

    emit_event(EVENT, resource={"prefect.resource.id": resource(line_name)}, payload={"submission": submission})
    EventsWorker.drain_all(timeout=30)


@flow(name="arrive", validate_parameters=False)
def arrive(root: str, submission: str) -> Onboarded | None:
    """Onboards a submission of the inbox; None if it was dealt with before.

    Raises:
        WorkspaceError, CardError, ...: if it cannot be onboarded; it is then put aside with the reason.
    """
    line = workspace.open_line(Path(root))
    with workspace.locked(line, patience=PATIENCE, name="arrivals"):
        folder = _folder(line, submission)
        if not folder.exists():
            get_run_logger().info(f"{submission} was dealt with before")
            return None
        try:
            found = onboard(str(line.root), str(_card(folder)), patience=PATIENCE, replace=True)
        except attempt.EXPECTED as error:
            _put(folder, _aside(line, "refused"), reason=errors.sentence(error))
            raise
        _put(folder, _aside(line, "arrived"), reason=f"onboarded as {found.step}")
        return found


@flow(name="sweep", validate_parameters=False)
def sweep(root: str) -> list[str]:
    """Onboards everything that lies in the inbox and is not being written any more; returns what it found."""
    line = workspace.open_line(Path(root))
    found = []
    for folder in sorted(inbox(line).iterdir()) if inbox(line).is_dir() else []:
        if folder.is_dir() and _NAME.fullmatch(folder.name) and _settled(folder):
            found.append(folder.name)
            try:
                arrive(root, folder.name)
            except attempt.EXPECTED as error:
                get_run_logger().error(f"{folder.name}: {errors.sentence(error)}")
    return found


def _folder(line: layout.Layout, submission: str) -> Path:
    """The folder of a submission named by an event, which may hold anything."""
    if not isinstance(submission, str) or not _NAME.fullmatch(submission):
        raise workspace.WorkspaceError(
            f"expected the name of a folder in the inbox; received {str(submission)[:60]!r}; name the submission as `otmf submit` does"
        )
    folder = inbox(line) / submission
    if folder.is_symlink() or (not folder.is_dir() and not (_aside(line, "arrived") / submission).exists()):
        raise workspace.WorkspaceError(
            f"expected a folder in the inbox; received {submission!r}, which is not there; submit the card again"
        )
    return folder


def _card(folder: Path) -> Path:
    """The one card of a submission; everything in the folder, and all it refers to, stays inside."""
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if len(found) != 1:
        raise cards.CardError(
            f"expected one card (YAML) in {folder.name}; received {len(found)}; submit one task per folder"
        )
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            raise cards.CardError(
                f"expected files in {folder.name}; received the link {path.name}; put the file itself there"
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


def _settled(folder: Path) -> bool:
    newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    return time.time() - newest > SETTLED


def _aside(line: layout.Layout, kind: str) -> Path:
    return line.private / kind


def _put(folder: Path, place: Path, *, reason: str) -> None:
    """Takes a submission out of the inbox and keeps its card with the reason; of what was refused, the data as well."""
    target = place / folder.name
    shutil.rmtree(target, ignore_errors=True)
    if place.name == "refused":
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
    else:
        target.mkdir(parents=True)
        shutil.copyfile(_card(folder), target / CARD)
        shutil.rmtree(folder)
    (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")


def _copied(card: cards.Card, base: Path, part: Path) -> str:
    source = gathering.resolve(card, base)
    if card.source == "embedded":
        return card.path
    name = "images" if source.is_dir() else "images" + source.suffix.lower()
    shutil.copytree(source, part / name) if source.is_dir() else shutil.copyfile(source, part / name)
    return name


def _copied_checkpoint(card: cards.Card, base: Path, part: Path) -> cards.Checkpoint | None:
    if card.checkpoint is None:
        return None
    names = gathering.copy_checkpoint(card, base, part)
    return cards.Checkpoint(path=names["checkpoint"], head=names["head"])
