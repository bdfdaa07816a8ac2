"""The same chain, no code changed, on three real image sets beside the checkout; skipped, with the reason, elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from otmf.runtime import layout
from tests.pipeline import real

pytestmark = [pytest.mark.pipeline, pytest.mark.real]
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("OTMF_VISION_DATA", ROOT.parent / "shared/datasets/vision"))
TASKS = ("mnist", "eurosat", "sign_digits")


def test_three_real_tasks_are_merged_into_one_model_above_its_base(otmf, tmp_path) -> None:
    """Reduced: a base pretrained for two passes. Experts beat the base, and the merged model is between the two."""
    if not DATA.is_dir():
        pytest.skip(f"needs the folder of real image sets: {DATA} (or OTMF_VISION_DATA) does not exist")
    base, cards = real.prepare(DATA.resolve(), tmp_path / "cards", tasks=TASKS, epochs=2)
    root = tmp_path / "vision3"
    otmf("init", root, "--base", base, "--params", tmp_path / "cards/params.yaml", "--backbone", real.BACKBONE)
    for card in cards:
        otmf("onboard", card, "--line", root)
    line = layout.Layout(root)
    found = json.loads(line.evaluation("s03").read_text())
    latest = {row["task"]: row["accuracy"] for row in found["rows"] if row["step"] == "s03"}
    for task, reference in found["references"].items():
        assert reference["finetuned"] > reference["base"] + 0.05, task
    base_mean = sum(reference["base"] for reference in found["references"].values()) / 3
    assert found["acc"] > base_mean + 0.05
    assert found["normalised_accuracy"] > 0.7
    assert set(latest) == set(TASKS)
    for task in TASKS:
        manifest = json.loads(line.manifest(task).read_text())
        assert manifest["disjoint"]
        assert manifest["parts"]["held_back"]["images"] > 0
    assert not list(ROOT.rglob("mnist.npz")), "real data stays out of the repository"
