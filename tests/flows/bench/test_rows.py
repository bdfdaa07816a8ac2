"""Files of rows: whole or not at all, and never those of another configuration."""

from __future__ import annotations

import contextlib
import os

import pandas as pd
import pytest

from flows.bench import rows as bench_rows
from flows.programs.failures import WorkspaceError

ROWS = [{"task": "one", "step": 1, "accuracy": 0.5}, {"task": "two", "step": 1, "accuracy": None}]


def test_rows_are_found_by_name_and_identity(tmp_path) -> None:
    assert bench_rows.finished(tmp_path, {"a.42.0": "x"}) == set()
    bench_rows.write(tmp_path, "a.42.0", ROWS, identity="x")
    assert bench_rows.finished(tmp_path, {"a.42.0": "x", "b.42.0": "y"}) == {"a.42.0"}
    found = bench_rows.gather(tmp_path, ["a.42.0", "a.42.0"])
    assert found["task"].tolist() == ["one", "two"] * 2


@pytest.mark.parametrize(("wanted", "said"), [({"a.42.0": "y"}, "under other settings or data"), ({"b.42.0": "x"}, "which this configuration has not|of a run that this configuration has not")])  # fmt: skip
def test_rows_of_another_configuration_are_refused(tmp_path, wanted, said) -> None:
    bench_rows.write(tmp_path, "a.42.0", ROWS, identity="x")
    with pytest.raises(WorkspaceError, match=f"only rows of this configuration; received a.42.0.parquet, .*({said})"):
        bench_rows.finished(tmp_path, wanted)


def test_all_rows_of_another_configuration_are_told_at_once(tmp_path) -> None:
    for name in ("a.42.0", "b.42.0", "b.43.0"):
        bench_rows.write(tmp_path, name, ROWS, identity="x")
    with pytest.raises(
        WorkspaceError,
        match=r"received b\.42\.0\.parquet, .*, and 1 more of b; .* remove them, or name the tasks of then",
    ):
        bench_rows.finished(tmp_path, {"a.42.0": "x"})


def test_file_that_does_not_read_is_refused(tmp_path) -> None:
    bench_rows.write(tmp_path, "a.42.0", ROWS, identity="x")
    path = bench_rows.path(tmp_path, "a.42.0")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WorkspaceError, match="expected rows of a run in .*; received a file that does not read"):
        bench_rows.finished(tmp_path, {"a.42.0": "x"})


def test_damage_behind_the_heading_is_told_with_the_file(tmp_path) -> None:
    bench_rows.write(tmp_path, "a.42.0", ROWS, identity="x")
    path = bench_rows.path(tmp_path, "a.42.0")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
    with pytest.raises(WorkspaceError, match=r"expected rows in .*a\.42\.0\.parquet; received .*; remove that file"):
        bench_rows.gather(tmp_path, ["a.42.0"])


def test_interrupted_write_leaves_no_file(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bench_rows.parquet, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        bench_rows.write(tmp_path, "a.42.0", ROWS, identity="x")
    assert list((tmp_path / "rows").iterdir()) == []


def test_rows_taken_together_read_anywhere(tmp_path) -> None:
    bench_rows.keep(tmp_path / "all.parquet", pd.DataFrame(ROWS))
    assert pd.read_parquet(tmp_path / "all.parquet")["accuracy"].tolist()[0] == 0.5


@pytest.mark.parametrize("place", range(0, 4000, 61))
def test_no_flipped_bit_is_taken_for_rows(tmp_path, place) -> None:
    rows = [{"task": "one", "step": 1, "accuracy": 0.1 * number, "heads": "frozen"} for number in range(8)]
    bench_rows.write(tmp_path, "a.42.0", rows, identity="x")
    path = bench_rows.path(tmp_path, "a.42.0")
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)
    with contextlib.suppress(WorkspaceError):
        found = bench_rows.gather(tmp_path, ["a.42.0"])
        pd.testing.assert_frame_equal(found, pd.DataFrame(rows))


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path) -> None:
    (tmp_path / "rows").mkdir()
    os.mkfifo(tmp_path / "rows/a.42.0.parquet")
    with pytest.raises(WorkspaceError, match="expected files of rows in .*; received a.42.0.parquet, which is none"):
        bench_rows.finished(tmp_path, {"a.42.0": "x"})
