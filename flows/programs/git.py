"""The only place that starts git."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.programs import git_settings, process
from flows.programs.git_settings import SETTINGS

__all__ = ["SETTINGS", "Objects", "OfAnotherUser", "commands", "environment", "name", "run"]
# What may put a name into the history, and what looks at the files of a folder.
_SIGNED = ("cherry-pick", "commit", "commit-tree", "fetch", "merge", "push", "tag")
_OF_FILES = (
    "add",
    "checkout",
    "cherry-pick",
    "commit",
    "diff",
    "merge",
    "read-tree",
    "reset",
    "status",
    "update-index",
)
_PLAIN = {name: ("--no-ext-diff", "--no-textconv") for name in ("diff", "log", "show")} | {
    "status": ("--ignore-submodules=all",),
    "fetch": ("--no-recurse-submodules", "--upload-pack=git-upload-pack"),
    "push": ("--receive-pack=git-receive-pack",),
}
_FOLDER, _REPOSITORY = "40000", "160000"  # modes of what lies in a tree: another tree, another repository
_ATTRIBUTES = git_settings.ATTRIBUTES.encode()
_FOREIGN = re.compile(r"detected dubious ownership in repository at '(.+?)'")


class OfAnotherUser(process.ProcessError):
    """A folder in which git does nothing, because another user owns it. The message has git's own remedy."""


def run(folder: Path, *arguments: str, extra: Mapping[str, str] | None = None, stdin: str | None = None) -> str:
    """Output of a git command in a folder.

    Nothing is run or converted that the folder's own settings or attributes name (`flows.programs.git_settings`), no hook either. Where
    nobody is configured as an author, there is one.

    Raises:
        ProcessError: if it fails, or if the folder's settings or a repository within it would lead git elsewhere.
    """
    settings = _settings(folder)
    git_settings.refuse(folder, settings)
    told = git_settings.environment(settings) | _bounds(folder)
    if arguments[0] in _OF_FILES and (folder / ".git").exists():
        _keep_bytes(folder)
        _require_alone(folder, told)
    if arguments[0] in _SIGNED:
        told |= git_settings.author(settings, os.environ)
    command = ["git", arguments[0], *_PLAIN.get(arguments[0], ()), *arguments[1:]]
    return _read(command, folder, told | dict(extra or {}), stdin).decode(errors="replace")


def environment(folder: Path) -> dict[str, str]:
    """For another program that may start git in a folder: what `run` tells it, with the user's identity and ways to remotes."""
    return git_settings.environment(_settings(folder)) | _bounds(folder)


def commands(folder: Path) -> list[str]:
    """Keys in a folder's own git configuration that name a command or lead git elsewhere; no git of ours follows them."""
    return git_settings.commands(_settings(folder))


def _settings(folder: Path) -> list[git_settings.Setting]:
    """All settings that git would go by in a folder."""
    command = ["git", "config", "--list", "--includes", "--show-scope", "--null"]
    return git_settings.parse(_read(command, folder, _bounds(folder)).decode(errors="surrogateescape"))


def _read(command: Sequence[str], folder: Path, environment: Mapping[str, str], stdin: str | None = None) -> bytes:
    try:
        return process.read(command, folder=folder, extra=environment, stdin=stdin)
    except process.ProcessError as error:
        if foreign := _FOREIGN.search(str(error)):
            raise OfAnotherUser(_of_another(foreign.group(1))) from None
        raise


def _of_another(place: str) -> str:
    return (
        f"expected a folder of yours; received from git: detected dubious ownership in repository at '{place}'; if you trust "
        f"its owner, run `git config --global --add safe.directory {shlex.quote(place)}`"
    )


def _bounds(folder: Path) -> dict[str, str]:
    """Keeps git from taking a folder above for the one that is meant."""
    return {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}


def _keep_bytes(folder: Path) -> None:
    """Says last in a repository's attributes that git stores the bytes on disk, whatever files of the line say."""
    place = folder / ".git/info"
    if not (folder / ".git").is_dir():
        return
    if (folder / ".git").is_symlink() or place.is_symlink():
        raise process.ProcessError(f"expected a folder at {place}; received a link, which leads elsewhere; remove it")
    path = place / "attributes"
    before = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    if before.endswith(b"\n" + _ATTRIBUTES) or before == _ATTRIBUTES:
        return
    with contextlib.suppress(PermissionError):  # of somebody else: nothing can be put into git there either
        place.mkdir(exist_ok=True)
        part = place / f"attributes.{os.getpid()}.part"
        part.write_bytes(before + (b"\n" if before and not before.endswith(b"\n") else b"") + _ATTRIBUTES)
        part.replace(path)


def _require_alone(folder: Path, environment: Mapping[str, str]) -> None:
    """Refuses a line with another repository in it: git would go by that one's settings there."""
    entries = _read(["git", "ls-files", "--stage", "-z"], folder, environment).decode(errors="replace").split("\0")
    inside = next((entry.partition("\t")[2] for entry in entries if entry.startswith(_REPOSITORY)), None)
    if inside is not None:
        raise process.ProcessError(
            f"expected files alone in the line; received a git repository at {inside}; take it out with `git rm --cached {shlex.quote(inside)}`, "
            "and move it away"
        )


class Objects:
    """The contents of a repository, read by one git that stays until `close`: starting one for each takes longer than reading.

    What git would show in their place (`git replace`, grafts) is not followed, and what is not there is not fetched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment: dict[str, str] | None = None
        self._reader: subprocess.Popen | None = None
        self._trees: dict[str, dict[str, tuple[str, str]]] = {}

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
        return set(self._run("rev-list", "HEAD").split())

    def check(self) -> None:
        """Has git check every object. Raises ProcessError with what it finds."""
        self._run("fsck", "--full", "--no-dangling", "--no-progress")

    def require(self) -> None:
        """Raises ProcessError if git does not work here; OfAnotherUser, with git's own remedy, where that is the reason."""
        self._run("rev-parse", "--git-dir")

    def _run(self, *arguments: str) -> str:
        return _read(["git", *arguments], self._folder, self._as_stored()).decode(errors="replace")

    def _as_stored(self) -> dict[str, str]:
        if self._environment is None:
            found = git_settings.environment(_settings(self._folder))
            self._environment = {**found, **_bounds(self._folder)}
        return self._environment

    def blob(self, name: str) -> bytes:
        """A content by its id. Raises as `commit`."""
        return self._object(name, "blob")[1]

    def commit(self, revision: str) -> tuple[str, str]:
        """Ids of a commit and of its first parent; of the first commit's parent, empty.

        Raises:
            ProcessError: if there is no such object, or git cannot read it.
        """
        name, content = self._object(f"{revision}^{{commit}}", "commit")
        parents = [line[7:] for line in content.split(b"\n\n")[0].splitlines() if line.startswith(b"parent ")]
        return name, parents[0].decode() if parents else ""

    def tree(self, revision: str) -> dict[str, str]:
        """Path -> id of its content, for every file of a commit. Raises as `commit`."""
        return {path: name for path, (_, name) in self.entries(revision).items()}

    def entries(self, revision: str) -> dict[str, tuple[str, str]]:
        """Path -> mode and id, for everything in a commit. Raises as `commit`."""
        return dict(self._files(*self._object(f"{revision}^{{tree}}", "tree")))

    def references(self) -> dict[str, str]:
        """Every reference by its full name -> the object that it names."""
        lines = self._run("for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        return {name: named for named, _, name in (line.partition(" ") for line in lines)}

    def staged(self) -> list[str]:
        """Paths that the next commit would hold otherwise than the last one does."""
        return self._run("diff-index", "--cached", "--name-only", "--no-ext-diff", "-z", "HEAD").split("\0")[:-1]

    def unwatched(self) -> list[str]:
        """Paths that git has been told not to look at (skip-worktree, assume-unchanged)."""
        entries = self._run("ls-files", "-v", "-z").split("\0")[:-1]
        return [entry[2:] for entry in entries if entry[0] == "S" or entry[0].islower()]

    def _files(self, name: str, content: bytes | None = None) -> dict[str, tuple[str, str]]:
        """What is below a tree; trees that later commits share are walked once."""
        if name in self._trees:
            return self._trees[name]
        content = self._object(name, "tree")[1] if content is None else content
        found: dict[str, tuple[str, str]] = {}
        start, length = 0, len(name) // 2
        while start < len(content):
            end = content.index(b"\0", start)
            mode, _, path = content[start:end].decode(errors="surrogateescape").partition(" ")
            start = end + 1 + length
            part = content[end + 1 : start].hex()
            if mode == _FOLDER:
                found |= {f"{path}/{below}": one for below, one in self._files(part).items()}
            else:
                found[path] = (mode, part)
        self._trees[name] = found
        return found

    def _object(self, name: str, kind: str) -> tuple[str, bytes]:
        if "\n" in name:
            raise process.ProcessError(f"expected the name of a {kind} in git; received {name!r}; restore the record")
        if self._reader is None:
            self._reader = process.answering(
                ["git", "cat-file", "--batch"], folder=self._folder, extra=self._as_stored()
            )
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
        if (
            _id(answer[1], content, len(answer[0])) != answer[0]
        ):  # git reads a loose object without asking whether it is the one
            raise process.ProcessError(f"expected {kind} {name} in git; received another content; run git fsck")
        return answer[0], content


def name(content: bytes) -> str:
    """The id that git gives to a content."""
    return _id("blob", content)


def _id(kind: str, content: bytes, length: int = 40) -> str:
    """The id of an object; as long as repositories of sha1 (40) or sha256 (64) have it."""
    method = hashlib.sha1 if length == 40 else hashlib.sha256
    return method(b"%s %d\0" % (kind.encode(), len(content)) + content, usedforsecurity=False).hexdigest()
