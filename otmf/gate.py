"""The gate: rules that decide whether a merged model may serve, each with its figure and its bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otmf import settings


@dataclass(frozen=True)
class Finding:
    """One rule applied.

    Attributes:
        rule: name of the rule in `settings.Gate`.
        about: the task it is about, or `all older tasks`.
        figure: what was measured, as a fraction.
        bound: what the rule asks for.
        holds: whether the figure is within the bound.
    """

    rule: str
    about: str
    figure: float
    bound: float
    holds: bool

    def sentence(self) -> str:
        """The rule and its figure for a person, in per cent."""
        expected = {
            "least_of_finetuned": "at least {:.1f} % of the fine-tuned accuracy on {}",
            "largest_drop": "a drop of at most {:.1f} points on {}",
            "largest_average_drop": "a drop of at most {:.1f} points on average over {}",
        }[self.rule]
        return f"expected {expected.format(100 * self.bound, self.about)}; received {100 * self.figure:.1f}"


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one step: every rule applied, in order."""

    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        return all(finding.holds for finding in self.findings)

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.holds]


def judge(rules: settings.Gate, evaluation: Mapping[str, Any], *, previous: str) -> Verdict:
    """The verdict on a step.

    Args:
        rules: the bounds.
        evaluation: the result of the step's `evaluate`: `step`, `task`, `references` (task -> base, finetuned), and
            `rows` (step, task, accuracy) of this and earlier steps.
        previous: the step it was merged on top of; drops are counted from its accuracies.

    The new task is compared with its own expert under the frozen head; an expert that is never right cannot be fallen
    short of. Drops are positive where accuracy was lost.
    """
    step, task = evaluation["step"], evaluation["task"]
    now = _accuracies(evaluation, step)
    before = _accuracies(evaluation, previous)
    finetuned = evaluation["references"][task]["finetuned"]
    share = now[task] / finetuned if finetuned > 0 else 1.0
    findings = [Finding("least_of_finetuned", task, share, rules.least_of_finetuned, share >= rules.least_of_finetuned)]
    drops = {name: before[name] - now[name] for name in before if name != task}
    findings += [
        Finding("largest_drop", name, drop, rules.largest_drop, drop <= rules.largest_drop)
        for name, drop in drops.items()
    ]
    if drops:
        mean = sum(drops.values()) / len(drops)
        findings.append(
            Finding(
                "largest_average_drop", "all older tasks", mean, rules.largest_average_drop,
                mean <= rules.largest_average_drop,
            )
        )  # fmt: skip
    return Verdict(tuple(findings))


def _accuracies(evaluation: Mapping[str, Any], step: str) -> dict[str, float]:
    return {row["task"]: row["accuracy"] for row in evaluation["rows"] if row["step"] == step}
