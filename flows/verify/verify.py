"""Whether a line is what its ledger says: from the signatures to the bytes of every model and every picture.

Nothing is taken from DVC's, git's or the file system's notes of what is unchanged: files are read and hashed. Each check is
one line; what does not hold names what was expected and received. What no record tells of is named as not covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.line import branch
from flows.programs import git, process
from flows.programs.failures import WorkspaceError
from flows.verify import checks, commit_checks, folder_checks, record_checks, registry_checks, version_checks
from flows.versions import history
from otmf.provenance import keys
from otmf.runtime import layout


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
        OfAnotherUser: if git does nothing here because the folder is another user's: nothing is known of it then.
    """
    with git.Objects(line.root) as objects:
        try:
            objects.require()
        except git.OfAnotherUser:
            raise
        except process.ProcessError as error:
            yield checks.Check("git", str(error))
            return
        if trouble := _elsewhere(line):
            yield checks.Check("branch", trouble)
            return
        if demanded:
            yield record_checks.announced(line.root, trusted)
        yield from _checks(checks.Examined(line, [], objects), wanted, trusted, unsigned, with_registry)


def _elsewhere(line: layout.Layout) -> str:
    """What is wrong where HEAD is elsewhere than on the line's branch: what lies there is then not the line as it is now."""
    try:
        branch.require(line.root)
    except (process.ProcessError, WorkspaceError) as error:
        return str(error)
    return ""


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
        history.find(history.decisions(found.root), number)
    yield from record_checks.signatures(found.records, trusted, unsigned)
    yield from checks.guarded("decisions", record_checks.decisions(found))
    broken = False
    for check in checks.guarded("git objects", commit_checks.objects(found)):
        broken |= bool(check.trouble)
        yield check
    if not broken:
        yield from checks.guarded("git references", commit_checks.references(found))
        yield from checks.guarded("the last commit", commit_checks.last(found))
    yield from checks.guarded("the folder", folder_checks.folder(found))
    for number, record in found.models.items():
        if not wanted or number in wanted:
            yield from checks.guarded(f"v{number}", version_checks.version(found, number, record))
    if not wanted and not broken:
        for name, record in commit_checks.kept_attempts(found).items():
            yield from checks.guarded(name, version_checks.attempt(found, name, record))
    if with_registry:
        yield from checks.guarded("registry", registry_checks.registered(found))
