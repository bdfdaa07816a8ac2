"""How well the dissimilarity of a new task, known before its merge, foretells what the merge does to old tasks and to the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

FEWEST = 5  # merges that a rank correlation is given for


def merges(rows: pd.DataFrame, finetuned: Mapping[str, float]) -> pd.DataFrame:
    """One row for each later merge of a method that measured the dissimilarity, and was scored on all tasks before it and after.

    Columns: order, seed, step, task, dissimilarity; damage, the mean loss of accuracy on old tasks; shortfall, what the new task lacks of its expert's.
    """
    found = []
    for (order, seed), run in rows.groupby(["order", "seed"], sort=False):
        steps = {step: own.set_index("task") for step, own in run.groupby("step")}
        for step, own in steps.items():
            before = steps.get(step - 1)
            if before is None or len(own) != step or len(before) != step - 1:
                continue
            new = own.index.difference(before.index)
            dissimilarity = own["dissimilarity"].iloc[0]
            if len(new) != 1 or pd.isna(dissimilarity):
                continue
            damage = float((before["accuracy"] - own["accuracy"].reindex(before.index)).mean())
            shortfall = finetuned[new[0]] - float(own.loc[new[0], "accuracy"])
            found.append({"order": order, "seed": seed, "step": step, "task": new[0], "dissimilarity": float(dissimilarity),
                          "damage": damage, "shortfall": shortfall})  # fmt: skip
    return pd.DataFrame(found, columns=["order", "seed", "step", "task", "dissimilarity", "damage", "shortfall"])


def foretold(found: pd.DataFrame) -> dict[str, Any] | None:
    """Spearman's rank correlations of dissimilarity with damage and shortfall, and mean damage in its lowest and highest third.

    None where there are fewer than FEWEST merges or all are equally dissimilar.
    """
    if len(found) < FEWEST or found["dissimilarity"].nunique() < 2:
        return None
    ranked = found.sort_values("dissimilarity")
    third = max(1, len(ranked) // 3)
    return {
        "merges": len(found),
        "least": float(ranked["damage"].iloc[:third].mean()),
        "most": float(ranked["damage"].iloc[-third:].mean()),
        **{name: _ranks(found["dissimilarity"], found[name]) for name in ("damage", "shortfall")},
    }


def by_pair(found: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Pairs of tasks from most alike to most unlike: order, dissimilarity, and method -> damage and shortfall, means over seeds.

    Args:
        found: method -> its merges of two tasks each.
    """
    if not found:
        return []
    both = pd.concat([own.assign(method=name) for name, own in found.items()])
    pairs = [
        {
            "order": order,
            "dissimilarity": float(own["dissimilarity"].mean()),
            "methods": {name: (float(rows["damage"].mean()), float(rows["shortfall"].mean())) for name, rows in own.groupby("method", sort=False)},
        }
        for order, own in both.groupby("order", sort=False)
    ]  # fmt: skip
    return sorted(pairs, key=lambda pair: pair["dissimilarity"])


def _ranks(x: pd.Series, y: pd.Series) -> tuple[float, float] | None:
    if np.ptp(y.to_numpy()) == 0:
        return None
    result = stats.spearmanr(x, y)
    return float(result.statistic), float(result.pvalue)
