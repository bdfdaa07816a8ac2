"""The gate's rules, on evaluations written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otmf import settings
from otmf.evaluation import gate

RULES = settings.Gate(least_of_finetuned=0.8, largest_drop=0.1, largest_average_drop=0.05)


def judged(now: dict[str, float], best: dict[str, float], *, finetuned: float = 1.0) -> gate.Verdict:
    """By the rules above; the fine-tuned models of older tasks are as good as these ever were."""
    return gate.judge(RULES, now=now, best=best, finetuned={"new": finetuned, **best})


def broken(now: dict[str, float], best: dict[str, float], **keys) -> list[tuple[str, str]]:
    found = judged(now, best, **keys)
    assert found.accepted == (not found.broken)
    return [(finding.rule, finding.about) for finding in found.broken]


def test_model_within_every_bound_is_accepted() -> None:
    assert broken({"a": 0.85, "b": 0.9, "new": 0.8}, {"a": 0.9, "b": 0.9}) == []


def test_new_task_too_far_below_its_expert_is_refused() -> None:
    assert broken({"a": 0.9, "new": 0.7}, {"a": 0.9}) == [("least_of_finetuned", "new")]
    assert broken({"a": 0.9, "new": 0.7}, {"a": 0.9}, finetuned=0.85) == []


def test_one_task_that_drops_too_far_is_refused_and_named() -> None:
    assert broken({"a": 0.75, "b": 0.9, "c": 0.9, "d": 0.9, "e": 0.9, "new": 0.9}, dict.fromkeys("abcde", 0.9)) == [
        ("largest_drop", "a")
    ]


def test_many_small_drops_are_refused_on_average() -> None:
    assert broken({"a": 0.82, "b": 0.82, "new": 0.9}, {"a": 0.9, "b": 0.9}) == [
        ("largest_average_drop", "all older tasks")
    ]


def test_first_task_has_no_drop() -> None:
    found = judged({"new": 0.9}, {})
    assert [finding.rule for finding in found.findings] == ["least_of_finetuned"]


def test_task_that_sinks_a_little_at_every_step_is_refused_in_the_end() -> None:
    """As seen on a line: 4.6, 4.6 and 1.6 points, each within a bound on one step."""
    found = [judged({"a": now, "new": 0.9}, {"a": 0.504}) for now in (0.458, 0.412, 0.396)]
    rules = RULES.model_copy(update={"largest_average_drop": 1.0, "least_of_finetuned": 0.0})
    assert [
        gate.judge(rules, now={"a": now}, best={"a": 0.504}, finetuned={"a": 0.8}).accepted
        for now in (0.458, 0.412, 0.396)
    ] == [True, True, False]
    assert not found[-1].accepted


def test_older_task_too_far_below_its_own_expert_is_refused_at_any_step() -> None:
    verdict = gate.judge(RULES, now={"a": 0.7, "new": 0.9}, best={"a": 0.7}, finetuned={"a": 0.9, "new": 0.9})
    assert [(finding.rule, finding.about) for finding in verdict.broken] == [("least_of_finetuned", "a")]
    excused = gate.judge(
        RULES, now={"a": 0.7, "new": 0.9}, best={"a": 0.7}, finetuned={"a": 0.9, "new": 0.9}, excused={"a", "new"}
    )
    assert excused.accepted, "a person accepted it so"
    assert ("least_of_finetuned", "new") in [(finding.rule, finding.about) for finding in excused.findings]


def test_expert_that_is_never_right_cannot_be_fallen_short_of() -> None:
    assert broken({"new": 0.0}, {}, finetuned=0.0) == []


def test_sentence_names_bound_and_figure_in_per_cent() -> None:
    found = judged({"a": 0.7, "new": 0.7}, {"a": 0.9})
    assert [finding.sentence() for finding in found.broken] == [
        "expected at least 80.0 % of the accuracy of its own fine-tuned model on new; received 70.0",
        "expected at least 80.0 % of the accuracy of its own fine-tuned model on a; received 77.8",
        "expected a drop of at most 10.0 points from the best accuracy so far on a; received 20.0",
        "expected a drop of at most 5.0 points from the best so far on average over all older tasks; received 20.0",
    ]


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_wider_bounds_never_refuse_what_narrower_ones_accept(accuracies) -> None:
    now = {task: pair[0] for task, pair in accuracies.items()} | {"new": 0.9}
    best = {task: pair[1] for task, pair in accuracies.items()}
    found = {"now": now, "best": best, "finetuned": {**best, "new": 0.9}}
    wide = RULES.model_copy(update={"largest_drop": 0.3, "largest_average_drop": 0.2})
    assert gate.judge(wide, **found).accepted or not gate.judge(RULES, **found).accepted


def test_task_trained_again_is_compared_with_its_expert_and_a_retired_one_with_nothing() -> None:
    found = gate.judge(RULES, now={"a": 0.5, "b": 0.9}, best={"b": 0.9, "gone": 1.0}, finetuned={"a": 0.5, "b": 1.0})
    assert [(finding.rule, finding.about) for finding in found.findings] == [
        ("least_of_finetuned", "a"), ("least_of_finetuned", "b"), ("largest_drop", "b"), ("largest_average_drop", "all older tasks")
    ]  # fmt: skip
    assert found.accepted


@pytest.mark.parametrize("key", ["largest_drop", "largest_average_drop"])
def test_bounds_outside_their_range_are_refused(key) -> None:
    with pytest.raises(settings.SettingsError, match=key):
        settings.section(settings.Gate, {key: 1.5})


def test_dissimilarity_is_judged_only_where_a_bound_is_set() -> None:
    figures = {"now": {"new": 0.9}, "best": {}, "finetuned": {"new": 0.9}, "dissimilarity": {"new": 3.0}}
    assert gate.judge(settings.Gate(), **figures).accepted
    verdict = gate.judge(settings.Gate(largest_dissimilarity=2.0), **figures)
    assert verdict.only_dissimilar
    assert verdict.broken[0].sentence() == (
        "expected features of new at most 2 variances away from the merged model's; received 3"
    )
    assert gate.judge(settings.Gate(largest_dissimilarity=4.0), **figures).accepted


def test_model_that_is_bad_as_well_is_not_only_dissimilar() -> None:
    rules = settings.Gate(largest_dissimilarity=2.0)
    verdict = gate.judge(rules, now={"new": 0.1}, best={}, finetuned={"new": 0.9}, dissimilarity={"new": 3.0})
    assert not verdict.only_dissimilar
    assert len(verdict.broken) == 2
