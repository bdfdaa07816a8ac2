"""The models that a ledger tells of: which version is which, and how each of its stages was recorded."""

from __future__ import annotations

from collections.abc import Sequence

from otmf.provenance import ledger, statements


def models(records: Sequence[ledger.Record]) -> dict[int, ledger.Record]:
    """Version -> the record of how its model was made."""
    return {record.statement.decision.version: record for record in records if is_model(record)}


def commit_of(record: ledger.Record) -> str:
    """The commit with the content that a record is about."""
    inputs = record.statement.predicate.buildDefinition.resolvedDependencies
    return next(one.digest["gitCommit"] for one in inputs if "gitCommit" in one.digest)


def recorded(records: Sequence[ledger.Record], last: ledger.Record) -> dict[str, statements.Stage]:
    """Stage -> how it was recorded when it last ran for a model, up to a record."""
    stages: dict[str, statements.Stage] = {}
    for record in until(records, last):
        stages |= record.statement.predicate.buildDefinition.otmf_stages
    return stages


def until(records: Sequence[ledger.Record], last: ledger.Record) -> list[ledger.Record]:
    """The records of models up to one, in order."""
    return [record for record in models(records).values() if record.index <= last.index]


def named(record: ledger.Record) -> dict[str, str]:
    """File -> sha256, of all that a model's record names as read or written."""
    statement = record.statement
    found = (*statement.predicate.buildDefinition.resolvedDependencies, *statement.subject)
    return {one.name: one.digest["sha256"] for one in found if "sha256" in one.digest}


def is_model(record: ledger.Record) -> bool:
    """Whether a record is about a model that was accepted."""
    return record.statement.decision.version is not None and isinstance(
        record.statement.predicate, statements.Provenance
    )
