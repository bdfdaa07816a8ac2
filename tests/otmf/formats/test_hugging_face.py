"""Hugging Face's CLIP: the same features as transformers', and back."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from otmf import backbones, checkpoints, formats
from otmf.formats import hugging_face
from tests import makers
from tests.otmf.formats.examples import VISION, same


def test_hugging_face_towers_give_the_features_that_transformers_gives(tower, base, theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path / "whole")
    found = formats.read(tmp_path / "whole", base=base)
    assert found.form == "safetensors, names of Hugging Face"
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(
        tower.features(found.state, inputs), theirs(pixel_values=inputs).image_embeds, atol=1e-5, rtol=1e-5
    )


def test_tower_without_projection_has_the_bases(tower, base, theirs, tmp_path) -> None:
    alone = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    alone.save_pretrained(tmp_path)
    found = formats.read(tmp_path, base=base).state
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    pooled = alone(pixel_values=inputs).pooler_output
    torch.testing.assert_close(tower.features(found, inputs), pooled @ base["proj"], atol=1e-5, rtol=1e-5)


def test_whole_clip_model_is_its_vision_tower(base, theirs, tmp_path) -> None:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    model.vision_model.load_state_dict(theirs.vision_model.state_dict())
    model.visual_projection.load_state_dict(theirs.visual_projection.state_dict())
    model.save_pretrained(tmp_path)
    assert same(formats.read(tmp_path, base=base).state, hugging_face.to_open_clip(theirs.state_dict(), base=base))


def test_names_go_to_hugging_face_and_back(base) -> None:
    there = hugging_face.from_open_clip(base)
    assert same(hugging_face.to_open_clip(there, base={}), base)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).load_state_dict(there)


def test_queries_keys_and_values_have_one_shape(base) -> None:
    theirs = hugging_face.from_open_clip(base)
    for rows, columns in ((2, 0), (0, 2)):
        key = next(name for name in theirs if name.endswith("q_proj.weight"))
        shape = theirs[key].shape
        changed = theirs | {key: torch.zeros(shape[0] - rows, shape[1] - columns)}
        with pytest.raises(checkpoints.CheckpointError, match="of one shape"):
            formats.named(changed, base=base, form="")


def test_tensor_with_and_without_the_prefix_is_refused(base) -> None:
    theirs = hugging_face.from_open_clip(base)
    key = "embeddings.class_embedding"
    with pytest.raises(checkpoints.CheckpointError, match=f"received {key} with and without"):
        formats.named(theirs | {key: torch.zeros_like(theirs[hugging_face.PREFIX + key])}, base=base, form="")


def test_tower_that_transformers_has_not_is_refused_by_name() -> None:
    pooled = {**makers.BACKBONE, "vision_cfg": {**makers.BACKBONE["vision_cfg"], "attentional_pool": True}}
    backbone = backbones.build(pooled)
    with pytest.raises(ValueError, match="received one with attentional_pool; export it for open_clip"):
        backbone.hugging_face(backbone.initial_state(seed=0))
