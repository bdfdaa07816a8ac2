"""What the rows of a comparison say: means and deviations over orders, curves, costs, paired tests. Markdown and one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from flows.bench import dissimilarity
from flows.rendering import figures, templates
from otmf.evaluation import metrics

RESAMPLES = 100_000
COSTS = ("seconds", "added_mib", "state_mib")  # of a step
HEADS = {"frozen": "", "aligned": ", heads aligned", "previous": ", previous head tuned", "all": ", all heads tuned"}


def write(folder: Path, rows: pd.DataFrame, references: pd.DataFrame, *, title: Mapping[str, Any]) -> None:
    """`tables.md` and `tables.html` in a folder, whole or not at all."""
    content = {**title, **summarised(rows, references)}
    content["curves"] = {name: figure(content) for name, figure in _FIGURES.items()}
    for name in ("md", "html"):
        page = templates.environment().get_template(f"bench.{name}.j2").render(**content)
        part = folder / f"tables.{name}.part"
        part.write_text(page, encoding="utf-8")
        part.replace(folder / f"tables.{name}")


def summarised(rows: pd.DataFrame, references: pd.DataFrame) -> dict[str, Any]:
    """Everything the pages show, as plain values."""
    finetuned = dict(zip(references["task"], references["finetuned"], strict=True))
    tasks = list(finetuned)
    found = [_method(name, kind, own, finetuned) for (name, kind), own in rows.groupby(["method", "heads"], sort=False)]
    best = max((row for row in found if not row["joint"]), key=lambda row: np.mean(row["accs"]), default=None)
    tests = [] if best is None else _tests(found, best)
    return {
        "task_names": tasks,
        "base": {"acc": float(references["base"].mean()), **dict(zip(tasks, references["base"], strict=True))},
        "finetuned": {"acc": float(references["finetuned"].mean()), **finetuned},
        "methods": found,
        "forgets": any(row["forgetting"] for row in found),
        "best": None if best is None else best["label"],
        "tests": tests,
        "least_p": least_corrected([test["pairs"] for test in tests]),
        "pairs": dissimilarity.by_pair(
            {row["label"]: row["merges"] for row in found if len(row["merges"])} if _of_pairs(rows) else {}
        ),
        "steps": sorted(rows["step"].unique().tolist()),
        "about": {
            key: sorted({str(value) for value in rows[key]})
            for key in ("device", "dtype", "threads", "release", "commit")
        },
    }


def _of_pairs(rows: pd.DataFrame) -> bool:
    return bool(rows["order"].str.contains("+", regex=False).all())


def _method(name: str, kind: str, rows: pd.DataFrame, finetuned: Mapping[str, float]) -> dict[str, Any]:
    """One row of the table, with all that is drawn of it."""
    joint = bool(rows["joint"].iloc[0])
    of_runs = {key: run for key, run in rows.groupby(["order", "seed"], sort=False)}
    matrices = {key: metrics.accuracy_matrix(run.to_dict("records")) for key, run in of_runs.items()}
    accs = {key: metrics.average_accuracy(matrix) for key, matrix in matrices.items()}
    chains = {} if joint else {key: matrix for key, matrix in matrices.items() if len(matrix) > 1}
    steps = rows.drop_duplicates(["order", "seed", "step"])
    later = steps[steps["step"] > 1] if (steps["step"] > 1).any() else steps
    last = steps[steps["step"] == steps["step"].max()]
    merges = dissimilarity.merges(rows, finetuned)
    changes = [matrix.iloc[-1] - _own(matrix) for matrix in chains.values()]
    return {
        "method": name,
        "heads": kind,
        "joint": joint,
        "label": name + HEADS[kind],
        "sees": _sees(rows),
        "runs": len(accs),
        "accs": list(accs.values()),
        "keys": [f"{order}.{seed}" for order, seed in accs],
        "acc": spread(accs.values()),
        "bwt": spread(metrics.backward_transfer(matrix) for matrix in chains.values()),
        "forgetting": spread(np.mean(list(metrics.forgetting(matrix).values())) for matrix in chains.values())
        if all(_whole(matrix) for matrix in chains.values())
        else None,
        "normalised": spread(metrics.normalised_accuracy(matrix, finetuned) for matrix in matrices.values())
        if all(value > 0 for value in finetuned.values())
        else None,
        "learned": spread(_own(matrix).mean() for matrix in chains.values()),
        "final": {
            task: spread(matrix.iloc[-1][task] for matrix in matrices.values() if task in matrix) for task in finetuned
        },
        "foretold": dissimilarity.foretold(merges),
        "merges": merges,
        "after": _after(chains.values()),
        "since": {task: spread(change[task] for change in changes if task in change.index[:-1]) for task in finetuned},
        "dropped": _dropped(chains.values()),
        "matrices": [
            {"order": order, "seed": seed, "tasks": list(matrix.columns), "rows": figures.heat(matrix)}
            for (order, seed), matrix in chains.items()
        ],
        "seconds": spread(later["seconds"]),
        "peak_mib": spread(later["peak_mib"].dropna()),
        "added_mib": spread(later["added_mib"].dropna()),
        "state_mib": spread(last["state_mib"]),
        "mask_share": spread(later["mask_share"].dropna()),
        "costs": {int(step): {key: spread(own[key].dropna()) for key in COSTS} for step, own in steps.groupby("step")},
        "trend": {key: _trend(later, key) for key in COSTS},
    }


def _trend(later: pd.DataFrame, key: str) -> tuple[float, float | None] | None:
    """By how much, as a fraction, the second half of a run's later steps cost more than the first half; mean and deviation over runs."""
    middle = (later["step"].min() + later["step"].max()) / 2
    told = later.assign(second=later["step"] > middle).dropna(subset=[key]).astype({key: float})
    halves = told.groupby(["order", "seed", "second"])[key].mean().unstack()
    if set(halves.columns) != {False, True} or not (halves[False] > 0).all():
        return None
    return spread((halves[True] / halves[False] - 1).dropna())


def _sees(rows: pd.DataFrame) -> str:
    """What its merges, and the heads after them, saw at most, in words."""
    new, old = int(rows["new_inputs"].max()), int(rows["old_inputs"].max())
    parts = [f"{new} new" if new else "", f"{old} old" if old else ""]
    told = " + ".join(part for part in parts if part) or "nothing"
    told_of_heads = "head_inputs" in rows  # rows of earlier releases have none
    read = int(rows["head_inputs"].fillna(0).max()) if told_of_heads else 0
    return f"{told}; heads {read} {'new' if rows['heads'].iloc[0] == 'aligned' else 'labelled'}" if read else told


def _own(matrix: pd.DataFrame) -> pd.Series:
    """R[i,i] of each task."""
    return matrix.apply(lambda column: column.dropna().iloc[0])


def _after(matrices: Any) -> dict[int, tuple[float, float | None]]:
    """Step -> mean accuracy on the tasks seen so far, where all of them were scored."""
    whole = [matrix for matrix in matrices if _whole(matrix)]
    if not whole:
        return {}
    return {step: spread(matrix.iloc[step - 1].mean() for matrix in whole) for step in range(1, len(whole[0]) + 1)}


def _whole(matrix: pd.DataFrame) -> bool:
    """Whether all tasks so far were scored after every step."""
    return all(matrix.iloc[place].notna().sum() == place + 1 for place in range(len(matrix)))


def _dropped(matrices: Any) -> dict[int, tuple[float, float | None]]:
    """Steps since a task's own -> its accuracy less what it was then, mean over tasks; deviation over runs."""
    found: dict[int, list[float]] = {}
    for matrix in matrices:
        own = _own(matrix)
        lost: dict[int, list[float]] = {}
        for at, step in enumerate(matrix.index):
            for place, task in enumerate(matrix.columns[:at]):
                if not np.isnan(matrix.loc[step, task]):
                    lost.setdefault(at - place, []).append(matrix.loc[step, task] - own[task])
        for since, values in lost.items():
            found.setdefault(since, []).append(float(np.mean(values)))
    return {since: spread(found[since]) for since in sorted(found)}


def _tests(found: Sequence[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """Each method against the best, on the runs both have: the mean difference of ACC, and an exact test of its sign.

    The p value is that of the paired sign-flip permutation test, two-sided; Holm's correction is over the methods.
    """
    tests = []
    for row in found:
        pairs = dict(zip(best["keys"], best["accs"], strict=True))
        both = [(acc, pairs[key]) for key, acc in zip(row["keys"], row["accs"], strict=True) if key in pairs]
        if row is best or row["joint"] or len(both) < 2:
            continue
        differences = np.array([acc - reference for acc, reference in both])
        tests.append(
            {"label": row["label"], "pairs": len(both), "difference": spread(differences), "p": p_value(differences)}
        )
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["holm"] = corrected
    return tests


def p_value(differences: np.ndarray) -> float:
    """Two-sided p of paired differences having a mean of zero, by flipping their signs: all 2^n ways where they are few."""
    if not np.any(differences):
        return 1.0
    found = stats.permutation_test(
        (differences,), lambda values: float(np.mean(values)), permutation_type="samples", n_resamples=RESAMPLES, rng=0,
        vectorized=False,
    )  # fmt: skip
    return float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values after Holm's step-down correction, in the order given."""
    corrected, so_far = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        so_far = max(so_far, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = so_far
    return corrected


def least_corrected(pairs: Sequence[int]) -> float | None:
    """The least p that so many tests of so many pairs can have after Holm's correction: two of the signs' 2^n ways, or of the drawn ones."""
    return min((min(1.0, len(pairs) * max(2.0 ** (1 - count), 2 / RESAMPLES)) for count in pairs), default=None)


def spread(values: Any) -> tuple[float, float | None] | None:
    """Mean and deviation (of a sample); no deviation of a single value, None of none."""
    found = [float(value) for value in values]
    if not found:
        return None
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else None


def _lines(content: Mapping[str, Any], key: str, x: str, y: str) -> str:
    def draw(axes: Any) -> None:
        for row in content["methods"]:
            points = {at: value for at, value in row[key].items() if value}
            if points:
                axes.plot(
                    list(points),
                    [100 * value[0] for value in points.values()],
                    marker=".",
                    linewidth=1,
                    label=row["label"],
                )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(frameon=False, fontsize=5, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return figures.svg(draw, size=(6.4, 3.4))


def _plane(content: Mapping[str, Any]) -> str:
    def draw(axes: Any) -> None:
        for row in content["methods"]:
            if row["learned"] and row["bwt"]:
                axes.plot(100 * row["learned"][0], 100 * row["bwt"][0], "o", markersize=4)
                axes.annotate(row["label"], (100 * row["learned"][0], 100 * row["bwt"][0]), fontsize=5, xytext=(3, 2),
                              textcoords="offset points")  # fmt: skip
        axes.set_xlabel("plasticity: accuracy after a task's own step, %")
        axes.set_ylabel("stability: BWT, points")

    return figures.svg(draw, size=(6.4, 3.4))


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "after": lambda content: _lines(content, "after", "step", "ACC over the tasks so far, %"),
    "dropped": lambda content: _lines(content, "dropped", "steps since the task's own", "change of accuracy, points"),
    "plane": _plane,
}
