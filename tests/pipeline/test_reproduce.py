"""`otmf reproduce` on stand-ins of the published protocol's shape."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from tests import makers
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


def test_all_sets_that_nobody_may_fetch_are_asked_for_at_once(otmf, tmp_path) -> None:
    said = otmf("reproduce", "paper-vit-b-32", tmp_path / "run", code=1).stderr
    for task in ("sun397", "stanford_cars", "resisc45", "eurosat", "fer2013"):
        assert f"{task} at {tmp_path / 'run/sets' / task}" in said
    assert "mnist" not in said
    assert not (tmp_path / "run").exists()
    said = otmf("reproduce", "paper-vit-b-32", tmp_path / "run", "--tasks", 1, "--data", tmp_path, code=1).stderr
    assert f"sun397 at {tmp_path / 'sun397'}; put" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [0]}, "counts.0"),
        ({"counts": [3]}, "expected `counts` of at most 2 tasks; received 3"),
        ({"tasks": ["dtd", "dtd"], "counts": [1]}, "expected distinct `tasks`"),
        (None, "aliases that repeat it many times over"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused_before_anything_runs(otmf, tmp_path, change, message) -> None:
    recipe = standins.prepare(tmp_path, ("resisc45", "dtd"), counts=(2,), orders=2)
    if change is None:
        levels = "".join(f"  l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 12))
        recipe.write_text(f"params:\n  l0: &l0 [1]\n{levels}")
    else:
        makers.write_yaml(recipe, YAML(typ="safe").load(recipe.read_text()) | change)
    said = otmf("reproduce", f"{recipe}-small", tmp_path / "run", "--data", tmp_path / "sets", code=1).stderr
    assert message in said
    assert not (tmp_path / "run").exists()
