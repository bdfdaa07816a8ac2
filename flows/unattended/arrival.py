"""Tasks arriving unattended: a command, an event, a watched folder. Each ends in the flow `arrive`.

A submission lies in the line's inbox; an event only names it. Fine-tunings go side by side, as many as there are runs of
`arrive`; merges are one at a time, in the order accepted. The locks are the kernel's: whoever holds one and dies lets go of
it, and the next run of `arrive` or `sweep` deals with what was left.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.events import emit_event

from flows.changes import admission, attempt
from flows.changes.onboard import Onboarded, ahead, onboard
from flows.line import clones, workspace
from flows.programs import failures, process
from flows.services import recovery
from flows.unattended import inbox
from flows.versions import unfinished
from otmf.runtime import errors, layout

EVENT = "otmf.task.submitted"
PATIENCE = 24 * 3600.0


class Unforeseen(workspace.WorkspaceError):
    """A failure that nobody foresaw. The message names it; the trace lies with the submission once it is put aside."""


def resource(name: str) -> str:
    """The Prefect resource that events about a line name."""
    return f"otmf.line.{name}"


def announce(line_name: str, submission: str) -> None:
    """Emits the event that a submission lies in a line's inbox."""
    emit_event(EVENT, resource={"prefect.resource.id": resource(line_name)}, payload={"submission": submission})


@flow(name="arrive", validate_parameters=False)
def arrive(root: str, submission: str) -> Onboarded | None:
    """Onboards a submission of the inbox when its turn comes; None if it was dealt with before, or by another run.

    Raises:
        WorkspaceError, CardError, ...: if it cannot be onboarded. Where the reason is in it, it is put aside; where the
            reason is elsewhere (no space, no server), it keeps its place and is tried again.
    """
    line = workspace.open_line(Path(root))
    name = inbox.check_name(submission)
    with recovery.alive(line):
        if not inbox.accept(line, name):
            return _told(line, name)  # by another run, or before; a refusal is this one's as well
        with recovery.free(line, "arrivals") as at_once:
            if at_once and _first(line, name):
                return _deal(line, name)
        _ahead(line, name)
        with workspace.locked(line, patience=PATIENCE, name="arrivals"):
            return _deal(line, name)


@flow(name="sweep", validate_parameters=False)
def sweep(root: str) -> list[str]:
    """Announces what lies in the inbox unannounced, and deals with what a dead run left; returns the names of both."""
    line = workspace.open_line(Path(root))
    with recovery.free(line, "sweeping") as alone, recovery.alive(line):
        if not alone:
            return []
        recovery.reap(line)
        _tidy(line)
        unfinished.complete(line, get_run_logger().warning)
        left = [name for name, place in inbox.waiting(line) if place.due <= datetime.now(UTC)]
        fresh = [name for name in inbox.settled(line) if _accepted(line, name)]
        for name in fresh:
            announce(workspace.params(line).line, name)
        if left:
            with recovery.free(line, "arrivals") as at_once:
                if at_once:
                    _deal(line, left[-1])
        return left + fresh


def _first(line: layout.Layout, name: str) -> bool:
    """Whether nothing that is due comes before a submission: else it is trained while that is dealt with."""
    due = [other for other, place in inbox.waiting(line) if place.due <= datetime.now(UTC) or other == name]
    return due[:1] in ([], [name])


def _accepted(line: layout.Layout, name: str) -> bool:
    """Accepts a submission; what cannot be accepted stops no other one, and is said."""
    try:
        return inbox.accept(line, name)
    except failures.EXPECTED as error:
        get_run_logger().warning(f"{name}: {errors.sentence(error)}")
        return False


def _tidy(line: layout.Layout) -> None:
    """Removes the clones of runs that died after their submission had been dealt with."""
    for folder in (line.private / "attempts").glob("ahead-*"):
        with recovery.free(line, folder.name) as dead:
            if dead and inbox.place(line, folder.name.removeprefix("ahead-")) is None:
                clones.drop(line, folder.name)


def _ahead(line: layout.Layout, name: str) -> None:
    """Fine-tunes a submission before its turn, while another merge goes on."""
    try:
        with workspace.locked(line, patience=PATIENCE, name=inbox.turn(name)):
            place = inbox.place(line, name)
            if place is not None and not place.trained:
                ahead(line, inbox.card(line, name), inbox.turn(name))
                inbox.note_trained(line, name)
    except failures.EXPECTED as error:  # it will say so again when its turn comes
        get_run_logger().warning(f"{name}: {errors.sentence(error)}")


def _deal(line: layout.Layout, name: str) -> Onboarded | None:
    """Onboards every submission that is due, in order, up to one; to be called by the holder of the lock on arrivals.

    Failures of the others are said in the log; of the one itself, raised.
    """
    own = inbox.place(line, name)
    if own is None:
        return _told(line, name)
    now, found = datetime.now(UTC), None
    for other, place in inbox.waiting(line):
        if place.number <= own.number and (place.due <= now or other == name):
            try:
                found = _onboard(line, other)
            except failures.EXPECTED as error:
                if other == name:
                    raise
                get_run_logger().error(f"{other}: {errors.sentence(error)}")
    return found


def _onboard(line: layout.Layout, name: str) -> Onboarded | None:
    lock = inbox.turn(name)
    with workspace.locked(line, patience=PATIENCE, name=lock):
        if inbox.place(line, name) is None:  # withdrawn meanwhile
            return _told(line, name)
        try:
            return _dealt_with(line, name)
        finally:
            if inbox.place(line, name) is None:
                clones.drop(line, lock)


def _dealt_with(line: layout.Layout, name: str) -> Onboarded | None:
    try:
        step, found = _taken_up(line, name)
    except failures.EXPECTED as error:
        said = inbox.in_words(line, name, error)
        if _lasting(error) or not inbox.postpone(line, name, said):
            inbox.put_aside(line, name, "refused", said)
        raise
    except Exception as error:  # nobody foresaw it: it is tried again as often as usual, and stops nothing
        said = f"expected to deal with it; received {type(error).__name__}: {inbox.in_words(line, name, error)}"
        if not inbox.postpone(line, name, said):
            way = f"a mistake of otmf's, or of what it stands on; its trace is in {inbox.TRACE}: report it, then submit again"
            inbox.put_aside(line, name, "refused", f"{said}; {way}", trace=traceback.format_exc())
        raise Unforeseen(said) from error
    inbox.put_aside(line, name, "arrived", f"onboarded as {step}")
    return found


def _taken_up(line: layout.Layout, name: str) -> tuple[str, Onboarded | None]:
    """The step a submission's task has, and what its onboarding came to, if there was anything to do.

    What can be known to be wrong is met before a flow or a run in the tracking store begins.
    """
    path = inbox.card(line, name)
    opened, card = admission.open_all(line.root, path)
    with admission.gathered(opened, card, path) as gathered:
        if gathered is None:
            get_run_logger().info(f"{name}: the same card with the same data is onboarded already")
            return admission.place(workspace.params(line), card)[0], None
        found = onboard(str(line.root), str(path), PATIENCE, None, True, gathered)
    return found.step, found


def _told(line: layout.Layout, name: str) -> None:
    """What another run made of a submission: nothing more to do, or its refusal."""
    kind, reason = inbox.outcome(line, name) or ("arrived", "dealt with")
    if kind == "refused":
        raise workspace.WorkspaceError(f"{name} was refused: {reason}")
    get_run_logger().info(f"{name}: {reason}, by another run")


def _lasting(error: BaseException) -> bool:
    """Whether a failure is the submission's own, so that trying again would not help."""
    if isinstance(error, process.ProcessError):
        return error.lasting
    return isinstance(error, (ValueError, attempt.Refused))
