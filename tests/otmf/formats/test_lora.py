"""Adapters of low rank: what PEFT computes, and nothing that factors do not hold."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, CLIPVisionConfig, CLIPVisionModelWithProjection

from otmf import checkpoints, formats
from otmf.formats import hugging_face, lora
from tests import makers
from tests.otmf.formats.examples import VISION, bert

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's


@pytest.mark.parametrize("change", [{"lora_alpha": "much"}, {"lora_alpha": None}, {"alpha_pattern": {"query": []}}])
def test_adapter_with_an_alpha_that_is_no_number_is_refused(tmp_path, change) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(checkpoints.CheckpointError, match="as a number in adapter_config.json"):
        formats.read(tmp_path / "adapter", base=base)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(checkpoints.CheckpointError, match="expected PEFT's configuration"):
        formats.read(tmp_path / "adapter", base=base)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"query": 3}, "rank_pattern": {"query": 2}}]
)
def test_adapters_expand_to_what_peft_computes(tmp_path, options) -> None:
    model, base = bert(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=["query", "dense"], **options))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    found = formats.read(tmp_path / "adapter", base=base)
    expected = dict(sorted(adapted.merge_and_unload().state_dict().items()))
    assert found.factors is not None
    assert min(min(one.up.shape[1], one.down.shape[0]) for one in found.factors.values()) >= 2
    for key in expected:
        torch.testing.assert_close(found.state[key], expected[key])
    assert not torch.equal(
        found.state["encoder.layer.0.attention.self.query.weight"], base["encoder.layer.0.attention.self.query.weight"]
    )


def test_adapter_of_an_embedding_expands_to_what_peft_computes(tmp_path) -> None:
    model, base = bert(tmp_path)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["word_embeddings", "query"]))
    for key, value in adapted.named_parameters():
        if "lora_B" in key or "lora_embedding" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    found = formats.read(tmp_path / "adapter", base=base).state
    for key, value in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[key], value)
    assert not torch.equal(found["embeddings.word_embeddings.weight"], base["embeddings.word_embeddings.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha_pattern": {r"layer\.[0-3]\.query": 16}}, "expected names of layers under alpha_pattern"),
        ({"alpha_pattern": {"(a+)+": 16}}, "expected names of layers under alpha_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, r"whose beginning \(pissa_niter_4\) changed the base"),
        ({"init_lora_weights": "olora"}, "changed the base"),
        ({"fan_in_fan_out": True}, "expected factors for"),
    ],
)
def test_adapters_that_would_give_other_weights_than_peft_are_refused(tmp_path, change, said) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["intermediate.dense"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(checkpoints.CheckpointError, match=said):
        formats.read(tmp_path / "adapter", base=base)


def test_dot_of_a_name_may_be_written_as_in_an_expression(tmp_path) -> None:
    config = {"alpha_pattern": {r"attention\.self\.query": 16}}
    assert lora._of(config["alpha_pattern"], "layer.0.attention.self.query", 2) == 16


def test_factors_are_compared_before_they_are_multiplied() -> None:
    huge = lora.Factors(torch.zeros(1, 3_000_000), torch.zeros(3_000_000, 1), 1.0, False)
    for base in (torch.zeros(4, 8), torch.zeros(4)):
        with pytest.raises(checkpoints.CheckpointError, match=r"received \(3000000, 3000000\)"):
            lora.apply({"a": huge}, {"a": base})
    with pytest.raises(checkpoints.CheckpointError, match=r"of shape \(4, 8\); received \(8, 4\)"):
        lora.apply({"a": lora.Factors(torch.zeros(1, 4), torch.zeros(8, 1), 1.0, False)}, {"a": torch.zeros(4, 8)})


def test_adapter_of_hugging_faces_clip_comes_under_open_clips_names(tower, base, tmp_path) -> None:
    state = hugging_face.from_open_clip(base)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()
    model.load_state_dict(state)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "fc1"]))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path)
    found = formats.read(tmp_path, base=base).state
    inputs = tower.prepare(makers.pictures(4, seed=0)[0])
    torch.testing.assert_close(
        tower.features(found, inputs), adapted(pixel_values=inputs).image_embeds, atol=1e-5, rtol=1e-5
    )


@pytest.mark.filterwarnings("ignore:aLoRA is currently only supported")
@pytest.mark.parametrize("options", [{"use_dora": True}, {"bias": "all"}, {"alora_invocation_tokens": [5]}])
def test_adapters_that_change_more_than_factors_hold_are_refused(tmp_path, options) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"], **options)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        checkpoints.CheckpointError, match=r"expected an adapter of factors alone \(LoRA\); received one with"
    ):
        formats.read(tmp_path / "adapter", base=base)


@pytest.mark.parametrize("inner", [BertForSequenceClassification, None])
def test_classifier_saved_beside_the_factors_is_left_out_if_said(tmp_path, inner) -> None:
    model, base = bert(tmp_path)
    options = {"task_type": "SEQ_CLS"} if inner else {"modules_to_save": ["pooler"]}
    whole = model if inner is None else inner(model.config)
    adapted = get_peft_model(whole, LoraConfig(r=2, target_modules=["query"], **options))
    for key, value in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    name = "classifier" if inner else "pooler"
    with pytest.raises(
        checkpoints.CheckpointError, match=rf"received \S*{name}\S* beside them; name it under `ignored`"
    ):
        formats.read(tmp_path / "adapter", base=base)
    found = formats.read(tmp_path / "adapter", base=base, ignored=[f"*{name}*"])
    assert all(name in key for key in found.left_out)
    query = "encoder.layer.0.attention.self.query"
    layer = adapted.base_model.model.get_submodule(f"bert.{query}" if inner else query)
    added = layer.get_delta_weight("default").detach()
    torch.testing.assert_close(found.state[f"{query}.weight"] - base[f"{query}.weight"], added)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda factors: {key: (127 * value).to(torch.int8) for key, value in factors.items()},
            "received .* of torch.int8",
        ),
        (lambda factors: {key: value.to(torch.complex64) for key, value in factors.items()}, "received C64"),
        (
            lambda factors: factors | {key.removesuffix(".weight"): value.clone() for key, value in factors.items()},
            "received one twice",
        ),
    ],
)
def test_factors_that_are_not_numbers_as_they_stand_are_refused(tmp_path, change, message) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(checkpoints.CheckpointError, match=message):
        formats.read(tmp_path / "adapter", base=base)


def test_configuration_that_says_one_thing_twice_is_refused(tmp_path) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(path.read_text().replace("{", '{"lora_alpha": 400,', 1))
    with pytest.raises(checkpoints.CheckpointError, match="expected PEFT's configuration"):
        formats.read(tmp_path / "adapter", base=base)


def test_adapter_under_the_name_of_the_tower_in_a_whole_model(base, tmp_path) -> None:
    key, folder = "transformer.resblocks.0.mlp.c_fc.weight", tmp_path / "adapter"
    folder.mkdir()
    outputs, inputs = base[key].shape
    names = [f"base_model.model.visual.{key.removesuffix('weight')}lora_{half}.weight" for half in "AB"]
    save_file({names[0]: torch.ones(1, inputs), names[1]: torch.ones(outputs, 1)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1, "r": 1}))
    torch.testing.assert_close(formats.read(folder, base=base).state[key], base[key] + 1)


def test_adapters_files_lie_in_its_folder_and_take_no_patterns(tmp_path) -> None:
    model, base = bert(tmp_path)
    get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(checkpoints.CheckpointError, match="expected an adapter with nothing under `missing`"):
        formats.read(tmp_path / "adapter", base=base, missing=["embeddings*"])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "adapter" / name).rename(tmp_path / name)
        (tmp_path / "adapter" / name).symlink_to(tmp_path / name)
        with pytest.raises(checkpoints.CheckpointError, match=f"received {name}, a link that leads elsewhere"):
            formats.read(tmp_path / "adapter", base=base)
