"""MLflow's model registry, brought in line with a line's ledger: a version each, `champion` and `previous`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows import git, tracking, versions, workspace
from otmf import layout, ledger
from otmf.statements import Decision

CHAMPION, PREVIOUS = "champion", "previous"
LEDGER = "ledger"  # tag of the registered model: number and sha256 of the last record
OURS = "otmf.version"


@dataclass(frozen=True)
class Standing:
    """What the registry says of a line, or should: our version -> tags, alias -> our version, the end of the ledger."""

    versions: dict[int, dict[str, str]]
    aliases: dict[str, int]
    ledger: str | None


def wanted(line: layout.Layout, records: Sequence[ledger.Record]) -> Standing:
    """What the registry should say, by the ledger."""
    serving = [record for record in records if record.statement.decision.version is not None]
    entries = [record.statement.decision for record in serving]
    first = {record.statement.decision.version: record for record in reversed(serving)}
    roles: dict[str, Decision | None] = {
        CHAMPION: versions.champion(entries),
        PREVIOUS: versions.previous(entries) if entries else None,
    }
    return Standing(
        {number: _tags(line, first[number]) for number in sorted(first)},
        {alias: entry.version for alias, entry in roles.items() if entry is not None},
        f"{records[-1].index} {records[-1].sha256}" if records else None,
    )


def standing(store: tracking.Store, name: str) -> Standing:
    """What the registry says.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    with tracking.answering(store.uri):
        if not store.client.search_registered_models(filter_string=f"name = '{name}'"):
            return Standing({}, {}, None)
        model = store.client.get_registered_model(name)
        found = _known(store, name)
        of = {str(theirs.version): ours for ours, theirs in found.items()}
        return Standing(
            {ours: dict(theirs.tags) for ours, theirs in found.items()},
            {alias: of.get(str(number), 0) for alias, number in model.aliases.items()},
            model.tags.get(LEDGER),
        )


def follow(store: tracking.Store, line: layout.Layout, name: str) -> None:
    """Registers the versions the registry lacks, sets aliases and the end of the ledger. Done again, it changes nothing.

    The weights stay with DVC: the source of a registered version is an output's path at a commit, its tags name the sha256.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    goal = wanted(line, ledger.read(line.root))
    if not goal.versions:
        return
    with tracking.answering(store.uri):
        if not store.client.search_registered_models(filter_string=f"name = '{name}'"):
            store.client.create_registered_model(name)
        known = {ours: theirs.version for ours, theirs in _known(store, name).items()}
        for number, tags in goal.versions.items():
            if number not in known:
                source = f"dvc://data/models/merged/{tags['step']}?rev={tags['git.commit']}"
                known[number] = store.client.create_model_version(name, source=source, tags=tags).version
        for alias, number in goal.aliases.items():
            store.client.set_registered_model_alias(name, alias, known[number])
        store.client.set_registered_model_tag(name, LEDGER, goal.ledger)


def catch_up(line: layout.Layout) -> None:
    """Tells the tracking store what it missed while it was away, the registry included; nothing if it missed nothing.

    Raises:
        WorkspaceError: if it is still away.
    """
    if not any(tracking.unsent(line).glob("*")):
        return
    name = workspace.params(line).line
    store = tracking.prepare(line, name)
    if tracking.catch_up(line, store):
        follow(store, line, name)


def _known(store: tracking.Store, name: str) -> dict[int, object]:
    """Our versions -> MLflow's."""
    found = store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return {int(version.tags[OURS]): version for version in found if OURS in version.tags}


def _tags(line: layout.Layout, record: ledger.Record) -> dict[str, str]:
    entry = record.statement.decision
    commit = git.run(line.root, "rev-parse", f"{versions.tag(entry.version)}^{{commit}}").strip()
    return {OURS: str(entry.version), "step": entry.step, "task": entry.task, "sha256": entry.sha256, "git.commit": commit,
            "action": entry.action, "by": entry.by, "reason": entry.reason[:500], "record": record.name,
            "record.sha256": record.sha256}  # fmt: skip
