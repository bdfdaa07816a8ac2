"""Training: learns, leaves its input alone, is a function of its seed."""

from __future__ import annotations

import pytest
import torch

from otmf import finetuning, settings
from tests import makers


def linear(state, inputs):
    return inputs.flatten(1) @ state["w.weight"].T


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_training_learns_and_leaves_its_input_alone(optimiser) -> None:
    pixels, labels = makers.pictures(60, seed=3, size=8)
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    state = {"w.weight": torch.zeros(3, 192), "n": torch.tensor(1)}
    options = settings.Finetune(epochs=30, learning_rate=0.02, batch_size=20, shift=0, optimiser=optimiser)
    losses = []
    trained = finetuning.train(state, logits=linear, inputs=inputs, labels=torch.from_numpy(labels), options=options,
                               report=lambda epoch, loss: losses.append(loss))  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(state["w.weight"], torch.zeros(3, 192))
    assert trained["n"] == 1
    again = finetuning.train(state, logits=linear, inputs=inputs, labels=torch.from_numpy(labels), options=options)
    assert torch.equal(trained["w.weight"], again["w.weight"])


def test_tensors_left_out_stay_and_the_others_train() -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"w.weight": torch.zeros(3, 192), "shift": torch.zeros(192)}
    inputs, labels = torch.randn(32, 3, 8, 8, generator=generator), torch.arange(32) % 3
    trained = finetuning.train(
        state, logits=lambda current, batch: linear(current, batch + current["shift"].reshape(3, 8, 8)), inputs=inputs, labels=labels,
        options=settings.Finetune(epochs=2, batch_size=8, weight_decay=0.1), left_out=["shift"],
    )  # fmt: skip
    assert torch.equal(trained["shift"], state["shift"])
    assert not torch.equal(trained["w.weight"], state["w.weight"])


def test_loss_that_is_not_finite_stops_training() -> None:
    state = {"w.weight": torch.full((3, 192), float("nan"))}
    with pytest.raises(ValueError, match="expected a finite loss; received nan in epoch 1; lower the learning rate"):
        finetuning.train(state, logits=linear, inputs=torch.zeros(4, 3, 8, 8), labels=torch.zeros(4).long(),
                         options=settings.Finetune(batch_size=4))  # fmt: skip


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [finetuning.rate_factor(step, 100, warmup=0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] < 0.01
