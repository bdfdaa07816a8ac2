"""The training loop: cross-entropy on batches it is given, through a function it is given. Used for bases and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from otmf import settings, task_vectors

Report = Callable[[int, float], None]


class Inputs(Protocol):
    """Inputs to train on; a tensor (n, ...) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        """The inputs at some positions, on the device to train on."""
        ...


class Vary(Protocol):
    """Varies inputs at random, as `otmf.backbones.Backbone.vary`."""

    def __call__(
        self, inputs: Tensor, options: settings.Training, *, generator: torch.Generator, mirrored: Tensor | None
    ) -> Tensor: ...


def train(
    state: Mapping[str, Tensor],
    *,
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    inputs: Inputs,
    labels: Tensor,
    options: settings.Training,
    label_smoothing: float = 0.0,
    vary: Vary | None = None,
    mirror: Tensor | None = None,
    left_out: Collection[str] = (),
    report: Report | None = None,
) -> task_vectors.State:
    """The state after training all floating-point tensors, but those left out, by cross-entropy.

    AdamW (decay on matrices alone), or Muon for the weights of linear maps and AdamW for the rest; linear warm-up, then
    cosine decay to zero; gradients clipped at norm 1.

    Args:
        state: where to start; not modified. On the device to train on.
        logits: (state, inputs) -> (n, classes).
        inputs: n of them, on that device when asked for.
        labels: shape (n,), whole numbers.
        options: all settings of the run.
        label_smoothing: in [0, 1).
        vary: varies the inputs of a batch at random; None: they stay as they are.
        mirror: shape (n,), whether an input may be mirrored; None for none.
        left_out: names of tensors that stay as they are.
        report: called after each epoch with its number from 1 and the mean loss.

    Raises:
        ValueError: if the loss is not finite.
    """
    trained = {
        key: value.clone().requires_grad_(value.is_floating_point() and key not in left_out)
        for key, value in state.items()
    }
    parameters = [value for value in trained.values() if value.requires_grad]
    optimisers = _optimisers(trained, options)
    generator = torch.Generator().manual_seed(options.seed)
    batches = max(1, len(inputs) // options.batch_size)
    total = options.steps or options.epochs * batches
    for epoch in range(epochs(options, len(inputs))):
        order = torch.randperm(len(inputs), generator=generator)
        losses, left = 0.0, min(batches, total - epoch * batches)
        for batch in range(left):
            chosen = order[batch * options.batch_size : (batch + 1) * options.batch_size]
            moved = inputs[chosen]
            if vary is not None:
                moved = vary(moved, options, generator=generator, mirrored=None if mirror is None else mirror[chosen])
            loss = functional.cross_entropy(logits(trained, moved), labels[chosen], label_smoothing=label_smoothing)
            rate = rate_factor(epoch * batches + batch, total, warmup=options.warmup) * options.learning_rate
            for value in parameters:
                value.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in optimisers:
                _set_rate(optimiser, rate)
                optimiser.step()
            losses += float(loss.detach())
        if not math.isfinite(losses):
            raise ValueError(f"expected a finite loss; received {losses} in epoch {epoch + 1}; lower the learning rate")
        if report is not None:
            report(epoch + 1, losses / left)
    return {key: value.detach() for key, value in trained.items()}


def epochs(options: settings.Training, count: int) -> int:
    """How many epochs a training run of `count` inputs has, the last of them begun."""
    batches = max(1, count // options.batch_size)
    return math.ceil(options.steps / batches) if options.steps else options.epochs


def rate_factor(step: int, total: int, *, warmup: float) -> float:
    """The factor of the learning rate at a step: rising linearly over `warmup` of all steps, then half a cosine to 0."""
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _optimisers(trained: Mapping[str, Tensor], options: settings.Training) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the weights of linear maps and AdamW for the rest, at one learning rate.

    Source: Jordan et al. (2024), kellerjordan.github.io/posts/muon; the rate scaled as in arXiv:2502.16982.
    """
    values = {key: value for key, value in trained.items() if value.requires_grad}
    linear = {
        key: value
        for key, value in values.items()
        if options.optimiser == "muon" and value.ndim == 2 and key.endswith("weight")
    }
    rest = [value for key, value in values.items() if key not in linear]
    groups = [
        {"params": [value for value in rest if value.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [value for value in rest if value.ndim < 2], "weight_decay": 0.0},
    ]
    chosen: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)]
    if linear:
        decay = options.weight_decay
        chosen.append(
            torch.optim.Muon(
                linear.values(), lr=options.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return chosen


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
