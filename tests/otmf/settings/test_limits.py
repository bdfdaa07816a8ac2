"""Bounds on somebody else's data: each is named with its setting, and met before the data is in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from otmf import settings
from otmf.data import cards, images, tables
from otmf.settings import limits


def test_table_that_claims_many_rows_is_refused_before_they_are_read(tmp_path) -> None:
    """A column of one repeated text takes next to nothing in the file."""
    path, rows = tmp_path / "a.parquet", 400_000
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x" * 1000]))
    parquet.write_table(pa.table({"text": column}), path)
    tracemalloc.start()
    with (
        limits.applied(limits.Limits(table_rows=1000)),
        pytest.raises(
            cards.CardError, match=r"expected at most 1000 rows in a\.parquet; received 400000; .* limits\.table_rows"
        ),
    ):
        tables.read(path, "parquet")
    with (
        limits.applied(limits.Limits(table_mib=2)),
        pytest.raises(cards.CardError, match=r"expected at most 2 MiB of values in a\.parquet"),
    ):
        tables.read(path, "parquet")
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def test_seconds_are_counted_from_where_they_are_applied(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "a\n" * 2000)
    with (
        limits.applied(limits.Limits(seconds=1e-9)),
        pytest.raises(cards.CardError, match=r"expected data that is read and checked within 1e-09 seconds"),
    ):
        tables.read(path, "csv")
    assert len(tables.read(path, "csv")) == 2000


def test_arrays_are_bounded_as_they_would_be_unpacked(tmp_path) -> None:
    np.savez_compressed(tmp_path / "a.npz", train_x=np.zeros(3 << 20, np.uint8), test_x=np.zeros(1, np.uint8))
    with (
        limits.applied(limits.Limits(arrays_mib=2)),
        pytest.raises(
            cards.CardError, match=r"expected at most 2 MiB in it when unpacked; received 4; .* limits\.arrays_mib"
        ),
    ):
        images.open_arrays(tmp_path / "a.npz")


def test_bounds_are_settings_of_a_line() -> None:
    assert settings.check({"line": "a", "limits": {"table_rows": 5}}).limits.table_rows == 5
    with pytest.raises(settings.SettingsError, match=r"limits\.table_rows"):
        settings.check({"line": "a", "limits": {"table_rows": 0}})
