"""A logged prediction leads to the record of its version, and one that was altered leads nowhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flows.line import workspace
from flows.serving import serve
from otmf.provenance import ledger, statements
from otmf.runtime import layout


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    """A folder with records of two decisions about versions."""
    found = layout.Layout(tmp_path)
    (tmp_path / ledger.FOLDER).mkdir(parents=True)
    for number in (1, 2):
        decision = statements.Decision(
            action="rolled_back", version=number, step=f"s0{number}", task="one", sha256=str(number) * 64, by="ada", reason="why",
            at=datetime(2026, 1, 1, tzinfo=UTC), findings=[],
        )  # fmt: skip
        subject = [statements.Resource(name="model", digest={"sha256": decision.sha256})]

        def write(place: statements.Place, decision=decision, subject=subject) -> statements.Statement:
            predicate = statements.Decided(otmf_decision=decision, otmf_ledger=place)
            return statements.Statement(subject=subject, predicateType=statements.DECISION, predicate=predicate)

        ledger.append(tmp_path, write, [])
    return found


def predicted(line: layout.Layout, number: int, **other: object) -> None:
    record = ledger.read(line.root)[number - 1]
    entry = {"prediction_id": f"v{number}-abc", "version": number, "step": f"s0{number}", "sha256": record.statement.decision.sha256,
             "record": record.name, "record_sha256": record.sha256, "task": "one", "at": "2026-01-01T00:00:00+00:00", "images": [],
             "results": [], **other}  # fmt: skip
    line.predictions.mkdir(parents=True, exist_ok=True)
    (line.predictions / "2026-01-01.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")


def test_prediction_leads_to_its_record(line) -> None:
    predicted(line, 2)
    assert serve.trace(line, "v2-abc")[1].statement.decision.version == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"version": 1}, "expected a prediction of v2, as its id says; received one of v1"),
        ({"prediction_id": "v1-abc"}, "expected a prediction of v1, as its id says; received one of v2"),
        ({"version": 1, "prediction_id": "v1-abc"}, "expected 000002.json to be of v1"),
        ({"sha256": "0" * 64}, "expected 000002.json with sha256"),
        ({"record": "000009.json"}, "received none"),
    ],
)
def test_prediction_that_was_altered_leads_nowhere(line, other, message) -> None:
    predicted(line, 2, **other)
    with pytest.raises(workspace.WorkspaceError, match=message):
        serve.trace(line, str(other.get("prediction_id", "v2-abc")))
