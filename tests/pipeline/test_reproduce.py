"""`otmf reproduce` on stand-ins of the published protocol's shape."""

from __future__ import annotations

import pytest

from tests.pipeline import standins

pytestmark = pytest.mark.pipeline


def test_protocol_ends_in_tables_and_goes_on_where_it_ended(otmf, tmp_path) -> None:
    recipe = standins.prepare(tmp_path, ("resisc45", "dtd", "mnist"), counts=(2, 3), orders=2)
    run = ("reproduce", f"{recipe}-small", tmp_path / "run", "--data", tmp_path / "sets")
    said = otmf(*run, PREFECT_API_URL="").stdout  # as a user has it: one server of the command's own for all its cards
    tables = (tmp_path / "run/tables.md").read_text()
    assert "| method | sees at a merge | labels | 2 tasks | 3 tasks |" in tables
    assert "| method | labels | resisc45 | dtd |" in tables
    for method in ("running_average", "task_arithmetic", "wudi", "otmf_paper", "otmf_default"):
        assert f"| {method} |" in tables
    assert "previous head tuned" in tables
    assert "Task mnist arrives" in said
    again = otmf(*run).stdout
    assert "arrives" not in again
    assert "Every method" not in again
    assert (tmp_path / "run/tables.md").read_text() == tables
    assert "expected a recipe (paper-vit-b-32," in otmf("reproduce", "paper-vit-b", tmp_path / "x", code=1).stderr
