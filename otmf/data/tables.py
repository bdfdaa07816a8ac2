"""Tables that people bring, read row by row as they stand: nothing is guessed, shifted or turned into another kind of value."""

from __future__ import annotations

import csv
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otmf.data import cards
from otmf.runtime import foreign_parsers, strict_json
from otmf.settings import limits

LONGEST_FIELD = 1 << 24
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: from 1, the header not counted.
        cells: column -> value; None where the table has none.
    """

    number: int
    cells: Mapping[str, Any]


def read(path: Path, kind: str) -> list[Row]:
    """The rows of a table.

    Args:
        kind: `csv`, `parquet` or `jsonl`.

    Raises:
        CardError: if the file is no such table, or names a column twice.
    """

    def refusal(reason: str) -> cards.CardError:
        return cards.CardError(
            f"expected a table ({kind}) in {path.name}; received one that does not read ({reason}); write it anew"
        )

    found, size = [], 0
    with foreign_parsers.reading(refusal, ours=(cards.CardError,)):
        try:
            for number, cells in enumerate(_READERS[kind](path), start=1):
                size += sum(len(value) if isinstance(value, str | bytes) else 16 for value in cells.values())
                limits.require(f"rows in {path.name}", number, "table_rows")
                limits.require(f"MiB of values in {path.name}", size / MIB, "table_mib")
                if number % 1000 == 0:
                    limits.require_time()
                found.append(Row(number, cells))
        except limits.LimitError as error:
            raise cards.CardError(str(error)) from error
    return found


def missing(value: Any) -> bool:
    """Whether a cell has nothing in it."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text(row: Row, column: str) -> str:
    """A cell that is a text or a number, as text.

    Raises:
        CardError: if it is absent, or anything else.
    """
    value = row.cells.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or (value != "" and missing(value)):
        said = "none" if value is None or isinstance(value, float) else f"a {type(value).__name__}"
        raise cards.CardError(
            f"expected a text in the column {column} of row {row.number}; received {said}; mend the table or leave the row out"
        )
    return str(value)


def filled(template: str, row: Row) -> str:
    """A template with the columns of a row in the places of their names in braces. Raises as `text`."""
    parts = string.Formatter().parse(template)
    return "".join(said + ("" if name is None else text(row, name)) for said, name, _, _ in parts)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = (line for line in csv.reader(stream, strict=True) if line)
        header = _distinct(next(lines, []))
        for number, line in enumerate(lines, start=1):
            if len(line) != len(header):
                raise ValueError(f"{len(line)} fields in row {number} under {len(header)} names")
            yield dict(zip(header, line, strict=True))


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n"):  # other line ends may stand within a text
        if line.strip():
            found = strict_json.loads(line)
            if not isinstance(found, dict):
                raise ValueError(f"a row that is no object: {line[:60]}")
            yield found


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        _distinct(file.schema_arrow.names)
        limits.require(f"rows in {path.name}", file.metadata.num_rows, "table_rows")
        for batch in file.iter_batches(batch_size=1024):  # a page of one repeated text takes little until it is a row's
            yield from batch.to_pylist()


def _distinct(names: list[str]) -> list[str]:
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise ValueError(f"{double[:60]!r} named twice")
    return names


_READERS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
