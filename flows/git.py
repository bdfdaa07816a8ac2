"""The only place that starts git."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from flows import process

_SIGNED = ("cherry-pick", "commit", "fetch", "merge", "push", "tag")  # what may put a name into the history
# What a folder's own settings may not have git start.
_QUIET = {"commit.gpgsign": "false", "core.hooksPath": os.devnull, "core.fsmonitor": "false"}
# Of a folder from somebody else, moreover: nothing is fetched by a command that it names, no commit is given other parents.
AS_STORED = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_CONFIG_COUNT": str(len(_QUIET)),
    **{f"GIT_CONFIG_KEY_{place}": key for place, key in enumerate(_QUIET)},
    **{f"GIT_CONFIG_VALUE_{place}": value for place, value in enumerate(_QUIET.values())},
}
_FOLDER = "40000"  # the mode of a tree within a tree


def run(folder: Path, *arguments: str, stdin: str | None = None) -> str:
    """Output of a git command in a folder, with an author where none is configured and no hooks of the user's."""
    return process.run(
        ["git", *(part for key, value in _QUIET.items() for part in ("-c", f"{key}={value}")), *arguments],
        folder=folder,
        extra=_author(folder) if arguments[0] in _SIGNED else None,
        stdin=stdin,
    )


class Objects:
    """The contents of a repository, read by one git that stays until `close`: starting one for each takes longer than reading.

    What git would show in their place (`git replace`, grafts) is not followed, and what is not there is not fetched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader: subprocess.Popen | None = None
        self._trees: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the git that reads."""
        if self._reader is not None:
            self._reader.communicate()
            self._reader = None

    def history(self) -> set[str]:
        """The commits of the line: the last one with all before it. Raises ProcessError if git cannot read them."""
        return set(process.run(["git", "rev-list", "HEAD"], folder=self._folder, extra=AS_STORED).split())

    def check(self) -> None:
        """Has git check every object. Raises ProcessError with what it finds."""
        command = ["git", "fsck", "--full", "--no-dangling", "--no-progress"]
        process.run(command, folder=self._folder, extra=AS_STORED)

    def blob(self, name: str) -> bytes:
        """A content by its id. Raises as `commit`."""
        return self._read(name, "blob")[1]

    def commit(self, revision: str) -> tuple[str, str]:
        """Ids of a commit and of its first parent; of the first commit's parent, empty.

        Raises:
            ProcessError: if there is no such object, or git cannot read it.
        """
        name, content = self._read(f"{revision}^{{commit}}", "commit")
        parents = [line[7:] for line in content.split(b"\n\n")[0].splitlines() if line.startswith(b"parent ")]
        return name, parents[0].decode() if parents else ""

    def tree(self, revision: str) -> dict[str, str]:
        """Path -> id of its content, for every file of a commit. Raises as `commit`."""
        return dict(self._files(*self._read(f"{revision}^{{tree}}", "tree")))

    def _files(self, name: str, content: bytes | None = None) -> dict[str, str]:
        """The files below a tree; trees that later commits share are walked once."""
        if name in self._trees:
            return self._trees[name]
        content = self._read(name, "tree")[1] if content is None else content
        found: dict[str, str] = {}
        start, length = 0, len(name) // 2
        while start < len(content):
            end = content.index(b"\0", start)
            mode, _, path = content[start:end].decode(errors="surrogateescape").partition(" ")
            start = end + 1 + length
            part = content[end + 1 : start].hex()
            if mode == _FOLDER:
                found |= {f"{path}/{below}": one for below, one in self._files(part).items()}
            else:
                found[path] = part
        self._trees[name] = found
        return found

    def _read(self, name: str, kind: str) -> tuple[str, bytes]:
        if "\n" in name:
            raise process.ProcessError(f"expected the name of a {kind} in git; received {name!r}; restore the record")
        if self._reader is None:
            self._reader = process.answering(["git", "cat-file", "--batch"], folder=self._folder, extra=AS_STORED)
        try:
            self._reader.stdin.write(f"{name}\n".encode())
            self._reader.stdin.flush()
        except BrokenPipeError:
            pass  # what it said is read below
        answer = self._reader.stdout.readline().decode(errors="replace").split()
        if not answer or not answer[-1].isdigit():
            if not answer:  # git ends at an object that it cannot read; the next question starts another
                self.close()
            raise process.ProcessError(
                f"expected {kind} {name} in git; received {answer[-1] if answer else 'none that can be read'}; run git fsck"
            )
        content = self._reader.stdout.read(int(answer[2]))
        self._reader.stdout.read(1)
        if answer[1] != kind:
            raise process.ProcessError(f"expected {kind} {name} in git; received a {answer[1]}; run git fsck")
        return answer[0], content


def name(content: bytes) -> str:
    """The id that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _author(folder: Path) -> dict[str, str]:
    fallback = {"NAME": "otmf", "EMAIL": "otmf@localhost"}
    missing = {part: value for part, value in fallback.items() if not _configured(folder, part.lower())}
    return {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}", value)
        for role in ("AUTHOR", "COMMITTER")
        for part, value in missing.items()
    }


def _configured(folder: Path, part: str) -> bool:
    try:
        return bool(process.run(["git", "config", f"user.{part}"], folder=folder).strip())
    except (process.ProcessError, OSError):
        return False
