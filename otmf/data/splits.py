"""The disjoint parts of a task's data, and the manifest that proves them apart. No torch here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otmf.data import cards, datasets


@dataclass(frozen=True)
class Split:
    """Positions in the train and test images of a task, and the manifest that proves the parts apart.

    `labelled` feeds fine-tuning and heads, `unlabelled` the merge (its labels are never read), `held_back` is left to
    the pretraining of a base, `test` is only ever scored.
    """

    labelled: NDArray[np.int64]
    unlabelled: NDArray[np.int64]
    held_back: NDArray[np.int64]
    test: NDArray[np.int64]
    manifest: dict[str, object]


def split(task: datasets.Task, *, unlabelled: float, held_back: float = 0.0, seed: int = 0) -> Split:
    """The disjoint parts of a task's data.

    Each train input is placed by a keyed hash of its content, class by class where labels are known, so the parts do
    not depend on the order of files, and copies of one input lie in one part. Train inputs whose content also occurs in
    test are dropped and counted.

    Args:
        task: the images.
        unlabelled: fraction of the train images whose labels are never read, in [0, 1).
        held_back: fraction of the train images left to pretraining, in [0, 1).
        seed: of the keyed hash.

    Raises:
        CardError: if a part that is needed would be empty.
    """
    train, test = task.train.fingerprints(), task.test.fingerprints()
    seen_in_test = set(test)
    kept = [position for position, mark in enumerate(train) if mark not in seen_in_test]
    labels = task.train.labels
    if labels is None:
        unlabelled = 1.0 - held_back
    parts: dict[str, list[int]] = {"held_back": [], "unlabelled": [], "labelled": []}
    placed: dict[str, str] = {}
    for group in _by_class(kept, labels):
        ranked = sorted(group, key=lambda position: _keyed(train[position], seed))
        marks = list(dict.fromkeys(train[position] for position in ranked))
        first = round(held_back * len(marks))
        second = first + max(round(unlabelled * len(marks)), int(unlabelled > 0 and len(marks) > 1))
        for rank, mark in enumerate(marks):
            placed.setdefault(mark, "held_back" if rank < first else "unlabelled" if rank < second else "labelled")
        for position in ranked:
            parts[placed[train[position]]].append(position)
    chosen = {name: np.sort(np.asarray(positions, dtype=np.int64)) for name, positions in parts.items()}
    chosen["test"] = np.arange(len(test), dtype=np.int64)
    _refuse_empty(task, chosen, labelled=labels is not None, unlabelled=unlabelled > 0)
    manifest = _manifest(task, chosen, train, test, dropped=len(train) - len(kept), seed=seed)
    if not manifest["disjoint"]:
        raise cards.CardError(
            f"task {task.name}: expected disjoint parts; received overlaps {manifest['overlaps']}; report this"
        )
    return Split(**chosen, manifest=manifest)


def _by_class(positions: list[int], labels: NDArray[np.int64] | None) -> list[list[int]]:
    if labels is None:
        return [positions]
    groups: dict[int, list[int]] = {}
    for position in positions:
        groups.setdefault(int(labels[position]), []).append(position)
    return [groups[label] for label in sorted(groups)]


def _refuse_empty(task: datasets.Task, parts: dict[str, NDArray[np.int64]], **needed: bool) -> None:
    for name in ("labelled", "unlabelled"):
        if needed[name] and len(parts[name]) == 0:
            raise cards.CardError(
                f"task {task.name}: expected {task.train.noun} in the {name} part of the split; received none "
                f"out of {len(task.train)} for training; add {task.train.noun} or change the fractions"
            )


def _manifest(
    task: datasets.Task,
    parts: dict[str, NDArray[np.int64]],
    train: list[str],
    test: list[str],
    *,
    dropped: int,
    seed: int,
) -> dict[str, object]:
    marks = {
        name: {(test if name == "test" else train)[position] for position in positions}
        for name, positions in parts.items()
    }
    names = sorted(marks)
    overlaps = {
        f"{one} & {other}": len(marks[one] & marks[other])
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    }
    return {
        "task": task.name,
        "seed": seed,
        "parts": {
            name: {
                "images": len(parts[name]),
                "distinct": len(marks[name]),
                "sha256": hashlib.sha256("\n".join(sorted(marks[name])).encode()).hexdigest(),
            }
            for name in names
        },
        "overlaps": overlaps,
        "disjoint": not any(overlaps.values()),
        "train_images_dropped_because_in_test": dropped,
    }


def _keyed(mark: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{mark}".encode()).hexdigest()
