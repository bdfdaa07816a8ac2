"""A merge step of OTMF: the loop that learns the masks of a fused vector by matching features. Source: arXiv:2511.19561.

Symbols: theta0 pretrained state, D merged vector so far (*pre*), tau task vector of the new task (*post*).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from otmf import settings, task_vectors
from otmf.merging import batches, fusion, masks
from otmf.merging.retention import EVERY, Retention
from otmf.objectives import losses as objectives
from otmf.objectives import transport

Features = Callable[[Mapping[str, Tensor], Tensor], Tensor]
GROUP_BYTES = 4 << 20
SURVEY = 8  # batches of each side before masks are placed
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Side:
    """What one side of a merge is trained on: inputs, and the features the merged model should give them.

    Attributes:
        inputs: shape (n, ...), what `features` takes; rows of one shape on both sides.
        targets: shape (n, d), the teacher's features of the same inputs, computed once per step.
        predictors: the heads of the inputs, for objectives on predictions.
    """

    inputs: Tensor
    targets: Tensor
    predictors: objectives.Predictors = field(default_factory=objectives.Predictors)


@dataclass(frozen=True)
class Merged:
    """A merge step's outcome: the merged vector, the masks that made it, and how they were learned.

    Attributes:
        vector: fused vector, to be added to theta0.
        masks: `pre` and `post`, each a mask for each tensor; empty at the first step, which returns tau whole.
        trace: one entry per optimiser step and side: step, side, loss.
        cost_before, cost_after: for each side the Sinkhorn divergence of one fixed batch, with masks at one and as learned.
    """

    vector: task_vectors.Vector
    masks: dict[str, masks.Masks] = field(default_factory=dict)
    trace: list[dict[str, float | int | str]] = field(default_factory=list)
    cost_before: dict[str, float] = field(default_factory=dict)
    cost_after: dict[str, float] = field(default_factory=dict)


def rate(options: settings.Otmf, step: int) -> float:
    """The learning rate of an optimiser step, from 0."""
    if options.decay == "none":
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * step / options.steps))


def merge_step(
    pretrained: Mapping[str, Tensor],
    merged_vector: Mapping[str, Tensor] | None,
    task_vector: Mapping[str, Tensor],
    *,
    features: Features,
    pre: Side | None,
    post: Side | None,
    options: settings.Otmf,
    start: fusion.Start | None = None,
    retention: Retention | None = None,
    report: Report | None = None,
) -> Merged:
    """One merge: the new task vector fused into the merged vector, with masks learned by matching features.

    The first step (no merged vector yet) returns the task vector whole. Later steps start both masks at one and take
    `options.steps` Adam steps. Alternating, even steps take a batch of `pre` and update M_pre only, odd ones a batch
    of `post` and update M_post only; otherwise each step takes a batch of either and updates both.

    Args:
        pretrained: theta0, on the device to compute on; buffers of whole numbers are used as they are.
        merged_vector: D, or None at the first step.
        task_vector: tau.
        features: (state, inputs) -> (n, d), differentiable in the state.
        pre, post: what the two sides are trained on; None where that side may see nothing.
        options: all settings of the step.
        start: where the masks at one begin; None: as `fusion.weights` says.
        retention: draws the fused vector back every `retention.EVERY` steps and after the last; None: nothing does.
        report: called after each optimiser step with its number and the loss of each side it took.

    Raises:
        ValueError: if the vectors' keys differ, or a loss is not finite.

    Source: arXiv:2511.19561, section 3.
    """
    if merged_vector is None:
        return Merged({key: value.clone() for key, value in task_vector.items()})
    task_vectors.check_alike(merged_vector, task_vector)
    learner = _Learner(
        pretrained,
        merged_vector,
        task_vector,
        features=features,
        options=options,
        start=start or fusion.Start(fusion.weights(options)),
        retention=retention,
        sides={name: side for name, side in (("pre", pre), ("post", post)) if side is not None},
    )
    before = learner.costs()
    trace = learner.run(report or (lambda step, losses: None))
    after = learner.costs()
    return Merged(learner.vector(), learner.masks, trace, before, after)


class _Learner:
    """The state of one mask training: masks, their Adam optimisers, and the student's parameters as leaves.

    Gradients flow to the student's parameters; the chain rule to the masks is one product per tensor, done in place.
    That keeps the graph of the fused state out of memory: theta0, D, tau, theta, two masks, four moments, gradients.
    Tensors are taken in groups, each through chain rule, optimiser and fusion at once: what is in the processor's cache is
    used while it is there, and a second copy of the gradients, where both masks are updated, is never whole.
    Tensors that neither vector moved are left out of all of it: whatever their masks, nothing is multiplied by them.
    """

    def __init__(
        self,
        pretrained: Mapping[str, Tensor],
        merged_vector: Mapping[str, Tensor],
        task_vector: Mapping[str, Tensor],
        *,
        features: Features,
        options: settings.Otmf,
        start: fusion.Start,
        retention: Retention | None,
        sides: dict[str, Side],
    ) -> None:
        self.pretrained, self.features, self.options, self.sides = pretrained, features, options, sides
        self.vectors = {"pre": merged_vector, "post": task_vector}
        self.remainder, self.retention = dict(start.remainder), retention
        self.undrawn: list[float] = []  # the rate of each step since the last drawing back, as a share of the full one
        self.placed = options.granularity in ("sparse", "low_rank")
        self.masks = {
            name: masks.new(vector, granularity="tensor" if self.placed else options.granularity)
            for name, vector in self.vectors.items()
        }
        self.factors = dict(zip(("pre", "post"), start.factors, strict=True))
        self.moved = _moved(self.vectors, self.remainder) or list(task_vector)  # a loss has to depend on something
        self.student = {key: torch.empty_like(task_vector[key]).requires_grad_() for key in self.moved}
        self.state = {**pretrained, **self.student}
        self.objective = objectives.chosen(
            options.objective, epsilon=options.epsilon, reach=options.reach, seed=options.seed
        )
        self._fuse(self.student)

    def run(self, report: Report) -> list[dict[str, float | int | str]]:
        """Trains the masks; returns the loss of every side at every step."""
        groups = _groups({key: self.vectors["post"][key] for key in self.moved})
        drawn = {
            name: batches.drawn(len(side.inputs), self.options.batch_size, seed=self.options.seed + place)
            for place, (name, side) in enumerate(self.sides.items())
        }
        if self.placed and self.sides and self.options.steps:
            self._place_masks(drawn)
        optimisers = {
            name: [
                torch.optim.Adam(
                    list(masks.parameters({key: mask[key] for key in group})), lr=self.options.learning_rate, fused=True
                )
                for group in groups
            ]
            for name, mask in self.masks.items()
        }
        trace: list[dict[str, float | int | str]] = []
        for step in range(self.options.steps):
            active = self._active(step)
            if not active:
                continue
            losses = self._losses({name: next(drawn[name]) for name in active})
            updated = active if self.options.alternate else ("pre", "post")
            self._set_rate(optimisers, step)
            self._update(torch.stack(list(losses.values())).sum(), updated, groups, optimisers)
            self.undrawn.append(rate(self.options, step) / self.options.learning_rate)
            if len(self.undrawn) == EVERY:
                self._draw_back()
            values = {name: finite(float(loss.detach()), name, step) for name, loss in losses.items()}
            trace += [{"step": step, "side": name, "loss": value} for name, value in values.items()]
            report(step, values)
        if self.undrawn:
            self._draw_back()
        return trace

    def costs(self) -> dict[str, float]:
        """The Sinkhorn divergence between student and teacher on one batch, spread evenly over each side's inputs."""
        found = {}
        with torch.no_grad():
            for name, side in self.sides.items():
                count = min(self.options.batch_size, len(side.inputs))
                chosen = torch.linspace(0, len(side.inputs) - 1, count).long()
                student = self.features(self.state, side.inputs[chosen])
                value = transport.sinkhorn_divergence(student, side.targets[chosen], epsilon=self.options.epsilon)
                found[name] = float(value)
        return found

    def vector(self) -> task_vectors.Vector:
        """The fused vector with the masks as learned."""
        start = fusion.Start((self.factors["pre"], self.factors["post"]), self.remainder)
        return fusion.fuse(self.vectors["pre"], self.vectors["post"], self.masks["pre"], self.masks["post"], start)

    def _place_masks(self, drawn: Mapping[str, Iterator[Tensor]]) -> None:
        """Masks whose form follows from the slopes of the loss along the factors, at the start, over a few batches.

        Sparse ones lie where the squares of the slopes add up to most; low-rank ones begin with the signs of what the slopes add up to.
        Until they are placed this holds one number for each element of both vectors; from then on for those of the masks.
        """
        options, sparse = self.options, self.options.granularity == "sparse"
        slopes = {name: task_vectors.zeros(vector) for name, vector in self.vectors.items()}
        for step in range(SURVEY * (2 if options.alternate else 1)):
            active = self._active(step)
            if not active:
                continue
            loss = torch.stack(list(self._losses({name: next(drawn[name]) for name in active}).values())).sum()
            found = torch.autograd.grad(loss, list(self.student.values()), allow_unused=True)
            for key, gradient in zip(self.student, found, strict=True):
                for name in () if gradient is None else active if options.alternate else self.vectors:
                    own = gradient * self.vectors[name][key]
                    slopes[name][key].add_(own.square_() if sparse else own)
        for place, name in enumerate(list(slopes)):
            own = slopes.pop(name)
            self.masks[name] = (
                masks.of_greatest(own, share=options.share)
                if sparse
                else masks.of_slopes(own, rank=options.rank, seed=options.seed + place, share=options.rank_share)
            )

    def _active(self, step: int) -> tuple[str, ...]:
        if not self.options.alternate:
            return tuple(self.sides)
        name = ("pre", "post")[step % 2]
        return (name,) if name in self.sides else ()

    def _losses(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each side on its inputs at some positions; they go through the encoder together."""
        inputs = [self.sides[name].inputs[positions] for name, positions in drawn.items()]
        parts = self.features(self.state, torch.cat(inputs)).split([len(found) for found in inputs])
        return {
            name: self.objective(student, self.sides[name].targets[positions], self.sides[name].predictors[positions])
            for (name, positions), student in zip(drawn.items(), parts, strict=True)
        }

    def _update(
        self,
        loss: Tensor,
        names: tuple[str, ...],
        groups: list[list[str]],
        optimisers: dict[str, list[torch.optim.Adam]],
    ) -> None:
        found = torch.autograd.grad(loss, list(self.student.values()), allow_unused=True)
        gradients = dict(zip(self.student, found, strict=True))
        del found
        for place, group in enumerate(groups):
            for key in group:
                gradient = gradients.pop(key)
                if gradient is None:  # the features do not depend on it: its masks stay at 1
                    continue
                for name in names:
                    own = gradient if name == names[-1] else gradient.clone()
                    self.masks[name][key].pull_back(own, self.vectors[name][key], self.factors[name])
            for name in names:
                optimisers[name][place].step()
                optimisers[name][place].zero_grad(set_to_none=True)
            self._fuse(group)

    def _draw_back(self) -> None:
        """What masks do not change takes up what `retention` takes back."""
        steps, self.undrawn = sum(self.undrawn), []
        if self.retention is None:
            return
        with torch.no_grad():
            for key, student in self.student.items():
                found = student.detach() - self.pretrained[key]
                back = self.retention.drawn_back(key, found, steps) - found
                self.remainder[key] = back.add_(self.remainder[key]) if key in self.remainder else back
        self._fuse(self.student)

    def _set_rate(self, optimisers: Mapping[str, list[torch.optim.Adam]], step: int) -> None:
        for optimiser in itertools.chain(*optimisers.values()):
            optimiser.param_groups[0]["lr"] = rate(self.options, step)

    def _fuse(self, keys: Iterable[str]) -> None:
        with torch.no_grad():
            for key in keys:
                student, base = self.student[key], self.pretrained[key]
                if key in self.remainder:
                    base = torch.add(base, self.remainder[key], out=student)
                for name, vector in self.vectors.items():
                    base = torch.addcmul(
                        base, self.masks[name][key].value(), vector[key], value=self.factors[name], out=student
                    )


def _moved(vectors: Mapping[str, Mapping[str, Tensor]], remainder: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not zero throughout."""
    parts = [*vectors.values(), remainder]
    return [key for key in vectors["post"] if any(key in part and bool(part[key].any()) for part in parts)]


def _groups(vector: Mapping[str, Tensor]) -> list[list[str]]:
    """Keys in groups of at least GROUP_BYTES, in order."""
    groups: list[list[str]] = [[]]
    size = 0
    for key, value in vector.items():
        if size >= GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += value.numel() * value.element_size()
    return groups


def finite(loss: float, side: str, step: int) -> float:
    """The loss of a side at a step. Raises ValueError if it is none."""
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise ValueError(
            f"expected a finite loss on the {side} side; received {loss} at step {step}; lower the learning rate or "
            "check the task vector"
        )
    return loss
