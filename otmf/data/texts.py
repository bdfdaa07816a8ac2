"""Texts of a task, as they lie in a gathered folder: one row of JSON a text. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from otmf.data import cards, tables

ROWS = "texts.jsonl"
PARTS = ("train", "test")
MAX_CHARACTERS = 1_000_000
_POSITION = re.compile(r"(-?[0-9]{1,9})(\.0+)?")  # pandas writes whole numbers with a point where one is absent


@dataclass(frozen=True)
class TextSet:
    """Texts held in memory."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64] | None
    noun: ClassVar = "texts"

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, positions: Sequence[int] | NDArray[np.int64]) -> list[str]:
        return [self.texts[int(position)] for position in positions]

    def fingerprints(self) -> list[str]:
        return [hashlib.sha256(text.encode()).hexdigest() for text in self.texts]

    def check(self) -> None:
        """Refuses texts with nothing in them, and those that are too long to be one input."""
        for number, text in enumerate(self.texts, start=1):
            check(text, f"text {number}")

    def chosen(self, positions: NDArray[np.int64]) -> TextSet:
        """Those at some positions alone."""
        labels = None if self.labels is None else self.labels[positions]
        return TextSet(tuple(self.read(positions)), labels)


def check(text: str, name: str) -> None:
    """Refuses a text that cannot be an input; `name` is what errors call it."""
    if not text.strip():
        raise cards.CardError(f"expected a text with something in it; received {name}, which is empty; remove it")
    if len(text) > MAX_CHARACTERS:
        raise cards.CardError(
            f"expected texts of at most {MAX_CHARACTERS} characters; received {name} with {len(text)}; cut it"
        )


def sets(folder: Path) -> tuple[TextSet, TextSet]:
    """Train and test texts in a gathered folder.

    Raises:
        CardError: if a row is not one that `write` writes.
    """
    found: dict[str, list[tuple[str, int | None]]] = {part: [] for part in PARTS}
    for number, line in enumerate((folder / ROWS).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["part"]].append((str(row["text"]), row["label"]))
        except (ValueError, KeyError, TypeError) as error:
            raise cards.CardError(
                f"expected part, text and label in row {number} of {ROWS}; received another row; onboard the card again"
            ) from error
    train, test = (_set(found[part]) for part in PARTS)
    return train, test


def _set(rows: list[tuple[str, int | None]]) -> TextSet:
    labels = [label for _, label in rows]
    known = None if None in labels else np.asarray(labels, dtype=np.int64)
    return TextSet(tuple(text for text, _ in rows), known)


def write(folder: Path, train: TextSet, test: TextSet) -> None:
    """Writes texts as `sets` reads them; the same texts give the same bytes."""
    with (folder / ROWS).open("w", encoding="utf-8", newline="\n") as stream:
        for part, found in zip(PARTS, (train, test), strict=True):
            labels = [None] * len(found) if found.labels is None else found.labels.tolist()
            for text, label in zip(found.texts, labels, strict=True):
                row = {"part": part, "text": text, "label": label}
                stream.write(json.dumps(row, ensure_ascii=True) + "\n")


def from_table(source: Path, card: cards.Card) -> tuple[tuple[str, ...], TextSet, TextSet]:
    """Classes, train and test texts of a card whose source is a table, or a folder with one for each part.

    Raises:
        CardError: if the table does not read, lacks a column or a text, or has labels that are neither class names nor their positions.
    """
    columns = card.columns
    if source.is_dir():
        rows = {part: _rows(_one(source, getattr(columns, part), card.source), card, needed=[]) for part in PARTS}
    else:
        rows = _by_part(_rows(source, card, needed=[columns.split]), columns)
    classes = card.classes or _classes(rows["train"], columns)
    known = {name: position for position, name in enumerate(classes)}
    train, test = (
        _set([(tables.filled(columns.text, row), _label(row, part, known, card)) for row in rows[part]])
        for part in PARTS
    )
    return classes, train, test


def _one(folder: Path, part: str, suffix: str) -> Path:
    path = folder / f"{part}.{suffix}"
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise cards.CardError(
            f"expected {path.name} in the folder {folder.name}; received none, or a link that leads outside; put it there"
        )
    return path


def _rows(path: Path, card: cards.Card, *, needed: list[str]) -> list[tables.Row]:
    found, columns = tables.read(path, card.source), card.columns
    named = [name for _, name, _, _ in string.Formatter().parse(columns.text) if name is not None]
    there = {name: None for row in found for name in row.cells}
    for name in [*needed, *named, *([] if card.checkpoint else [columns.label])]:
        if name not in there:
            raise cards.CardError(
                f"expected a column {name!r} in {path.name}; received {', '.join([*there][:8]) or 'none'}; name it in "
                "the card's columns"
            )
    return found


def _by_part(rows: list[tables.Row], columns: cards.Columns) -> dict[str, list[tables.Row]]:
    found: dict[str, list[tables.Row]] = {part: [] for part in PARTS}
    names = {getattr(columns, part): part for part in PARTS}
    for row in rows:
        said = str(row.cells.get(columns.split))
        if said in names:
            found[names[said]].append(row)
        elif said not in columns.left_out:
            raise cards.CardError(
                f"expected {' or '.join(names)} in the column {columns.split}; received {said[:60]!r} in row {row.number}; name it in "
                "the card's columns, or under left_out"
            )
    return found


def _classes(rows: Iterable[tables.Row], columns: cards.Columns) -> tuple[str, ...]:
    names = sorted({_said(row, columns) for row in rows} - {None})
    if len(names) < 2 or all(name.lstrip("-").isdigit() for name in names):
        raise cards.CardError(
            f"expected `classes` in the card, or the names of at least two in the column {columns.label}; received "
            f"{', '.join(names[:5]) or 'none'}; list them in the card"
        )
    return tuple(names)


def _said(row: tables.Row, columns: cards.Columns) -> str | None:
    """A label as text, a whole number without a point; None where there is none."""
    value = row.cells.get(columns.label)
    if tables.missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return tables.text(tables.Row(row.number, {columns.label: value}), columns.label)


def _label(row: tables.Row, part: str, known: Mapping[str, int], card: cards.Card) -> int | None:
    columns = card.columns
    said = _said(row, columns)
    if said is None and card.checkpoint is not None and (part == "train" or columns.label not in row.cells):
        return None
    if said in known:
        return known[said]
    whole = _POSITION.fullmatch(said or "")
    if whole:
        return known.get(whole[1], int(whole[1]))
    shown = "no label" if said is None else f"{said[:60]!r}, a label outside the {len(known)} classes"
    raise cards.CardError(
        f"expected a class of {card.name} or its position in the column {columns.label} of row {row.number}; received {shown}; "
        "mend the table or add the class"
    )
