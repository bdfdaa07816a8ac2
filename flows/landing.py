"""The line moved to an attempt's commit, with what DVC holds of it.

DVC's checkout looks at everything a line has, which takes seconds where there are many tasks. What differs between two versions is
known from their locks; it lies in the attempt's clone, which ends with the landing, and is renamed into its place. Whatever the clone
has not is left to DVC.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from ruamel.yaml import YAML

from flows import git, lockfile, process, remotes, repro
from flows.failures import WorkspaceError
from otmf import layout


def land(line: layout.Layout, attempt: layout.Layout, *, tag: str | None = None, outputs: bool = True) -> str:
    """Moves the line, and its git remote before it, to the attempt's commit, forward only; then brings its outputs there,
    and the attempt goes.

    Args:
        line, attempt: the line, and a clone of it that is ahead.
        tag: a name for the commit. It is given before the line moves, so that a line never stands at a version without one.
        outputs: whether the attempt changes any that DVC holds.

    Returns:
        Empty, or one sentence if the commit has landed but its outputs could not be brought there.
    """
    named = [f"+HEAD:refs/tags/{tag}"] if tag else []
    git.run(line.root, "fetch", "--quiet", "--no-tags", str(attempt.root), "HEAD", *named)
    commit = git.run(attempt.root, "rev-parse", "HEAD").strip()
    try:
        remotes.publish(line, attempt, commit, [f"refs/tags/{tag}"] if tag else [], outputs=outputs)
    except WorkspaceError:
        if tag:
            git.run(line.root, "tag", "--delete", tag)
        raise
    before, unfinished = git.run(line.root, "rev-parse", "HEAD").strip(), _mark(line).exists()
    if outputs:
        _mark(line).touch()
    git.run(line.root, "merge", "--quiet", "--ff-only", commit)
    try:
        if outputs:
            repro.checkout(line.root) if unfinished else _bring(line, attempt, before)
            _mark(line).unlink()
    except (process.ProcessError, OSError) as error:
        return f"the commit has landed, its outputs not yet ({' '.join(str(error).split())[:200]}); run `dvc checkout` in {line.root}"
    shutil.rmtree(attempt.root, ignore_errors=True)
    return ""


def finish(line: layout.Layout) -> None:
    """Brings the outputs of a version whose landing a death interrupted; to be called by the holder of the line's lock."""
    if _mark(line).exists():
        repro.checkout(line.root)
        _mark(line).unlink()


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
        repro.checkout(line.root)
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
