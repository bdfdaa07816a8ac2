"""An adapter of low rank through the stages: its task vector stays factors, and merges as the whole one does."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from flows.line import workspace
from otmf import checkpoints
from otmf.checkpoints import low_rank
from otmf.data import cards, gathering
from otmf.runtime import layout
from stages import extract, finetune, merge_step, pretrained
from stages.context import current_line
from tests import makers

KEY = "transformer.resblocks.0.mlp.c_fc"


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    """A line with a base, and one task whose card brings an adapter."""
    root = makers.line(tmp_path / "line")
    line = layout.Layout(root)
    pretrained.main(current_line.read(root))
    weight = checkpoints.load(line.pretrained / "model.safetensors")[f"{KEY}.weight"]
    torch.manual_seed(0)
    factors = {"A": 0.1 * torch.randn(2, weight.shape[1]), "B": 0.1 * torch.randn(weight.shape[0], 2)}
    folder = tmp_path / "cards/adapter"
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{KEY}.lora_{half}.weight": value for half, value in factors.items()}, folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    path = makers.card(tmp_path / "cards", "adapted", checkpoint={"path": "adapter"})
    gathering.gather(cards.read(path), path.parent, line.raw("adapted"))
    document = workspace.read_params(line)
    document["tasks"] = {"adapted": {}}
    document["steps"] = {"s01": {"task": "adapted", "previous": "s00", "merge": {"steps": 4, "batch_size": 4}}}
    workspace.write_params(line, document)
    return line


def test_its_task_vector_stays_factors_and_merges_whole(line) -> None:
    full = current_line.read(line.root)
    finetune.main(full, "adapted")
    facts = extract.main(full, "adapted")
    path = line.task_vector("adapted") / "vector.safetensors"
    assert list(low_rank.read(path)) == [f"{KEY}.weight"]
    assert path.stat().st_size < (line.pretrained / "model.safetensors").stat().st_size / 10
    merge_step.main(full, "s01")
    base, expert, merged = (
        checkpoints.load(folder / "model.safetensors")
        for folder in (line.pretrained, line.finetuned("adapted"), line.merged("s01"))
    )
    assert not torch.equal(base[f"{KEY}.weight"], expert[f"{KEY}.weight"])
    for key, value in expert.items():  # the first step is the expert itself
        assert torch.allclose(merged[key], value, atol=1e-6), key
    difference = expert[f"{KEY}.weight"].double() - base[f"{KEY}.weight"].double()
    assert facts.metrics["task_vector_norm"] == pytest.approx(float(difference.norm()), rel=1e-4)
