"""The version that serves, over HTTP: a process with the model, told which version that is to be as the ledger moves on."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from flows.line import branch, workspace
from flows.programs import failures, process
from flows.versions import history, recorded_files, unfinished
from otmf.provenance import ledger
from otmf.runtime import errors, layout, processes
from otmf.runtime.environment import WARM

ANY = {"", "0.0.0.0", "::"}  # addresses to listen on that are no names of this machine
EVERY = 1.0
SPARE = 5.0  # seconds beyond the grace until a server that does not end is killed
ENTRY = '{"prediction_id"'  # how each entry of the log begins
KEYS = {"prediction_id", "version", "step", "sha256", "record", "record_sha256", "task", "at", "results"}


def notice(line: layout.Layout) -> Path:
    """The file that names the version to serve."""
    return line.private / "serving.json"


def point(line: layout.Layout) -> int:
    """Brings the notice in line with the champion, whose files lie in a clone of its own; returns its version.

    Raises:
        WorkspaceError: if the line has no version, DVC's cache has not all of it, or HEAD is elsewhere than on the line's branch: what
            serves does not change with what is looked at.
    """
    branch.require(line.root)
    records = [record for record in ledger.read(line.root) if record.statement.decision.version is not None]
    champion = history.champion([record.statement.decision for record in records])
    if champion is None:
        raise workspace.WorkspaceError(
            "expected a line with a version to serve; received one without; onboard a task first"
        )
    made = next(record for record in records if record.statement.decision.version == champion.version)
    found = recorded_files.clone(line, champion.version)
    content = {
        "root": str(found.root), "version": champion.version, "step": champion.step, "sha256": champion.sha256,
        "files": recorded_files.files(records, made), "record": made.name, "record_sha256": made.sha256,
    }  # fmt: skip
    text, path = json.dumps(content), notice(line)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return champion.version


def serve(line: layout.Layout, *, host: str, port: int, limits: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Serves until it is asked to end by SIGTERM or an interrupt; follows the line's champion. Returns an exit code.

    Args:
        line: whose champion serves.
        host, port: to listen on.
        limits: of requests, as the stage `serve` takes them; `grace` is how many seconds those under way get to end.
        say: what is to be told meanwhile.

    Raises:
        WorkspaceError: if the address cannot be listened on, the process with the model is killed by others, or as `point`.
    """
    ending = _Ending()
    with ending.watched():
        try:
            _require_free(host, port)
            line.private.mkdir(exist_ok=True)
            unfinished.complete(line, say)
            point(line)
            say(f"http://{host}:{port}/predict, /ready, /health; ctrl-C ends it")
            ending.server = _start(line, host, port, limits)
            _keep_following(line, ending.server, say)
        except _Asked:
            pass
        return _finish(ending, limits["grace"] + SPARE, say)


class _Asked(BaseException):
    """Somebody asked this process to end. No error: nothing that handles errors is to take it for one."""


class _Ending:
    """Passes the signals that ask for an end on to the process with the model, which answers what is under way before it ends.

    Attributes:
        asked: whether there was one.
        server: the process with the model; None before it is started.
    """

    def __init__(self) -> None:
        self.asked = False
        self.server: subprocess.Popen | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        before = {one: signal.signal(one, self._take) for one in processes.heeded()}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.server is not None:
            self.server.send_signal(number)
        first, self.asked = not self.asked, True
        if first and (self.server is None or self.server.poll() is None):
            raise _Asked


def _start(line: layout.Layout, host: str, port: int, limits: Mapping[str, Any]) -> subprocess.Popen:
    arguments = [str(notice(line)), str(line.predictions), host, str(port), json.dumps(dict(limits))]
    return subprocess.Popen(
        [sys.executable, "-m", "stages", "serve", *arguments],
        cwd=line.root, env={**process.environment(), WARM: ""}, start_new_session=True, preexec_fn=process.die_with_parent,
    )  # fmt: skip


def _keep_following(line: layout.Layout, server: subprocess.Popen, say: Callable[[str], None]) -> None:
    """Points the server at the line's champion for as long as it runs."""
    head, said = None, ""
    while server.poll() is None:
        now = _changed(line)
        if now is None or now != head:
            trouble = _follow(line)
            if trouble and trouble != said:
                with contextlib.suppress(OSError):  # where this is written to may be as full as the line's disk
                    say(f"the version that serves stays as it is: {trouble}")
            head, said = (head if trouble else now), trouble
        time.sleep(10 * EVERY if said else EVERY)


def _changed(line: layout.Layout) -> int | None:
    """When the ledger changed last; None where that cannot be told in this moment."""
    try:
        return (line.root / ledger.FOLDER).stat().st_mtime_ns
    except OSError:
        return None


def _finish(ending: _Ending, seconds: float, say: Callable[[str], None]) -> int:
    """Waits for the server to end, for as long as it may take, and then kills it."""
    if ending.server is None:
        return 0
    try:
        code = ending.server.wait(seconds if ending.asked else None)
    except subprocess.TimeoutExpired:
        say("the process with the model did not end within its grace; it is killed")
        process.end(ending.server)
        code = 0
    if code >= 0 or ending.asked:  # asked while its interpreter started, it was killed by the signal
        return max(code, 0)
    raise workspace.WorkspaceError(
        f"expected the process with the model to go on; received its end by signal {-code} ({signal.Signals(-code).name}); see what killed "
        "it (too little memory, say), then start otmf serve again"
    )


def _require_free(host: str, port: int) -> None:
    troubles: list[Exception] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        found, troubles = [], [error]
    for family, _, _, _, address in found:
        try:
            socket.create_server(address, family=family).close()
        except OSError as error:
            troubles.append(error)
    absent = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a name may lead to a family that this machine has not
    if troubles and (len(troubles) >= len(found) or any(getattr(one, "errno", 0) not in absent for one in troubles)):
        reason = str(getattr(troubles[0], "strerror", None) or troubles[0]).partition(" (")[0].lower()
        raise workspace.WorkspaceError(
            f"expected an address that is free to listen on; received {host}:{port}: {reason}; give another --port or --host"
        ) from troubles[0]


def _follow(line: layout.Layout) -> str:
    """Points at the champion; what serves goes on serving where the line cannot be read in this moment, for the reason returned."""
    try:
        point(line)
        return ""
    except failures.EXPECTED as error:
        return errors.sentence(error)


def predictions(line: layout.Layout, prediction_id: str = "") -> Iterator[dict[str, Any]]:
    """Everything that was predicted, latest day first; of an id alone where one is given.

    A full disk or a kill can cut a line off; what an earlier version of otmf wrote behind it, on the same line, counts as well.
    """
    for path in sorted(line.predictions.glob("*.jsonl"), reverse=True):
        with path.open(encoding="utf-8", errors="replace") as stream:
            for text in stream:
                if prediction_id in text:
                    found = _entry(text)
                    if found is not None:
                        yield found


def _entry(text: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        found = json.loads(text[max(text.rfind(ENTRY), 0) :])
        if isinstance(found, dict) and found.keys() >= KEYS and ("images" in found or "texts" in found):
            return found
    return None


def trace(line: layout.Layout, prediction_id: str) -> tuple[dict[str, Any], ledger.Record]:
    """A prediction and the record of the version it was made with.

    Raises:
        WorkspaceError: if nothing of that id was predicted here, or the ledger's record is another.
    """
    found = next((one for one in predictions(line, prediction_id) if one["prediction_id"] == prediction_id), None)
    if found is None:
        raise workspace.WorkspaceError(
            f"expected the id of a prediction made with this line; received {prediction_id[:60]!r}; look for it where it was served"
        )
    named = prediction_id.partition("-")[0]
    if named != f"v{found['version']}":
        raise workspace.WorkspaceError(
            f"expected a prediction of {named[:20]}, as its id says; received one of v{found['version']}; the log was altered"
        )
    record = next((one for one in ledger.read(line.root) if one.name == found["record"]), None)
    if record is None or record.sha256 != found["record_sha256"] or record.statement.decision.sha256 != found["sha256"]:
        raise workspace.WorkspaceError(
            f"expected {found['record']} with sha256 {found['record_sha256'][:16]}, as the prediction names it; received "
            f"{record.sha256[:16] if record else 'none'}; see what `otmf verify` says"
        )
    if record.statement.decision.version != found["version"]:
        raise workspace.WorkspaceError(
            f"expected {record.name} to be of v{found['version']}, as the prediction names it; received one of "
            f"v{record.statement.decision.version}; the log was altered"
        )
    return found, record
