"""A two-layer encoder, two task vectors of it, and merges of them by masks. No code of its own."""

from __future__ import annotations

import torch

from otmf import settings, task_vectors
from otmf.merging import mask_training


def features(state, inputs):
    """A two-layer encoder: (n, 6) -> (n, 4)."""
    hidden = torch.tanh(inputs @ state["first.weight"].T + state["first.bias"])
    return hidden @ state["second.weight"].T


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "first.weight": torch.randn(5, 6, generator=generator),
        "first.bias": torch.randn(5, generator=generator),
        "second.weight": torch.randn(4, 5, generator=generator),
        "steps": torch.tensor(7),
    }


def vector(model: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in model.items() if v.is_floating_point()}


def side(model, own, seed: int, count: int = 40) -> mask_training.Side:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return mask_training.Side(inputs, features(task_vectors.add(model, own), inputs))


def merge(model, options: settings.Otmf, **sides) -> mask_training.Merged:
    pre, post = vector(model, 1), vector(model, 2)
    given = {"pre": side(model, pre, 3), "post": side(model, post, 4)} | sides
    return mask_training.merge_step(model, pre, post, features=features, options=options, **given)
