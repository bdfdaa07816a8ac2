"""The line moved to an attempt's commit, with what DVC holds of it.

DVC's checkout looks at everything a line has, which takes seconds where there are many tasks. What differs between two versions is
known from their locks; it lies in the attempt's clone, which ends with the landing, and is renamed into its place. Whatever the clone
has not is left to DVC.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ruamel.yaml import YAML

from flows.dvc import commands, lockfile
from flows.line import branch, remotes, workspace
from flows.programs import git, process
from flows.programs.failures import WorkspaceError
from otmf.provenance import ledger
from otmf.runtime import errors, layout

MOMENT = 10.0  # seconds that a landing or a decision of others is waited for in any case
PATIENCE = 600.0  # seconds that an attempt waits for decisions and for landings of others before its own


class Overtaken(workspace.WorkspaceError):
    """An attempt whose line has changed since it began, by more than decisions: it has to be made again from there."""


@contextlib.contextmanager
def turn(line: layout.Layout, *, patience: float = 0, say: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Holds the line for one decision or one landing: on its branch, without changes of yours, and up to date.

    What a death cut off is completed first. Work that takes long goes on in clones meanwhile.

    Args:
        line: the folder.
        patience: seconds to wait for others' decisions and landings.
        say: takes sentences on what was completed.

    Raises:
        WorkspaceError: if another process holds it for longer, or it is not as it has to be.
    """
    with workspace.locked(line, patience=max(patience, MOMENT)):
        branch.require(line.root)
        for said in finish(line):
            say(said)
        workspace.require_clean(line)
        remotes.synchronise(line)
        branch.require_versions(line.root)
        yield


def land(line: layout.Layout, attempt: layout.Layout, *, tag: str | None = None, outputs: bool = True) -> str:
    """Moves the line, and its git remote before it, to the attempt's commit, forward only; then brings its outputs there,
    and the attempt goes. To be called by the holder of the line's turn.

    Args:
        line, attempt: the line, and a clone of it that is ahead.
        tag: a name for the commit, which nothing has yet.
        outputs: whether the attempt changes any that DVC holds.

    Returns:
        Empty, or one sentence if the commit has landed but its outputs could not be brought there.

    Raises:
        WorkspaceError, ProcessError: if it did not land; the line is as it was.
    """
    git.run(line.root, "fetch", "--quiet", "--no-tags", str(attempt.root), "HEAD")
    commit = git.run(attempt.root, "rev-parse", "HEAD").strip()
    if tag and git.run(line.root, "tag", "--list", tag).strip():
        raise WorkspaceError(
            f"expected no tag {tag} in {line.root.name}; received one; it is of another commit and is never moved: see `git log {tag}`"
        )
    remotes.publish(line, attempt, commit, tag, outputs=outputs)
    before, unfinished = branch.head(line.root), _mark(line).exists()
    if outputs:
        _mark(line).touch()
    try:
        branch.move(line, commit, tag=tag)
    except BaseException:
        if outputs and not unfinished and not branch.cut_off(line):  # else whoever comes next may complete it
            _mark(line).unlink(missing_ok=True)
        raise
    try:
        if outputs:
            commands.checkout(line.root) if unfinished else _bring(line, attempt, before)
            _mark(line).unlink()
    except (process.ProcessError, OSError) as error:
        return f"the commit has landed, its outputs not yet ({_short(error)}); the next command brings them, or `dvc checkout` in {line.root}"
    shutil.rmtree(attempt.root, ignore_errors=True)
    return ""


def rebase(line: layout.Layout, attempt: layout.Layout) -> None:
    """Puts an attempt that is not committed yet on top of the decisions that were made since it began.

    Raises:
        Overtaken: if the line has changed by more than records of decisions.
    """
    began, now = (git.run(root, "rev-parse", "HEAD").strip() for root in (attempt.root, line.root))
    if began == now:
        return
    git.run(attempt.root, "fetch", "--quiet", "--no-tags", str(line.root), now)
    if git.run(attempt.root, "merge-base", began, now).strip() != began:
        raise Overtaken(
            f"expected {line.root.name} to go on from {began[:12]}, where {attempt.root.name} began; received {now[:12]}, which does not follow it; "
            "call it again"
        )
    names = git.run(attempt.root, "diff", "--name-only", "--no-renames", "-z", began, now).split("\0")[:-1]
    others = [name for name in names if not name.startswith(f"{ledger.FOLDER}/")]
    if others:
        raise Overtaken(
            f"expected {line.root.name} as it was when {attempt.root.name} began, but for decisions; received changes of {', '.join(others[:3])}; "
            "call it again: what is not concerned comes from the cache"
        )
    git.run(attempt.root, "reset", "--quiet", "--soft", now)
    git.run(attempt.root, "checkout", "--quiet", now, "--", *names)


def finish(line: layout.Layout) -> list[str]:
    """Completes or takes back what a death cut off of a landing; to be called by the holder of the line's lock.

    Returns:
        Sentences on what was done, and on what is still to be done.

    Raises:
        WorkspaceError, ProcessError: if the branch can neither be completed nor taken back.
    """
    said = [f"{line.root.name}: {done}"] if (done := branch.complete(line)) else []
    if _mark(line).exists():
        try:
            commands.checkout(line.root)
            _mark(line).unlink()
            said.append(
                f"{line.root.name}: outputs of the last version, whose landing was cut off, were brought into place"
            )
        except (process.ProcessError, OSError) as error:
            said.append(
                f"{line.root.name}: outputs of the last version are not in place yet ({_short(error)}); run `dvc checkout` in {line.root}"
            )
    return said


def unfinished(line: layout.Layout) -> bool:
    """Whether there is anything for `finish`."""
    return branch.cut_off(line) or _mark(line).exists()


def _short(error: BaseException) -> str:
    return errors.sentence(error)[:300]


def _mark(line: layout.Layout) -> Path:
    """Is there from before a line moves until its outputs have followed."""
    return line.private / "landing"


def _bring(line: layout.Layout, attempt: layout.Layout, before: str) -> None:
    """Brings what DVC holds other than at a commit from the attempt's clone into the line, which stands at the attempt's commit.

    Raises:
        ProcessError, OSError: if it cannot be brought.
    """
    with git.Objects(line.root) as objects:
        trees = [objects.tree(before), objects.tree("HEAD")]
        texts = [dict(_texts(objects, *order)) for order in (trees, trees[::-1])]
    old, new = (dict(_outs(found)) for found in texts)
    gone = [path for path in old if path not in new and path not in trees[1]]
    fresh = [
        path
        for path, md5 in new.items()
        if path not in trees[1] and not (old.get(path) == md5 and (line.root / path).exists())
    ]
    if any(not (attempt.root / path).exists() for path in fresh):
        commands.checkout(line.root)
        return
    for path in [*gone, *fresh]:
        target = line.root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        if path in new:
            target.parent.mkdir(parents=True, exist_ok=True)
            (attempt.root / path).rename(target)


def _texts(objects: git.Objects, tree: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name -> text, of the stages and the data of a tree that another has not or has differently."""
    for path, name in tree.items():
        if path.startswith("data/raw/") and path.endswith(".dvc") and other.get(path) != name:
            yield path, objects.blob(name).decode()
    own, theirs = (_entries(objects, found) for found in (tree, other))
    yield from (item for item in own.items() if theirs.get(item[0]) != item[1])


def _entries(objects: git.Objects, tree: Mapping[str, str]) -> dict[str, str]:
    if lockfile.NAME not in tree:
        return {}
    text = objects.blob(tree[lockfile.NAME]).decode()
    return lockfile.parse(text) or {"": text}


def _outs(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Path -> md5, of what data and stages write."""
    for name, text in texts.items():
        found = YAML(typ="safe").load(text)
        for entry in found["stages"].values() if not name else [found] if name.endswith(".dvc") else found.values():
            for out in entry.get("outs", ()):
                yield (
                    (str(PurePosixPath(name).parent / out["path"]) if name.endswith(".dvc") else out["path"]),
                    out["md5"],
                )
