"""Whether a line is what its ledger says: from the signatures to the bytes of every model and every picture.

Nothing is taken from DVC's, git's or the file system's notes of what is unchanged: files are read and hashed. Each check is
one line; what does not hold names what was expected and received.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flows import accepted, checks, git, process, record_checks, registry_checks, version_checks, versions
from otmf import keys, layout


def verify(
    line: layout.Layout,
    wanted: Sequence[int],
    trusted: Sequence[keys.PublicKey],
    *,
    unsigned: bool = False,
    demanded: bool = False,
    with_registry: bool = True,
) -> Iterator[checks.Check]:
    """All checks of a line: its ledger, git, and some versions (all, if none is named) down to the raw data.

    Args:
        line: the folder.
        wanted: versions.
        trusted: public keys.
        unsigned: whether records that nobody signed are taken as they are.
        demanded: whether one of the trusted keys must be named by a record: a ledger that nobody signed is no ledger of theirs.
        with_registry: whether the tracking store's registry is asked as well.

    Raises:
        WorkspaceError: if a wanted version never was.
    """
    with git.Objects(line.root) as objects:
        if demanded:
            yield record_checks.announced(line.root, trusted)
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
    yield from checks.guarded("the last commit", _unrecorded(found))
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


def _unrecorded(found: checks.Examined) -> Iterator[checks.Check]:
    """What the last commit has otherwise than the newest version's record, of that from which models are made and fetched.

    Settings for what comes next (params.yaml) may have changed, and are recorded with it.
    """
    if not found.models:
        return
    newest = max(found.models)
    now, then = found.objects.tree("HEAD"), found.objects.tree(accepted.commit_of(found.models[newest]))
    for path in sorted(now.keys() | then.keys()):
        ours = (
            path in ("dvc.lock", "dvc.yaml")
            or path.endswith(".dvc")
            or path.startswith(("data/cards/", "data/backbones/"))
        )
        if ours and now.get(path) != then.get(path):
            yield checks.Check(
                f"file {path}",
                f"expected it as v{newest} was recorded with; received another, which no record tells of; see git log {path}",
            )
    yield checks.Check(f"the last commit makes models as v{newest} was made")


def _lying(root: Path) -> set[str]:
    """The files in the folders of a line that git holds all of."""
    folders = [root / "data" / name for name in ("backbones", "cards", "lineage", "results")]
    found = [path for folder in folders for path in folder.rglob("*")]
    found += [*(root / "data").glob("*"), *(root / "data/raw").glob("*")]
    return {path.relative_to(root).as_posix() for path in found if not path.is_dir()}
