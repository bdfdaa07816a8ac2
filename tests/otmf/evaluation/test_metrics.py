"""Metrics: values by hand, and messages."""

from __future__ import annotations

import pytest

from otmf.evaluation import metrics

ROWS = [
    {"step": "s01", "task": "a", "accuracy": 0.9},
    {"step": "s02", "task": "a", "accuracy": 0.95},
    {"step": "s02", "task": "b", "accuracy": 0.8},
    {"step": "s03", "task": "a", "accuracy": 0.7},
    {"step": "s03", "task": "b", "accuracy": 0.9},
    {"step": "s03", "task": "c", "accuracy": 0.6},
]


def test_accuracy_matrix_keeps_the_order_of_steps_and_tasks() -> None:
    matrix = metrics.accuracy_matrix(ROWS)
    assert list(matrix.index) == ["s01", "s02", "s03"]
    assert list(matrix.columns) == ["a", "b", "c"]
    assert matrix.loc["s01"].isna().tolist() == [False, True, True]


def test_average_accuracy_is_the_mean_of_the_last_row() -> None:
    assert metrics.average_accuracy(metrics.accuracy_matrix(ROWS)) == pytest.approx((0.7 + 0.9 + 0.6) / 3)


def test_backward_transfer_divides_by_one_less_than_the_number_of_tasks() -> None:
    """Not by the number of tasks, which would shrink it."""
    assert metrics.backward_transfer(metrics.accuracy_matrix(ROWS)) == pytest.approx(((0.7 - 0.9) + (0.9 - 0.8)) / 2)


def test_forgetting_is_measured_from_the_best_earlier_step() -> None:
    found = metrics.forgetting(metrics.accuracy_matrix(ROWS))
    assert found == pytest.approx({"a": 0.95 - 0.7, "b": 0.8 - 0.9})


def test_normalised_accuracy_is_the_mean_of_ratios() -> None:
    finetuned = {"a": 1.0, "b": 0.9, "c": 0.8}
    assert metrics.normalised_accuracy(metrics.accuracy_matrix(ROWS), finetuned) == pytest.approx(
        (0.7 + 1.0 + 0.75) / 3
    )


def test_backward_transfer_of_one_step_is_refused() -> None:
    with pytest.raises(
        ValueError, match="expected at least 2 steps for backward transfer; received 1; merge another task"
    ):
        metrics.backward_transfer(metrics.accuracy_matrix(ROWS[:1]))


def test_accuracy_in_per_cent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an accuracy in \[0, 1\]; received 90.0"):
        metrics.accuracy_matrix([{"step": "s01", "task": "a", "accuracy": 90}])


def test_two_accuracies_for_one_task_and_step_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one accuracy for a after s01; received two"):
        metrics.accuracy_matrix([ROWS[0], ROWS[0]])


def test_finetuned_accuracy_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="expected positive accuracies of the fine-tuned models"):
        metrics.normalised_accuracy(metrics.accuracy_matrix(ROWS[:1]), {"a": 0.0})
