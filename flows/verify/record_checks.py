"""Checks of a ledger by itself: records, links, signatures, and what the decisions say of each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.line import workspace
from flows.verify import checks
from flows.versions import accepted_models
from otmf.provenance import digests, keys, ledger, statements
from otmf.runtime import layout


def links(found: checks.Examined) -> Iterator[checks.Check]:
    files = ledger.files(found.root)
    if not files:
        yield checks.Check(
            "ledger",
            f"expected records in {ledger.FOLDER}; received none; the line never accepted a model, or lost them",
        )
    for path in files:
        trouble = ""
        try:
            found.records.append(ledger.load(path))
            trouble = ledger.broken_link(found.records) or ""
        except (ledger.LedgerError, OSError) as error:
            trouble = str(error)
        yield checks.Check(f"record {path.name}", trouble)


def announced(root: Path, trusted: Sequence[keys.PublicKey]) -> checks.Check:
    """Whether a ledger names one of some keys at all."""
    named: set[str] = set()
    for path in ledger.files(root):
        with contextlib.suppress(ledger.LedgerError, OSError):  # said where the records are checked
            key = ledger.load(path).announced()
            named |= {key.keyid} if key is not None else set()
    known = sorted(key.keyid[:16] for key in trusted)
    said = f"expected a record that names a key you trust ({', '.join(known)}); received {', '.join(sorted(one[:16] for one in named)) or 'none'}"
    return checks.Check("a key you trust", "" if named & {key.keyid for key in trusted} else said)


def signatures(
    records: list[ledger.Record], trusted: Sequence[keys.PublicKey], unsigned: bool
) -> Iterator[checks.Check]:
    """Each signature; records that nobody signed, which come before the first key, as one check."""
    without = []
    for record, said in ledger.signatures(records, trusted):
        if said == "unsigned":
            without.append(record.name)
        else:
            yield checks.Check(f"signature of {record.name}", said or "")
    if without:
        which = without[0] if len(without) == 1 else f"{without[0]} to {without[-1]}"
        trouble = f"expected a signature; received {len(without)} of {len(records)} records without one; pass --unsigned to take them as they are"
        yield checks.Check(f"signature of {which}: unsigned", "" if unsigned else trouble)


def decisions(found: checks.Examined) -> Iterator[checks.Check]:
    """Records by themselves: versions count up, what is rolled back to was made, subjects agree with outputs."""
    number, models, name = 0, {}, workspace.params(found.layout).line
    for record in found.records:
        decision, trouble = record.statement.decision, _foreign(record.statement, name)
        if accepted_models.is_model(record):
            number += 1
            models[decision.version] = decision.sha256
            if decision.version != number:
                trouble = trouble or f"expected version {number}; received {decision.version}"
        elif decision.version is not None and models.get(decision.version) != decision.sha256:
            trouble = f"expected v{decision.version} with sha256 {models.get(decision.version, 'none')[:12]}; received {decision.sha256[:12]}"
        yield checks.Check(f"decision of {record.name}", trouble or _subjects(record.statement))


def _foreign(statement: statements.Statement, line: str) -> str:
    """Whether a record is of another line."""
    if not isinstance(statement.predicate, statements.Provenance):
        return ""
    told = statement.predicate.buildDefinition.externalParameters.get("line")
    return "" if told == line else f"expected a record of line {line}; received one of {str(told)[:60]!r}"


def _subjects(statement: statements.Statement) -> str:
    if not isinstance(statement.predicate, statements.Provenance):
        return ""
    named = {found.name: found.digest.get("sha256", "") for found in statement.subject}
    for stage in statement.predicate.buildDefinition.otmf_stages.values():
        for path, output in stage.outputs.items():
            below = {name.removeprefix(f"{path}/"): sha for name, sha in named.items() if name.startswith(f"{path}/")}
            if (named[path] if path in named else digests.listing(below)) != output.sha256:
                return f"expected subjects that make up {path}; received others"
    decision = statement.decision
    model = (layout.Layout(Path()).merged(decision.step) / "model.safetensors").as_posix()
    if named.get(model) != decision.sha256:
        return f"expected {model} with sha256 {decision.sha256[:12]} among the subjects; received {named.get(model, 'none')[:12]}"
    return ""
