"""Gram matrices of what goes into linear maps: those that hooks on modules see, for every kind of encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, T5Config

from otmf import backbones
from otmf.merging import layer_inputs
from tests import makers


def text(folder, config) -> backbones.Backbone:
    makers.tokeniser(folder)
    return backbones.build({"transformers": config.to_dict(), "tokenizer": "tokenizer.json", "length": 8}, folder)


def hooked(backbone, state, inputs) -> dict[str, torch.Tensor]:
    """By hooks on the modules of linear maps."""
    module, found = backbone.module(state), {}

    def see(name):
        def hook(_module, given) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1]).double()
            found[name] = found.get(name, 0) + rows.T @ rows

        return hook

    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(see(f"{name}.weight"))
    with torch.no_grad():
        module(inputs)
    return found


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_texts(tmp_path, kind) -> None:
    config = BertConfig(**makers.BERT) if kind == "bert" else T5Config(
        vocab_size=200, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)  # fmt: skip
    backbone = text(tmp_path, config)
    state, inputs = backbone.initial_state(seed=0), torch.randint(4, 20, (5, 8))
    expected = {name.removeprefix("model."): gram for name, gram in hooked(backbone, state, inputs).items()}
    found = layer_inputs.grams(backbone.features, state, inputs, batch_size=2)
    assert len(expected) > 10
    assert set(expected) <= set(found)
    for name, gram in expected.items():
        torch.testing.assert_close(found[name], gram, atol=1e-4, rtol=1e-4)


def test_pictures(backbone) -> None:
    """open_clip's attention multiplies in one function of torch: hooks see the rest, its inputs are those of the block's first norm."""
    state = backbone.initial_state(seed=0)
    inputs = backbone.prepare(makers.pictures(5, seed=0)[0])
    found = layer_inputs.grams(backbone.features, state, inputs, batch_size=2)
    linear = {key for key, value in state.items() if value.ndim == 2 and "embedding" not in key}
    assert set(found) == linear
    for name, gram in hooked(backbone, state, inputs).items():
        if name in found and "out_proj" not in name:
            torch.testing.assert_close(found[name], gram, atol=1e-4, rtol=1e-4)
    assert found["proj"].shape == (state["proj"].shape[0],) * 2
    block = "transformer.resblocks.0"
    assert found[f"{block}.attn.in_proj_weight"].shape == (state[f"{block}.attn.in_proj_weight"].shape[1],) * 2


def test_fast_path_of_torch_is_as_before(backbone) -> None:
    state = backbone.initial_state(seed=0)
    before = torch.backends.mha.get_fastpath_enabled()
    layer_inputs.grams(backbone.features, state, backbone.prepare(makers.pictures(2, seed=0)[0]))
    assert torch.backends.mha.get_fastpath_enabled() == before
