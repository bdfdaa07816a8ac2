"""A task's data, whatever it is made of: loaded from a gathered folder, its labels checked. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from otmf.data import cards, images, texts

DESCRIPTION = "task.json"
IMAGES, TEXTS = "images", "texts"


class DataSet(Protocol):
    """Inputs that can be read by position, by the backbone that understands them.

    Attributes:
        labels: int64 (n,), or None where a task brought none.
        noun: what the inputs are called, `images` or `texts`.
    """

    labels: NDArray[np.int64] | None
    noun: ClassVar[str]

    def __len__(self) -> int: ...

    def fingerprints(self) -> list[str]:
        """sha256 of each input's content, in hexadecimal."""
        ...

    def check(self) -> None:
        """Reads every input once. Raises CardError for the first that cannot be used."""
        ...


@dataclass(frozen=True)
class Task:
    """All inputs of one task, with the names of its classes and the prompts for zero-shot heads."""

    name: str
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    train: DataSet
    test: DataSet


def load(folder: Path) -> Task:
    """The data in a folder written by `gather`.

    Raises:
        CardError: if files are missing or malformed.
    """
    description = describe(folder)
    classes = tuple(description["classes"])
    folders = tuple(description.get("folders", classes))
    train, test = texts.sets(folder) if (folder / texts.ROWS).exists() else images.sets(folder, folders)
    return Task(description["name"], classes, tuple(description["prompts"]), train, test)


def describe(folder: Path) -> dict:
    """The content of `task.json` in a gathered folder."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise cards.CardError(f"expected {DESCRIPTION} in {folder}; received none; onboard the task's card again")
    return json.loads(path.read_text(encoding="utf-8"))


def read_by(backbone: Mapping[str, Any]) -> str:
    """What a backbone of a configuration reads: `images` or `texts`."""
    return TEXTS if "transformers" in backbone else IMAGES


def check(task: Task, *, needs_training_labels: bool = True) -> None:
    """Refuses data that cannot make a task; reads every input once.

    Raises:
        CardError: if a part is empty, a label lies outside the classes, only one class occurs, a class has no input,
            there are fewer inputs than classes, or an input does not decode.
    """
    count = len(task.classes)
    for part, found in (("train", task.train), ("test", task.test)):
        if len(found) == 0:
            raise cards.CardError(
                f"task {task.name}: expected {found.noun} in the {part} part; received none; add some"
            )
        _check_labels(task, part, found, count, required=part == "test" or needs_training_labels)
        found.check()


def remarks(task: Task) -> list[str]:
    """Sentences on what a person may not have meant: classes that no test input has."""
    present = np.bincount(task.test.labels, minlength=len(task.classes))
    absent = [task.classes[position] for position in np.flatnonzero(present == 0)]
    if not absent:
        return []
    return [
        f"no test {task.test.noun} of {', '.join(absent[:3])} ({len(absent)} of {len(task.classes)} classes): its accuracy says nothing of them"
    ]


def _check_labels(task: Task, part: str, found: DataSet, count: int, *, required: bool) -> None:
    labels = found.labels
    if labels is None:
        if required:
            raise cards.CardError(
                f"task {task.name}: expected labels for the {part} {found.noun}; received none; "
                "add them, or bring a checkpoint"
            )
        return
    if labels.shape != (len(found),):
        raise cards.CardError(
            f"task {task.name}: expected one label for each of the {len(found)} {part} {found.noun}; "
            f"received {labels.shape}; mend the arrays"
        )
    outside = labels[(labels < 0) | (labels >= count)]
    if outside.size:
        raise cards.CardError(
            f"task {task.name}: expected {part} labels from 0 to {count - 1}, one for each class; "
            f"received {int(outside[0])} ({outside.size} such); mend the labels or the classes"
        )
    if not required:
        return
    if part == "train" and len(found) < count:
        raise cards.CardError(
            f"task {task.name}: expected at least one train {found.noun[:-1]} for each of {count} classes; "
            f"received {len(found)} {found.noun}; add {found.noun} or drop classes"
        )
    present = np.bincount(labels, minlength=count)
    if (present > 0).sum() < 2:
        raise cards.CardError(
            f"task {task.name}: expected {part} {found.noun} of at least two classes; received only "
            f"{task.classes[int(labels[0])]!r}; add {found.noun} of the others"
        )
    absent = [task.classes[position] for position in np.flatnonzero(present == 0)]
    if part == "train" and absent:
        raise cards.CardError(
            f"task {task.name}: expected train {found.noun} of every class; received none of "
            f"{', '.join(absent[:3])} ({len(absent)} such); add {found.noun} or drop the classes"
        )
