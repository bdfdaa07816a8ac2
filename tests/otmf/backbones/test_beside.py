"""What lies beside weights that come in a folder says of which encoder they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, CLIPImageProcessor, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as Tower

from otmf import backbones
from tests import makers
from tests.otmf.formats.examples import VISION


def bert(folder) -> backbones.Backbone:
    makers.tokeniser(folder)
    config = BertConfig(**makers.BERT).to_dict()
    return backbones.build({"transformers": config, "tokenizer": "tokenizer.json", "length": 16}, folder)


def test_expert_with_a_head_and_other_dropout_is_of_the_same_encoder(tmp_path) -> None:
    line = bert(tmp_path / "line")
    config = BertConfig(
        **makers.BERT, num_labels=5, hidden_dropout_prob=0.3, problem_type="single_label_classification"
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "expert")
    makers.tokeniser(tmp_path / "expert")
    line.check_beside(tmp_path / "expert")
    line.check_beside(tmp_path / "expert/model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "whose hidden_act is gelu; received a config.json beside them with relu"),
        ({"num_attention_heads": 1}, "whose num_attention_heads is 2; .* with 1"),
        ({"model_type": "none"}, "received one that does not read"),
        ({"num_attention_heads": "two"}, "received one that does not read|whose num_attention_heads"),
        ('{"hidden_act": "gelu"}', "received one that does not read"),
        ("{", "received one that does not read"),
    ],
)
def test_weights_of_another_computation_are_refused(tmp_path, change, message) -> None:
    line = bert(tmp_path / "line")
    config = {**BertConfig(**makers.BERT).to_dict(), **change} if isinstance(change, dict) else None
    (tmp_path / "config.json").write_text(change if config is None else json.dumps(config))
    with pytest.raises(ValueError, match=message):
        line.check_beside(tmp_path)


def test_weights_of_another_vocabulary_are_refused(tmp_path) -> None:
    line = bert(tmp_path / "line")
    content = json.loads((tmp_path / "line/tokenizer.json").read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(words, reversed(words.values()), strict=True))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="received a tokenizer.json with others beside the weights"):
        line.check_beside(tmp_path)


@pytest.mark.parametrize(("quick", "heads", "differs"), [(True, 2, ""), (False, 2, "hidden_act"), (True, 4, "heads")])
def test_towers_of_another_computation_are_refused(tmp_path, quick, heads, differs) -> None:
    """transformers leaves out of its file what is usual: CLIP's own activation."""
    Tower(CLIPVisionConfig(**{**VISION, "num_attention_heads": heads})).save_pretrained(tmp_path)
    line = backbones.build({**makers.BACKBONE, "quick_gelu": quick})
    if not differs:
        line.check_beside(tmp_path)
        return
    with pytest.raises(ValueError, match=f"whose .*{differs}"):
        line.check_beside(tmp_path)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pictures_are_prepared_by_transformers_as_here(tmp_path, mode) -> None:
    line = backbones.build({**makers.BACKBONE, "resize_mode": mode})
    pixels = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 48)).save(tmp_path / "one.png")
    written = line.hugging_face(line.initial_state(seed=0)).documents["preprocessor_config.json"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    theirs = CLIPImageProcessor.from_pretrained(tmp_path)(Image.open(tmp_path / "one.png"), return_tensors="pt")
    ours = line.prepare(line.decode([(tmp_path / "one.png").read_bytes()]))
    torch.testing.assert_close(theirs["pixel_values"], ours, atol=0.02, rtol=0)


def test_pictures_that_are_padded_are_not_for_transformers() -> None:
    line = backbones.build({**makers.BACKBONE, "resize_mode": "longest"})
    with pytest.raises(ValueError, match="received an encoder whose pictures are padded"):
        line.hugging_face(line.initial_state(seed=0))
