"""The gate: rules that decide whether a merged model may serve, each with its figure and its bound."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from otmf import settings

DISSIMILARITY = "largest_dissimilarity"


@dataclass(frozen=True)
class Finding:
    """One rule applied.

    Attributes:
        rule: name of the rule in `settings.Gate`.
        about: the task it is about, or `all older tasks`.
        figure: what was measured, as a fraction; a dissimilarity in variances.
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
        if self.rule == DISSIMILARITY:
            return (
                f"expected features of {self.about} at most {self.bound:g} variances away from the merged model's; received "
                f"{self.figure:.3g}"
            )
        expected = {
            "least_of_finetuned": "at least {:.1f} % of the accuracy of its own fine-tuned model on {}",
            "largest_drop": "a drop of at most {:.1f} points from the best accuracy so far on {}",
            "largest_average_drop": "a drop of at most {:.1f} points from the best so far on average over {}",
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

    @property
    def only_dissimilar(self) -> bool:
        """Whether nothing but the dissimilarity of the new task stands against the model."""
        return bool(self.broken) and all(finding.rule == DISSIMILARITY for finding in self.broken)


def judge(
    rules: settings.Gate,
    *,
    now: Mapping[str, float],
    finetuned: Mapping[str, float],
    best: Mapping[str, float],
    excused: Collection[str] = (),
    dissimilarity: Mapping[str, float] | None = None,
) -> Verdict:
    """The verdict on a merged model.

    Args:
        rules: the bounds.
        now: task -> accuracy of the model judged, as a fraction.
        finetuned: task -> accuracy of the task's own fine-tuned model under the same kind of head, for every task.
        best: task -> its best accuracy so far, for tasks that are neither new nor trained again.
        excused: tasks that a person accepted below `least_of_finetuned`: they are held to their drops alone.
        dissimilarity: task -> how far its features were from the merged model's before its merge; only those to be judged.

    A fine-tuned model that is never right cannot be fallen short of. Drops are positive where accuracy was lost.
    """
    findings = []
    if rules.largest_dissimilarity is not None:
        bound = rules.largest_dissimilarity
        for task, figure in (dissimilarity or {}).items():
            findings.append(Finding(DISSIMILARITY, task, figure, bound, figure <= bound))
    for task in sorted(now, key=lambda task: task in best):  # new ones first
        if task in excused and task in best:
            continue
        share = now[task] / finetuned[task] if finetuned[task] > 0 else 1.0
        findings.append(
            Finding("least_of_finetuned", task, share, rules.least_of_finetuned, share >= rules.least_of_finetuned)
        )
    drops = {task: accuracy - now[task] for task, accuracy in best.items() if task in now}
    for task, drop in drops.items():
        findings.append(Finding("largest_drop", task, drop, rules.largest_drop, drop <= rules.largest_drop))
    if drops:
        mean, bound = sum(drops.values()) / len(drops), rules.largest_average_drop
        findings.append(Finding("largest_average_drop", "all older tasks", mean, bound, mean <= bound))
    return Verdict(tuple(findings))
