"""Inputs held in memory or read when they are asked for: the same rows, and the same training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otmf import finetuning, settings
from otmf.backbones import build, task_inputs
from otmf.data import images
from tests import makers


@pytest.fixture(scope="module")
def backbone():
    return build(makers.BACKBONE)


@pytest.fixture
def source() -> images.ArrayImages:
    drawn = np.random.default_rng(0).integers(256, size=(40, 12, 9, 3), dtype=np.uint8)
    return images.ArrayImages(drawn, np.arange(40) % 3)


def test_rows_are_the_same_whether_they_are_held_or_read(backbone, source) -> None:
    positions = np.array([7, 3, 31, 3, 0])
    held, lazy = (task_inputs.Rows(backbone, source, positions, largest=largest) for largest in (task_inputs.HELD, 0))
    assert len(held) == len(lazy) == 5
    for chosen in (np.array([4, 0]), np.arange(5), np.array([2])):
        expected = backbone.read(source, positions[chosen])
        assert (held[chosen] == expected).all()
        assert (lazy[chosen] == expected).all()


def test_large_sets_are_not_read_at_once(backbone, source, monkeypatch) -> None:
    asked: list[int] = []
    real = images.ArrayImages.read
    monkeypatch.setattr(
        images.ArrayImages, "read", lambda self, found, fit: asked.append(len(found)) or real(self, found, fit)
    )
    one = backbone.blank().nbytes
    found = task_inputs.Rows(backbone, source, np.arange(40), largest=40 * one - 1)
    assert asked == []
    found[np.array([1, 2, 3])]
    assert asked == [3]
    task_inputs.Rows(backbone, source, np.arange(40), largest=40 * one)
    assert asked == [3, 40]


def test_training_on_what_is_read_in_batches_gives_the_same_bits(backbone, source) -> None:
    state = backbone.initial_state(seed=0)
    width = backbone.features(state, backbone.prepare(backbone.blank())).shape[1]
    head = torch.randn(3, width, generator=torch.Generator().manual_seed(1))

    def trained(inputs) -> dict[str, torch.Tensor]:
        return finetuning.train(
            state, inputs=inputs, labels=torch.from_numpy(source.labels), options=settings.Finetune(epochs=2, batch_size=8),
            logits=lambda current, batch: backbone.features(current, batch) @ head.T, vary=backbone.vary,
        )  # fmt: skip

    everything = np.arange(40)
    expected = trained(backbone.prepare(backbone.read(source, everything)))
    for largest in (0, task_inputs.HELD):
        inputs = task_inputs.Prepared(task_inputs.Rows(backbone, source, everything, largest=largest), backbone.prepare)
        found = trained(inputs)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
