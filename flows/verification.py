"""Whether a line is what its ledger says: from the signatures to the bytes of every model and every picture.

Nothing is taken from DVC's, git's or the file system's notes of what is unchanged: files are read and hashed. Each check is
one line; what does not hold names what was expected and received.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flows import checks, git, process, record_checks, registry_checks, version_checks, versions
from otmf import keys, layout


def verify(
    line: layout.Layout,
    wanted: Sequence[int],
    trusted: Sequence[keys.PublicKey],
    *,
    unsigned: bool = False,
    with_registry: bool = True,
) -> Iterator[checks.Check]:
    """All checks of a line: its ledger, git, and some versions (all, if none is named) down to the raw data.

    Args:
        line: the folder.
        wanted: versions.
        trusted: public keys.
        unsigned: whether records that nobody signed are taken as they are.
        with_registry: whether the tracking store's registry is asked as well.

    Raises:
        WorkspaceError: if a wanted version never was.
    """
    with git.Objects(line.root) as objects:
        yield from _checks(checks.Examined(line, [], objects), wanted, trusted, unsigned, with_registry)


def _checks(
    found: checks.Examined,
    wanted: Sequence[int],
    trusted: Sequence[keys.PublicKey],
    unsigned: bool,
    with_registry: bool,
) -> Iterator[checks.Check]:
    sound = True
    for check in record_checks.links(found):
        sound &= not check.trouble
        yield check
    if not sound:  # which of two records that do not fit was altered, their signatures say
        yield from record_checks.signatures(found.records, trusted, unsigned)
        return
    for number in wanted:
        versions.find(versions.history(found.root), number)
    yield from record_checks.signatures(found.records, trusted, unsigned)
    yield from checks.guarded("decisions", record_checks.decisions(found))
    yield from checks.guarded("git", _git(found))
    for number, record in found.models.items():
        if not wanted or number in wanted:
            yield from checks.guarded(f"v{number}", version_checks.version(found, number, record))
    if with_registry:
        yield from checks.guarded("registry", registry_checks.registered(found))


def _git(found: checks.Examined) -> Iterator[checks.Check]:
    root = found.root
    try:
        found.objects.check()
        yield checks.Check("git objects")
    except process.ProcessError as error:
        yield checks.Check("git objects", str(error))
        return
    tree = found.objects.tree("HEAD")
    for path in sorted(_lying(root) - set(tree)):
        yield checks.Check(
            f"file {path}", "expected no such file in the last commit; received one; move it away, or commit it"
        )
    for path, name in tree.items():
        there = root / path
        if there.is_symlink() or not there.is_file():
            yield checks.Check(
                f"file {path}", "expected the file of the last commit; received none; restore it from git"
            )
        elif git.name(there.read_bytes()) != name:
            yield checks.Check(
                f"file {path}", "expected the content of the last commit; received another; compare it with git diff"
            )
    yield checks.Check("files as in the last commit")


def _lying(root: Path) -> set[str]:
    """The files in the folders of a line that git holds all of."""
    folders = [root / "data" / name for name in ("backbones", "cards", "lineage", "results")]
    found = [path for folder in folders for path in folder.rglob("*")]
    found += [*(root / "data").glob("*"), *(root / "data/raw").glob("*")]
    return {path.relative_to(root).as_posix() for path in found if not path.is_dir()}
