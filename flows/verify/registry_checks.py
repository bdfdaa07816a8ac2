"""Checks of the model registry against the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from flows.line import workspace
from flows.services import tracking
from flows.verify import checks
from flows.versions import registry
from otmf.provenance import ledger
from otmf.provenance.model_reference import Reference


def registered(found: checks.Examined) -> Iterator[checks.Check]:
    from flows.versions import registered_model

    line = found.layout
    name = workspace.params(line).line
    if not tracking.there(line):
        yield checks.Check(
            "registry",
            f"expected the tracking store {tracking.uri(line)}; received none; bring it there, or pass --without-registry",
        )
        return
    try:
        store = tracking.prepare(line, name)
        known, references = registry.standing(store, name), registry.references(store, name)
        strangers = registry.strangers(store, name)
    except workspace.WorkspaceError as error:
        yield checks.Check("registry", f"{error}; or pass --without-registry")
        return
    wanted = registry.wanted(line, found.records)
    for number, tags in wanted.versions.items():
        received = known.versions.get(number, {})
        wrong = [key for key, value in tags.items() if received.get(key) != value]
        trouble = f"expected tag {wrong[0]} {tags[wrong[0]]!r}; received {received.get(wrong[0])!r}" if wrong else ""
        if state := known.states.get(number):
            trouble = f"expected neither a stage nor a status of MLflow's, which otmf does not set; received {state}; take it back there"
        yield checks.Check(f"registry: v{number}", trouble or _reference(found, number, references.get(number)))
        where = references.get(number)
        if (
            where is not None
            and where.repository
            != registered_model.reference(found.layout, found.records, found.models[number]).repository
        ):
            yield checks.Check(f"registry: v{number} is fetched from {where.repository}", uncovered=True)
    for number in sorted(set(known.versions) - set(wanted.versions)):
        yield checks.Check(
            f"registry: v{number}",
            "expected no version that the ledger does not know; received one; records may be lost",
        )
    for number in strangers:
        yield checks.Check(
            f"registry: MLflow's version {number}",
            f"expected a version that otmf registered; received another, which models:/{name}/{number} loads; delete it",
        )
    for number, tags in known.versions.items():
        if more := sorted(set(tags) - set(wanted.versions.get(number, {}))):
            yield checks.Check(f"registry: v{number}: tags {', '.join(more)}", uncovered=True)
    for alias in sorted(set(wanted.aliases) | set(known.aliases)):
        expected, received = wanted.aliases.get(alias), known.aliases.get(alias)
        yield checks.Check(
            f"registry: alias {alias}", "" if expected == received else f"expected v{expected}; received v{received}"
        )
    yield checks.Check("registry: end of the ledger", _end(known.ledger, found.records))


def _reference(found: checks.Examined, number: int, received: Reference | None) -> str:
    """Whether the model that MLflow would load is the one the ledger names; where it is fetched from may be another."""
    from flows.versions import registered_model

    wanted = registered_model.reference(found.layout, found.records, found.models[number])
    if received is not None and received.model_copy(update={"repository": wanted.repository}) == wanted:
        return ""
    said = "another" if received is not None else "none"
    return f"expected a reference to v{number} as {wanted.record} names it; received {said}; do not load it; delete it there, and the next decision registers it anew"


def _end(said: str | None, records: list[ledger.Record]) -> str:
    """The registry may be behind the ledger, as while the store was away; it cannot know more."""
    number, _, sha256 = (said or "").partition(" ")
    if not number.isdigit():
        return "expected the number of the last record; received none"
    if not 1 <= int(number) <= len(records):
        return f"expected at least {number} records; received {len(records)}; records are lost"
    return checks.differ(f"sha256 of record {number}", sha256, records[int(number) - 1].sha256)
