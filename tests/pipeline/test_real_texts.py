"""The same chain on three real text sets beside the checkout, on a really pretrained encoder; skipped, with the reason, elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from otmf import checkpoints
from otmf.runtime import layout
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


def test_sets_are_divided_by_their_classes_and_encoders_by_their_layers(tmp_path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"needs the folder of real text sets: {DATA} (or OTMF_TEXT_DATA) does not exist")
    _, cards = real_texts.prepare(DATA.resolve(), tmp_path, layers=2, parts=real_texts.PARTS)
    assert len(cards) == 20
    whole = pd.read_parquet(DATA / "snips.parquet")
    parts = [pd.read_parquet(tmp_path / f"snips_{number}.parquet") for number in (1, 2)]
    assert sum(len(part) for part in parts) == len(whole)
    assert [sorted(part["label"].unique()) for part in parts] == [[0, 1, 2, 3], [0, 1, 2]]
    second = whole[whole["label"] == 1]["text"]
    assert sorted(parts[1][parts[1]["label"] == 0]["text"]) == sorted(second)
    layers = {key.split("layer.")[1].split(".")[0] for key in checkpoints.header(tmp_path / "encoder/model.safetensors") if "layer." in key}  # fmt: skip
    assert layers == {"0", "1"}
