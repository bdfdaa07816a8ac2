"""The version that serves, over HTTP: a process with the model, told which version that is to be as the ledger moves on."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows import failures, process, recorded, versions, workspace
from otmf import errors, layout, ledger
from otmf.environment import WARM

EVERY = 1.0


def log(line: layout.Layout) -> Path:
    """The folder of what was predicted, one file per day."""
    return line.private / "predictions"


def notice(line: layout.Layout) -> Path:
    """The file that names the version to serve."""
    return line.private / "serving.json"


def point(line: layout.Layout) -> int:
    """Brings the notice in line with the champion, whose files lie in a clone of its own; returns its version.

    Raises:
        WorkspaceError: if the line has no version, or DVC's cache has not all of it.
    """
    records = [record for record in ledger.read(line.root) if record.statement.decision.version is not None]
    champion = versions.champion([record.statement.decision for record in records])
    if champion is None:
        raise workspace.WorkspaceError(
            "expected a line with a version to serve; received one without; onboard a task first"
        )
    made = next(record for record in records if record.statement.decision.version == champion.version)
    found = recorded.clone(line, champion.version)
    content = {
        "root": str(found.root), "version": champion.version, "step": champion.step, "sha256": champion.sha256,
        "files": recorded.files(records, made), "record": made.name, "record_sha256": made.sha256,
    }  # fmt: skip
    text, path = json.dumps(content), notice(line)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return champion.version


def serve(
    line: layout.Layout, *, host: str, port: int, largest_mib: float, most: int, say: Callable[[str], None]
) -> int:
    """Serves until interrupted; follows the line's champion. Returns the exit code of the process with the model.

    Raises:
        WorkspaceError: if the address cannot be listened on, or as `point`.
    """
    _require_free(host, port)
    line.private.mkdir(exist_ok=True)
    point(line)
    arguments = [str(notice(line)), str(log(line)), host, str(port), str(largest_mib), str(most)]
    server = subprocess.Popen(
        [sys.executable, "-m", "stages", "serve", *arguments],
        cwd=line.root, env={**process.environment(), WARM: ""}, start_new_session=True, preexec_fn=process.die_with_parent,
    )  # fmt: skip
    head, said = None, ""
    try:
        while server.poll() is None:
            now = (line.root / ledger.FOLDER).stat().st_mtime_ns
            if now != head:
                trouble = _follow(line)
                if trouble and trouble != said:
                    say(f"the version that serves stays as it is: {trouble}")
                head, said = (head if trouble else now), trouble
            time.sleep(10 * EVERY if said else EVERY)
    finally:
        process.end(server)
    return server.returncode


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


def predictions(line: layout.Layout) -> Iterator[dict[str, Any]]:
    """Everything that was predicted, latest day first."""
    for path in sorted(log(line).glob("*.jsonl"), reverse=True):
        with path.open(encoding="utf-8") as stream:
            for text in stream:
                with contextlib.suppress(ValueError):  # a line that a full disk cut off, say
                    found = json.loads(text)
                    if isinstance(found, dict) and "prediction_id" in found:
                        yield found


def trace(line: layout.Layout, prediction_id: str) -> tuple[dict[str, Any], ledger.Record]:
    """A prediction and the record of the version it was made with.

    Raises:
        WorkspaceError: if nothing of that id was predicted here, or the ledger's record is another.
    """
    found = next((one for one in predictions(line) if one["prediction_id"] == prediction_id), None)
    if found is None:
        raise workspace.WorkspaceError(
            f"expected the id of a prediction made with this line; received {prediction_id[:60]!r}; look for it where it was served"
        )
    record = next((one for one in ledger.read(line.root) if one.name == found["record"]), None)
    if record is None or record.sha256 != found["record_sha256"] or record.statement.decision.sha256 != found["sha256"]:
        raise workspace.WorkspaceError(
            f"expected {found['record']} with sha256 {found['record_sha256'][:16]}, as the prediction names it; received "
            f"{record.sha256[:16] if record else 'none'}; see what `otmf verify` says"
        )
    return found, record
