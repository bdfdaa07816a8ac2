"""The line's own branch: what must hold of it before a change, and how it moves to another commit, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flows.programs import git, process
from flows.programs.failures import WorkspaceError
from otmf.runtime import layout

NAME = "main"
_REF = f"refs/heads/{NAME}"
_TAGS = "refs/tags/"
_VERSIONS = f"{_TAGS}model/"
_LOCKS = ("index.lock", "HEAD.lock", "packed-refs.lock", f"{_REF}.lock")
_YOUNG = 2.0  # seconds; a lock of that age may be of a git that has only just started


class Move(BaseModel):
    """A move under way, noted before it begins: from which commit to which, and the tag that the latter gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: str
    commit: str
    tag: str | None = None


def require(root: Path) -> None:
    """Refuses a line whose HEAD is elsewhere than on its branch. Raises WorkspaceError with what to do."""
    if at := elsewhere(root):
        raise WorkspaceError(
            f"expected HEAD of {root.name} on the line's branch {NAME}; received {at}; {way_back(root)}, then call it again"
        )


def way_back(root: Path) -> str:
    """How a person gets from what is checked out back to the line's branch."""
    dvc = "dvc" if shutil.which("dvc") else str(Path(sys.executable).parent / "dvc")
    folder = shlex.quote(str(root))
    return f"go back with `git -C {folder} checkout {NAME}` and `{shlex.quote(dvc)} --cd {folder} checkout`"


def require_versions(root: Path) -> None:
    """Refuses a line whose branch lacks a version that has a tag. Raises WorkspaceError with what to do."""
    if git.run(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise WorkspaceError(
            f"expected all of the history of {root.name}; received a shallow clone; fetch the rest with `git fetch --unshallow`"
        )
    if missing := _unmerged_tags(root):
        raise WorkspaceError(
            f"expected branch {NAME} to have every version; received tag {missing[0]}, whose commit is not on it; bring the branch back with "
            f"`git reset --hard {missing[0]}`, or delete the tag if that version is to go for good"
        )


def elsewhere(root: Path) -> str:
    """Where HEAD is if it is not on the line's branch, for a person; empty if it is."""
    try:
        found = git.run(root, "symbolic-ref", "--quiet", "HEAD").strip()
    except process.ProcessError:
        return f"a detached HEAD at {git.run(root, 'describe', '--tags', '--always', 'HEAD').strip()}"
    return "" if found == _REF else f"branch {found.removeprefix('refs/heads/')}"


def born(root: Path) -> bool:
    """Whether HEAD has a commit: a branch that somebody has only named has none."""
    try:
        git.run(root, "rev-parse", "--quiet", "--verify", "HEAD")
    except process.ProcessError:
        return False
    return True


def head(root: Path) -> str:
    """The commit the branch is at."""
    return git.run(root, "rev-parse", "--verify", f"{_REF}^{{commit}}").strip()


def has(root: Path, commit: str) -> bool:
    """Whether the branch has a commit."""
    try:
        git.run(root, "merge-base", "--is-ancestor", commit, _REF)
    except process.ProcessError:  # not, or nobody has it any more
        return False
    return True


def move(line: layout.Layout, commit: str, *, tag: str | None = None) -> None:
    """Moves the branch and the files of a clean line forward to a commit, which gets a tag; all is as before if that fails.

    Raises:
        ProcessError, WorkspaceError: for the reason that git gives, a tag of that name among them.
    """
    root, before = line.root, head(line.root)
    if git.run(root, "merge-base", before, commit).strip() != before:
        raise WorkspaceError(
            f"expected a commit that follows {before[:12]}; received {commit[:12]}, which does not; the line is as it was"
        )
    _free(root)
    with contextlib.suppress(
        process.ProcessError
    ):  # of files with changes it says so; the next command refuses those that matter
        git.run(root, "update-index", "-q", "--refresh")
    git.run(root, "read-tree", "-m", "-u", "--dry-run", before, commit)  # refuses what a file of yours is in the way of
    found = Move(before=before, commit=commit, tag=tag)
    _write(line, found)
    try:
        named = f"create {_TAGS}{tag} {commit}\n" if tag else ""
        git.run(root, "update-ref", "--stdin", "-m", "otmf: land", stdin=f"{named}update {_REF} {commit} {before}\n")
        git.run(root, "read-tree", "-m", "-u", before, commit)
    except BaseException:
        _take_back(line, found)
        raise
    _note(line).unlink()


def cut_off(line: layout.Layout) -> bool:
    """Whether a move was cut off, or is under way: who holds the line knows which."""
    return _note(line).exists()


def complete(line: layout.Layout) -> str:
    """Completes or takes back a move that a death cut off, and says which; empty if there was none. HEAD is on the branch.

    Where somebody has committed since, their commit and their files stay as they are.

    Raises:
        ProcessError, WorkspaceError: if it can be neither.
    """
    if not _note(line).exists():
        return ""
    root, found = line.root, _read(line)
    _free(root)
    if not has(root, found.commit):
        _drop_tag(root, found)
        if head(root) == found.before:
            _restore(root, found.before, found.commit)
        _note(line).unlink()
        return f"a change that was cut off before it landed ({found.commit[:12]}) was taken back"
    if head(root) == found.commit:
        _restore(root, found.commit, found.before)
    else:
        _require_kept(root, found)
    if found.tag and not git.run(root, "for-each-ref", f"{_TAGS}{found.tag}"):
        git.run(root, "update-ref", f"{_TAGS}{found.tag}", found.commit, "")
    _note(line).unlink()
    return f"a change that was cut off while it landed ({found.tag or found.commit[:12]}) was completed"


def _take_back(line: layout.Layout, found: Move) -> None:
    root = line.root
    _free(root)
    if head(root) == found.commit:
        git.run(root, "update-ref", "-m", "otmf: undo", _REF, found.before, found.commit)
    _drop_tag(root, found)
    _restore(root, found.before, found.commit)
    _note(line).unlink()


def _drop_tag(root: Path, found: Move) -> None:
    """Deletes the tag that a move has given, if it has."""
    asked = ("for-each-ref", "--format=%(objectname)", f"{_TAGS}{found.tag}")
    if found.tag and git.run(root, *asked).strip() == found.commit:
        git.run(root, "update-ref", "-d", f"{_TAGS}{found.tag}", found.commit)


def _require_kept(root: Path, found: Move) -> None:
    """Refuses a line where a commit on top of a move that was cut off has undone it: it was made of files half written."""
    names = git.run(root, "diff", "--name-only", "--no-renames", "-z", found.before, found.commit).split("\0")[:-1]
    with git.Objects(root) as objects:
        moved, now, earlier = (objects.tree(commit) for commit in (found.commit, head(root), found.before))
    undone = [name for name in names if now.get(name) == earlier.get(name) != moved.get(name)]
    if undone:
        raise WorkspaceError(
            f"expected {undone[0]} as of {found.commit[:12]}, which landed while otmf was cut off; received the file as it was before, from a commit "
            f"made since; call `git restore --source={found.commit[:12]} --staged --worktree -- {shlex.join(undone)}` and `git commit`, then call this again"
        )


def _restore(root: Path, commit: str, other: str) -> None:
    """Brings files and index to a commit where a move between it and another was cut off.

    Raises:
        WorkspaceError: if a file that the two have differently is neither's: somebody has edited it since.
    """
    _free(root)
    names = git.run(root, "diff", "--name-only", "--no-renames", "-z", commit, other).split("\0")[:-1]
    with git.Objects(root) as objects:
        here, there = objects.tree(commit), objects.tree(other)
        edited = [name for name in names if not _of_either(root / name, objects, here.get(name), there.get(name))]
    if edited:
        raise WorkspaceError(
            f"expected {edited[0]} as of {commit[:12]} or {other[:12]}, between which a change was cut off; received another content; keep a copy "
            f"of it elsewhere, call `git checkout {commit[:12]} -- {edited[0]}`, then call this again"
        )
    for name in names:
        if name not in here:
            (root / name).unlink(missing_ok=True)
    git.run(root, "read-tree", "--reset", "-u", commit)


def _of_either(path: Path, objects: git.Objects, *names: str | None) -> bool:
    """Whether a file is gone, or one of some contents, whole or cut off."""
    if not path.is_file() or path.is_symlink():
        return not path.exists()
    content = path.read_bytes()
    return any(objects.blob(name).startswith(content) for name in names if name is not None)


def _unmerged_tags(root: Path) -> list[str]:
    """Tags of versions that the branch does not have, the newest version first."""
    found = git.run(root, "for-each-ref", "--format=%(refname:strip=2)", "--no-merged", _REF, _VERSIONS).split()
    return sorted(found, key=_number, reverse=True)


def _number(tag: str) -> int:
    number = tag.removeprefix("model/v")
    return int(number) if number.isdigit() else 0


def _note(line: layout.Layout) -> Path:
    """Is there from before a move begins until it has ended, one way or the other."""
    return line.private / "moving.json"


def _write(line: layout.Layout, found: Move) -> None:
    line.private.mkdir(exist_ok=True)
    part = _note(line).with_suffix(".part")
    part.write_text(found.model_dump_json(), encoding="utf-8")
    part.replace(_note(line))


def _read(line: layout.Layout) -> Move:
    try:
        return Move.model_validate_json(_note(line).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkspaceError(
            f"expected a note of two commits in {_note(line)}; received another content; look at `git log` and `git status`, bring the line to "
            "one of its commits, then delete the note"
        ) from error


def _free(root: Path) -> None:
    """Removes locks that a dead git left; waits a little for those of a living one.

    Raises:
        WorkspaceError: naming a lock that stays.
    """
    end = time.monotonic() + 2 * _YOUNG
    while held := [path for path in _locks(root) if not _removed(path, root)]:
        if time.monotonic() > end:
            raise WorkspaceError(
                f"expected git in {root.name} to be free; received the lock {held[0]}; wait for the git command that holds it, or, if none "
                f"runs, delete it with `rm {held[0]}`"
            )
        time.sleep(0.2)


def _locks(root: Path) -> list[Path]:
    asked = [part for name in _LOCKS for part in ("--git-path", name)]
    found = [root / name for name in git.run(root, "rev-parse", *asked).splitlines()]
    return [path for path in found if path.exists()]


def _removed(path: Path, root: Path) -> bool:
    if _abandoned(path, root):
        path.unlink(missing_ok=True)
    return not path.exists()


def _abandoned(path: Path, root: Path) -> bool:
    """Whether it is certain that nobody holds a lock of git: no process has it open, and none of git's works in this folder."""
    processes = Path("/proc")
    try:
        if time.time() - path.stat().st_mtime < _YOUNG or not (processes / "self/fd").is_dir():
            return False
        return not any(_holds(one, path, root) for one in processes.iterdir() if one.name.isdigit())
    except OSError:
        return False


def _holds(process_folder: Path, path: Path, root: Path) -> bool:
    """Whether a process has a file open, or is a git at work in a folder; one that cannot be looked at and is git's may be."""
    try:
        name = (process_folder / "comm").read_text(encoding="utf-8").strip()
    except OSError:  # it has ended
        return False
    try:
        if name.startswith("git") and Path(os.readlink(process_folder / "cwd")).is_relative_to(root):
            return True
        return str(path) in _opened(process_folder / "fd")
    except PermissionError:
        return name.startswith("git")
    except OSError:
        return False


def _opened(folder: Path) -> Iterator[str]:
    """What the file descriptors of a process lead to."""
    for one in folder.iterdir():
        try:
            yield os.readlink(one)
        except OSError:
            continue
