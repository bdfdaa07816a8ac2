"""LiNeS: the published factors, and a chain that is not scaled twice."""

from __future__ import annotations

import torch

from otmf import continual, settings, task_vectors
from otmf.continual import layer_scaling
from tests import makers


def test_factors_rise_with_depth() -> None:
    keys = [
        "conv1.weight",
        "transformer.resblocks.0.ln_1.bias",
        "transformer.resblocks.1.ln_1.bias",
        "transformer.resblocks.4.x",
        "proj",
    ]
    assert list(layer_scaling.factors(keys, 0.2, 1.0).values()) == [0.2, 0.2, 0.4, 1.0, 0.2]


def test_halves_of_an_encoder_decoder_are_counted_apart() -> None:
    keys = ["encoder.block.0.layer.0.k", "encoder.block.1.layer.1.wi", "decoder.block.3.layer.2.wo", "shared.weight"]
    assert list(layer_scaling.factors(keys, 0.5, 1.0).values()) == [0.5, 1.0, 1.0, 0.5]


def test_one_block_is_the_first() -> None:
    assert layer_scaling.factors(["layers.0.x"], 0.5, 1.0) == {"layers.0.x": 0.5}


def test_a_chain_is_scaled_once(backbone) -> None:
    """What a step hands on is scaled; the next one merges onto what it was before."""
    base, found = backbone.initial_state(seed=0), {}
    encoder = continual.Encoder(backbone.features, backbone.prepare)
    for lines in (None, (0.5, 1.0)):
        merged, state = None, {}
        options = settings.merge("default", {"method": "task_arithmetic", "coefficient": 1.0, "lines": lines})
        for count in (1, 2, 3):
            tau = {key: torch.full_like(value, count) for key, value in task_vectors.floats(base).items()}
            done = continual.advance(base, merged, tau, count=count, state=state, options=options, encoder=encoder,
                                     unlabelled=lambda: makers.pictures(2, seed=0)[0])  # fmt: skip
            merged, state = done.vector, done.state
        found[lines] = merged
    by = layer_scaling.factors(found[None], 0.5, 1.0)
    assert set(by.values()) == {0.5, 1.0}
    for key, value in found[None].items():
        torch.testing.assert_close(found[0.5, 1.0][key], by[key] * value)
