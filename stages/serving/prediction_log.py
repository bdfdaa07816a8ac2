"""The log of what was predicted: one line of JSON for each answer, in a file per day, on disk before the answer goes out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.context.run import say

BLANK = b" " * 4096  # what is written, and taken back, to see whether there is space again


class PredictionLog:
    """The files in a folder, which several servers of one line may share.

    Attributes:
        trouble: why the last entry could not be kept; empty where it was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.trouble = folder, ""

    def append(self, entry: dict[str, Any]) -> None:
        """Keeps an entry, whole and on disk when this returns.

        An entry that fails leaves nothing behind. Half a line that somebody else's failure left (a server that was killed) is
        ended first, so that the entry stands on a line of its own.

        Raises:
            OSError: if it could not be kept.
        """
        try:
            with self._opened(entry["at"][:10]) as file:
                _add(file, json.dumps(entry).encode() + b"\n")
                os.fdatasync(file)
        except OSError as error:
            self._note(error.strerror or "the write failed")
            raise
        self._note("")

    def look_again(self) -> None:
        """Tries, after an entry that could not be kept, whether entries can be kept again."""
        if not self.trouble:
            return
        with contextlib.suppress(OSError):
            with self._opened(datetime.now(UTC).date().isoformat()) as file, _alone(file):
                end = os.fstat(file).st_size
                try:
                    _write(file, BLANK)
                    os.fdatasync(file)
                finally:
                    os.ftruncate(file, end)
            self._note("")

    @contextlib.contextmanager
    def _opened(self, day: str) -> Iterator[int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{day}.jsonl"
        new = not path.exists()
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield file
            if new:
                _keep_name(self.folder)
        finally:
            os.close(file)

    def _note(self, trouble: str) -> None:
        """Says on the server's own log when entries begin to fail, and when they are kept again: once, not for each request."""
        if trouble == self.trouble:
            return
        self.trouble = trouble
        with contextlib.suppress(OSError):  # the disk that is full may be the one this is written to
            say(f"otmf: predictions are refused: their log cannot be written ({trouble})" if trouble else
                "otmf: predictions are answered again: their log can be written")  # fmt: skip


@contextlib.contextmanager
def _alone(file: int) -> Iterator[None]:
    """Keeps other threads and processes from writing to the file: each opens it for itself."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _add(file: int, line: bytes) -> None:
    with _alone(file):
        end = os.fstat(file).st_size
        half = end > 0 and os.pread(file, 1, end - 1) != b"\n"
        try:
            _write(file, b"\n" + line if half else line)
        except OSError:
            os.ftruncate(file, end)
            raise


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _keep_name(folder: Path) -> None:
    """Has a new file's name on disk as well."""
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(found)
    finally:
        os.close(found)
