"""Backbones: open_clip's own numbers, and messages."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from otmf import backbones, heads
from tests import makers


def test_skeleton_holds_no_weights_and_computes_what_open_clip_computes(backbone) -> None:
    assert all(value.is_meta for value in backbone.skeleton.state_dict().values())
    state = backbone.initial_state(seed=0)
    tower = open_clip.model._build_vision_tower(
        8, open_clip.model.CLIPVisionCfg(**makers.BACKBONE["vision_cfg"])
    ).eval()
    tower.load_state_dict(state)
    inputs = backbone.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(backbone.features(state, inputs), tower(inputs))


def test_initial_state_comes_from_its_seed_alone(backbone) -> None:
    torch.manual_seed(5)
    one = backbone.initial_state(seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "torch's own random state is untouched"
    assert all(torch.equal(value, backbone.initial_state(seed=1)[key]) for key, value in one.items())


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "convnext_base"])
def test_towers_of_open_clip_are_built_by_name(name) -> None:
    found = backbones.build({"model": name})
    assert found.zero_shot({"tag": "openai"})
    assert found.fit.size == 224


def test_unknown_model_and_bad_configuration_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a model of open_clip; received 'ViT-Z'; choose one of"):
        backbones.build({"model": "ViT-Z"})
    with pytest.raises(ValueError, match="expected a backbone with `embed_dim` and `vision_cfg`"):
        backbones.build({"embed_dim": 8, "vision_cfg": {"colour": 1}})
    with pytest.raises(
        ValueError, match=r"expected a backbone's JSON file inside the line's folder; received '\.\./x\.json'"
    ):
        backbones.read_config("../x.json", tmp_path)
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected JSON in x\.json; received text that does not parse"):
        backbones.read_config("x.json", tmp_path)


def test_weights_by_tag_need_a_known_tag() -> None:
    with pytest.raises(ValueError, match=r"expected a tag of ViT-B-32 \(openai, .*\); received 'none'"):
        backbones.build({"model": "ViT-B-32"}).tagged_state("none")


def test_weights_that_cannot_be_fetched_are_no_fault_of_ours(monkeypatch) -> None:
    def create(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to download weights for tag 'openai': offline.\nPlease check")

    monkeypatch.setattr(open_clip, "create_model", create)
    with pytest.raises(ConnectionError, match="expected the weights of ViT-B-32 .* by network; received neither"):
        backbones.build({"model": "ViT-B-32"}).tagged_state("openai")


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> tuple[backbones.Backbone, str, open_clip.CLIP]:
    """A tiny model with both towers under a name of open_clip, and a file of its weights, which serves as a tag does."""
    folder = tmp_path_factory.mktemp("models")
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": makers.BACKBONE["vision_cfg"], "text_cfg": text}
    (folder / "tiny-clip.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip").eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    return backbones.build({"model": "tiny-clip"}), str(folder / "weights.pt"), model


def test_weights_by_tag_are_the_vision_towers(named) -> None:
    backbone, tag, model = named
    state = backbone.tagged_state(tag)
    inputs = backbone.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(backbone.features(state, inputs), model.encode_image(inputs))


def test_zero_shot_head_is_that_of_open_clip(named) -> None:
    backbone, tag, model = named
    prompts, classes = ("a photo of a {}.", "a drawing of a {}."), ("cat", "dog", "bird")
    embeddings, scale = backbone.class_embeddings({"tag": tag}, {}, classes, prompts)
    head = heads.zero_shot(embeddings, scale=scale)
    tokenizer = open_clip.get_tokenizer("tiny-clip")
    templates = [lambda name, prompt=prompt: prompt.format(name) for prompt in prompts]
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, list(classes), templates)
    torch.testing.assert_close(head.weight / scale, expected.T)
    assert scale == pytest.approx(float(model.logit_scale.detach().exp()))
