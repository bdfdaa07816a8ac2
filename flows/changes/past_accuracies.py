"""How well each task of a line has been served so far, by the evaluations of its accepted versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.programs import git
from flows.versions import accepted_models
from otmf.provenance import ledger
from otmf.runtime import layout

SHARE = "least_of_finetuned"


@dataclass(frozen=True)
class Past:
    """What the gate remembers of the accepted versions.

    Attributes:
        best: task -> its best accuracy (a fraction) since it was last trained, and the sha256 of the test part that was scored. What a
            person accepts against the gate begins it anew: the next version is compared with what was accepted.
        excused: tasks that a person accepted although they fell short of their own fine-tuned model.
    """

    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)

    def of(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Task -> best accuracy so far, of the tasks in some rows of an evaluation whose test part is still the same."""
        tests = {row["task"]: row["test_sha256"] for row in rows}
        return {task: accuracy for task, (accuracy, test) in self.best.items() if tests.get(task) == test}


def so_far(line: layout.Layout) -> Past:
    """What the line's accepted versions amount to. Raises LedgerError, ProcessError if they cannot be read."""
    models = accepted_models.models(ledger.read(line.root))
    past = Past()
    with git.Objects(line.root) as objects:
        rows = _rows(objects, models)
    for number, record in models.items():
        decision = record.statement.decision
        fresh = set(record.statement.predicate.buildDefinition.externalParameters.get("tasks", ()))
        past.excused.difference_update(fresh)
        for task in fresh:
            past.best.pop(task, None)
        if decision.action == "overridden":
            past.best.clear()
            past.excused.update(one.about for one in decision.findings if one.rule == SHARE and not one.holds)
        for row in rows[number]:
            known, test = past.best.get(row["task"], (0.0, row["test_sha256"]))
            better = row["accuracy"] if test != row["test_sha256"] else max(known, row["accuracy"])
            past.best[row["task"]] = better, row["test_sha256"]
    return past


def _rows(objects: git.Objects, models: Mapping[int, ledger.Record]) -> dict[int, list[dict[str, Any]]]:
    """Version -> the rows of its evaluation at its own step.

    A version that the next one adds a step to has its rows in that one's evaluation as well: only the last of such a series is read.
    """
    found, known, later = {}, [], 0
    for number, record in sorted(models.items(), reverse=True):
        step = record.statement.decision.step
        if not later or int(step[1:]) >= later:
            known = _evaluation(objects, accepted_models.commit_of(record), step)
        later = int(step[1:])
        found[number] = [row for row in known if row["step"] == step]
    return found


def _evaluation(objects: git.Objects, commit: str, step: str) -> list[dict[str, Any]]:
    path = layout.Layout(Path()).evaluation(step).as_posix()
    tree = objects.tree(commit)
    return json.loads(objects.blob(tree[path]))["rows"] if path in tree else []
