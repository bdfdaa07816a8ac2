"""MLflow's model registry, brought in line with a line's ledger: a version each, `champion` and `previous`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.line import branch, encoders, workspace
from flows.services import tracking
from flows.versions import accepted_models
from flows.versions import history as version_history
from otmf.provenance import ledger
from otmf.provenance.model_reference import Reference
from otmf.provenance.statements import Decision
from otmf.runtime import layout

CHAMPION, PREVIOUS = "champion", "previous"
LEDGER = "ledger"  # tag of the registered model: number and sha256 of the last record
OURS = "otmf.version"
PATIENCE = 600.0
_BEHIND = ".registry"


@dataclass(frozen=True)
class Standing:
    """What the registry says of a line, or should: our version -> tags, alias -> our version, the end of the ledger.

    `states` is what it says of versions besides, and should not (`_state`).
    """

    versions: dict[int, dict[str, str]]
    aliases: dict[str, int]
    ledger: str | None
    states: dict[int, str] = field(default_factory=dict)


def wanted(line: layout.Layout, records: Sequence[ledger.Record]) -> Standing:
    """What the registry should say, by the ledger."""
    serving = [record for record in records if record.statement.decision.version is not None]
    entries = [record.statement.decision for record in serving]
    first = {record.statement.decision.version: record for record in reversed(serving)}
    roles: dict[str, Decision | None] = {
        CHAMPION: version_history.champion(entries),
        PREVIOUS: version_history.previous(entries) if entries else None,
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
            {ours: _state(theirs) for ours, theirs in found.items()},
        )


def follow(store: tracking.Store, line: layout.Layout, name: str) -> None:
    """Registers the versions the registry lacks, sets aliases and the end of the ledger. Done again, it changes nothing.

    The weights stay with DVC: a registered version holds a reference to them, and loads as a pyfunc (`flows.versions.registered_model`).

    Raises:
        WorkspaceError: if the store does not answer.
    """
    records = ledger.read(line.root)
    goal = wanted(line, records)
    if not goal.versions:
        return
    with workspace.locked(line, patience=PATIENCE, name="registry"), tracking.answering(store.uri):
        branch.require(line.root)  # else the ledger that lies there is not the line's
        if not store.client.search_registered_models(filter_string=f"name = '{name}'"):
            store.client.create_registered_model(name)
        found = _known(store, name)
        _require_same(found, goal)
        known = {ours: theirs.version for ours, theirs in found.items()}
        for number, tags in goal.versions.items():
            if number not in known:
                known[number] = _register(store, line, name, records, number, tags)
        for alias, number in goal.aliases.items():
            store.client.set_registered_model_alias(name, alias, known[number])
        store.client.set_registered_model_tag(name, LEDGER, goal.ledger)
        (tracking.unsent(line) / _BEHIND).unlink(missing_ok=True)


def _require_same(found: dict[int, Any], goal: Standing) -> None:
    """Refuses a registry that has another version under a number of ours: of a history that was taken back, say."""
    key = "record.sha256"
    for number, tags in goal.versions.items():
        if number in found and found[number].tags.get(key) != tags[key]:
            raise workspace.WorkspaceError(
                f"expected v{number} in the registry to be of the record with sha256 {tags[key][:16]}; received one of "
                f"{str(found[number].tags.get(key))[:16]}; it is no version of this line any more: delete version {found[number].version} there"
            )


def behind(line: layout.Layout) -> bool:
    """Whether there is anything that the tracking store, the registry included, was not told yet."""
    return any(tracking.unsent(line).glob("*"))


def catch_up(line: layout.Layout) -> None:
    """Tells the tracking store what it was not told yet, the registry included.

    Raises:
        WorkspaceError: if it does not answer.
    """
    if not behind(line):
        return
    name = workspace.params(line).line
    store = tracking.prepare(line, name)
    follow(store, line, name)  # before the notes go: where it fails, the next look at the inbox tries again
    tracking.catch_up(line, store)


def follow_later(line: layout.Layout) -> None:
    """Notes that the registry is behind the ledger, until `follow` has told it."""
    folder = tracking.unsent(line)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _BEHIND).touch()


def _register(
    store: tracking.Store,
    line: layout.Layout,
    name: str,
    records: list[ledger.Record],
    number: int,
    tags: dict[str, str],
) -> str:
    """Registers a version with the run it came about in, or one of its own; returns MLflow's number."""
    from flows.versions import registered_model

    record = accepted_models.models(records)[number]
    run = tracking.run_of_version(store, number, record.statement.predicate.runDetails.otmf_runs.get("parent"))
    with tempfile.TemporaryDirectory() as folder:
        reads = encoders.of(line, workspace.params(line)).reads
        registered_model.write(Path(folder) / "model", registered_model.reference(line, records, record), record, reads)
        store.client.log_artifacts(run, str(Path(folder) / "model"), artifact_path=_place(number))
    return store.client.create_model_version(
        name, source=f"runs:/{run}/{_place(number)}", run_id=run, tags=tags
    ).version


def references(store: tracking.Store, name: str) -> dict[int, Reference | None]:
    """What the registry holds of each version in place of its weights; None where that is gone, or is something else.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    with tracking.answering(store.uri):
        known = _known(store, name)
    return {number: _reference(store, name, number, version) for number, version in known.items()}


def strangers(store: tracking.Store, name: str) -> list[str]:
    """MLflow's numbers of versions that are not ours, or that say they are one of ours which another is already.

    Raises:
        WorkspaceError: if the store does not answer.
    """
    with tracking.answering(store.uri):
        found = store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
        ours = {str(theirs.version) for theirs in _known(store, name).values()}
    return sorted((str(one.version) for one in found if str(one.version) not in ours), key=int)


def _reference(store: tracking.Store, name: str, number: int, version: Any) -> Reference | None:
    from flows.versions import registered_model

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(workspace.WorkspaceError):
        with tracking.answering(store.uri):
            loaded = store.client.get_model_version_download_uri(name, version.version)
            found = store.client.download_artifacts(version.run_id, _place(number), folder)
        ours = f"runs:/{version.run_id}/{_place(number)}"
        if version.source == ours and loaded.endswith((ours, f"/{version.run_id}/artifacts/{_place(number)}")):
            return registered_model.read(Path(found))
    return None


def _place(number: int) -> str:
    """Where the artifacts of its run hold a version."""
    return f"model/v{number}"


def _state(version: Any) -> str:
    """What MLflow says of a version besides its tags, by which clients of its older forms choose what to load; empty as registered."""
    stage = "" if version.current_stage in (None, "None") else f"the stage {version.current_stage}"
    return stage or ("" if version.status == "READY" else f"the status {version.status}")


def _known(store: tracking.Store, name: str) -> dict[int, Any]:
    """Our versions -> MLflow's."""
    found = store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
    found = sorted(found, key=lambda version: int(version.version))
    return {int(version.tags[OURS]): version for version in found if version.tags.get(OURS, "").isdecimal()}


def _tags(line: layout.Layout, record: ledger.Record) -> dict[str, str]:
    entry = record.statement.decision
    commit = version_history.commit(line.root, entry.version)
    return {OURS: str(entry.version), "step": entry.step, "task": entry.task, "sha256": entry.sha256, "git.commit": commit,
            "action": entry.action, "by": entry.by, "reason": entry.reason[:500], "record": record.name,
            "record.sha256": record.sha256}  # fmt: skip
