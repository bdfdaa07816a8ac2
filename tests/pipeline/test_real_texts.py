"""The same chain on three real text sets beside the checkout, on a really pretrained encoder; skipped, with the reason, elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from otmf import layout
from tests.pipeline import real_texts

pytestmark = [pytest.mark.pipeline, pytest.mark.real]
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("OTMF_TEXT_DATA", ROOT.parent / "shared/datasets/text"))
TASKS = ("snips", "trec")


def test_real_tasks_are_merged_into_one_model_above_its_base(otmf, tmp_path) -> None:
    """Reduced: 480 texts of each part, two tasks. Experts beat the base by far, and the merged model keeps most of it."""
    if not DATA.is_dir():
        pytest.skip(f"needs the folder of real text sets: {DATA} (or OTMF_TEXT_DATA) does not exist")
    base, cards = real_texts.prepare(DATA.resolve(), tmp_path / "cards", tasks=TASKS, rows=480)
    root = tmp_path / "text2"
    otmf("init", root, "--base", base, "--params", tmp_path / "cards/params.yaml")
    for card in cards:
        otmf("onboard", card, "--line", root)
    line = layout.Layout(root)
    found = json.loads(line.evaluation("s02").read_text())
    for task, reference in found["references"].items():
        assert reference["finetuned"] > reference["base"] + 0.05, task
    assert found["normalised_accuracy"] > 0.8
    assert not list(ROOT.rglob("trec.parquet")), "real data stays out of the repository"
