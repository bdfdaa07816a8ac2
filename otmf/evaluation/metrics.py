"""Accuracy over tasks and steps: R[t,i], ACC, BWT, forgetting. Accuracies are fractions in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def accuracy_matrix(rows: Iterable[Mapping[str, Any]], *, value: str = "accuracy") -> pd.DataFrame:
    """R[t,i]: accuracy on task i after step t.

    Args:
        rows: mappings with `step`, `task` and `value`; the first row of a step's new task fixes the order of tasks.
        value: the column to read.

    Returns:
        Steps in rows, tasks in columns, both in order of appearance; NaN above the diagonal.

    Raises:
        ValueError: if a step and task occur twice, or a value is outside [0, 1].
    """
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        step, task, accuracy = str(row["step"]), str(row["task"]), float(row[value])
        if not 0 <= accuracy <= 1:
            raise ValueError(
                f"expected an accuracy in [0, 1]; received {accuracy} for {task} after {step}; divide per cent by 100"
            )
        if task in table.setdefault(step, {}):
            raise ValueError(f"expected one accuracy for {task} after {step}; received two; keep one")
        table[step][task] = accuracy
    tasks = list(dict.fromkeys(task for row in table.values() for task in row))
    return pd.DataFrame.from_dict(table, orient="index", columns=None).reindex(columns=tasks)


def average_accuracy(matrix: pd.DataFrame) -> float:
    """ACC = mean_i R[T,i] over the tasks merged at the last step T."""
    return float(matrix.iloc[-1].dropna().mean())


def backward_transfer(matrix: pd.DataFrame) -> float:
    """BWT = (1 / (T-1)) sum_{i<T} (R[T,i] - R[i,i]), with R[i,i] the accuracy right after task i was merged.

    Raises:
        ValueError: at T = 1, where there is no earlier task.

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840.
    """
    if len(matrix) < 2:
        raise ValueError(f"expected at least 2 steps for backward transfer; received {len(matrix)}; merge another task")
    first = matrix.apply(lambda column: column.dropna().iloc[0])
    earlier = list(matrix.columns[: len(matrix) - 1])
    return float((matrix.iloc[-1][earlier] - first[earlier]).mean())


def forgetting(matrix: pd.DataFrame) -> dict[str, float]:
    """Forgetting_i = max_{t<T} R[t,i] - R[T,i], for each task merged before the last step T."""
    before, last = matrix.iloc[:-1], matrix.iloc[-1]
    return {str(task): float(before[task].max() - last[task]) for task in matrix.columns if before[task].notna().any()}


def normalised_accuracy(matrix: pd.DataFrame, finetuned: Mapping[str, float]) -> float:
    """Mean over tasks of R[T,i] / accuracy of the fine-tuned model of task i.

    Raises:
        ValueError: if a fine-tuned accuracy is not positive.
    """
    last = matrix.iloc[-1].dropna()
    if any(not finetuned[str(task)] > 0 for task in last.index):
        raise ValueError(
            f"expected positive accuracies of the fine-tuned models; received {dict(finetuned)}; train them again"
        )
    return float(sum(value / finetuned[str(task)] for task, value in last.items()) / len(last))
