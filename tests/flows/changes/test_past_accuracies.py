"""What the gate remembers: each task's best since it was last trained or last accepted by a person."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.changes import past_accuracies
from flows.line import clones, landing, workspace
from flows.programs import git
from flows.versions import history, records
from otmf.provenance import statements
from otmf.runtime import layout
from tests import makers
from tests.flows.changes.test_decisions import attempt, merged


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return makers.line(tmp_path_factory.mktemp("made") / "line")


@pytest.fixture
def line(made, tmp_path) -> layout.Layout:
    shutil.copytree(made, tmp_path / "line", symlinks=True)
    return layout.Layout(tmp_path / "line")


def evaluated(clone: layout.Layout, step: str, now: dict[str, float], *, test: str = "t") -> None:
    """The evaluation of a step, with the rows of the steps before it."""
    before = clone.evaluation(f"s{int(step[1:]) - 1:02d}")
    rows = json.loads(before.read_text())["rows"] if before.exists() else []
    rows += [{"step": step, "task": task, "accuracy": found, "test_sha256": test} for task, found in now.items()]
    clone.evaluation(step).parent.mkdir(parents=True, exist_ok=True)
    clone.evaluation(step).write_text(json.dumps({"rows": rows}), encoding="utf-8")


def arrive(line: layout.Layout, task: str, now: dict[str, float], **decided) -> None:
    """One more task accepted, with these accuracies after it."""
    clone = attempt(line, task)
    step = f"s{len(workspace.params(clone).steps):02d}"
    evaluated(clone, step, now)
    accept(line, clone, task, decided)


def accept(line: layout.Layout, clone: layout.Layout, task: str, decided: dict) -> None:
    step, made = merged(clone, task, f"Onboard {task}")
    decided = {"action": "accepted", "by": "gate", "reason": "rules hold"} | decided
    entry = history.accepted(clone, step=step, task=task, **decided)
    records.write(line, clone, entry, lambda place: records.of_model(clone, made, entry, place))
    landing.land(line, clone, tag=history.tag(entry.version), outputs=False)


def best(line: layout.Layout) -> dict[str, float]:
    return {task: accuracy for task, (accuracy, _) in past_accuracies.so_far(line).best.items()}


def test_best_is_kept_however_slowly_a_task_sinks(line) -> None:
    assert best(line) == {}
    arrive(line, "one", {"one": 0.504})
    arrive(line, "two", {"one": 0.458, "two": 0.9})
    arrive(line, "three", {"one": 0.412, "two": 0.95, "three": 0.8})
    assert best(line) == {"one": 0.504, "two": 0.95, "three": 0.8}


def test_what_a_person_accepted_is_what_the_next_version_is_compared_with(line) -> None:
    arrive(line, "one", {"one": 0.9})
    short = statements.Finding(rule="least_of_finetuned", about="one", figure=0.4, bound=0.5, holds=False)
    arrive(line, "two", {"one": 0.6, "two": 0.9}, action="overridden", by="ada", findings=[short])
    past = past_accuracies.so_far(line)
    assert ({task: found for task, (found, _) in past.best.items()}, past.excused) == (
        {"one": 0.6, "two": 0.9},
        {"one"},
    )


def test_task_trained_again_begins_anew_and_so_does_one_with_other_test_data(line) -> None:
    arrive(line, "one", {"one": 0.9})
    arrive(line, "two", {"one": 0.8, "two": 0.9})
    clone = clones.begin(line, "retrain", outputs=False)
    for step, now in (("s01", {"one": 0.7}), ("s02", {"one": 0.65, "two": 0.5})):
        evaluated(clone, step, now)
    (clone.merged("s02") / "model.safetensors").parent.mkdir(parents=True, exist_ok=True)
    (clone.merged("s02") / "model.safetensors").write_text("again", encoding="utf-8")
    accept(line, clone, "one", {})
    assert best(line) == {"one": 0.65, "two": 0.9}
    rows = [{"task": "one", "test_sha256": "t"}, {"task": "two", "test_sha256": "other"}]
    assert past_accuracies.so_far(line).of(rows) == {"one": 0.65}


def test_only_the_last_of_a_series_of_steps_is_read(line, monkeypatch) -> None:
    for number, task in enumerate(("one", "two", "three"), start=1):
        arrive(line, task, dict.fromkeys(("one", "two", "three")[:number], 0.1 * number))
    asked = []
    blob = git.Objects.blob
    monkeypatch.setattr(git.Objects, "blob", lambda self, name: (asked.append(name), blob(self, name))[1])
    assert best(line) == pytest.approx({"one": 0.3, "two": 0.3, "three": 0.3})
    assert len(asked) == 1
