"""One step of a stream of merges: a method of the table, the inputs it may see, and the bounded memory it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmf import backbones, heads, methods, settings, task_vectors
from otmf.backbones import task_inputs
from otmf.continual import layer_scaling, memory
from otmf.merging import mask_training
from otmf.objectives import transport

LINES = "lines"
COMPARED = 64  # inputs that the dissimilarity of a new task is measured on
EPSILON = 0.05  # of that measure, whatever a step is set to
_COUNTED = ("running_mean", "running_var")


@dataclass(frozen=True)
class Encoder:
    """What a stream needs of a backbone.

    Attributes:
        features: (state, inputs) -> (n, d), differentiable in the state.
        prepare: inputs as the backbone reads them, one row each -> as it takes them, on the device of the states.
    """

    features: mask_training.Features
    prepare: Callable[[np.ndarray], Tensor]

    def teach(self, state: Mapping[str, Tensor], inputs: np.ndarray | task_inputs.Rows) -> Tensor:
        """A teacher's features (n, d) of what was read, without gradients."""
        return backbones.extract(
            lambda inputs: self.features(state, inputs),
            lambda chosen: self.prepare(inputs[chosen]),
            len(inputs),
            batch_size=64,
        )


@dataclass(frozen=True)
class Step:
    """What a step gives: the merged vector, the state the next step needs, and what was seen and learned.

    `dissimilarity`: how far the new model's features of its own images are from those of the model merged so far, as in
    `transport.dissimilarity`; None at the first step and for a method that may see no input. `notes`: what the method says of the step.
    """

    vector: task_vectors.Vector
    state: dict[str, Tensor]
    saw: dict[str, Any]
    learned: mask_training.Merged | None
    dissimilarity: float | None = None
    notes: dict[str, float] = field(default_factory=dict)


def advance(
    pretrained: Mapping[str, Tensor],
    merged_vector: Mapping[str, Tensor] | None,
    task_vector: Mapping[str, Tensor],
    *,
    count: int,
    state: Mapping[str, Tensor],
    options: settings.Merge,
    encoder: Encoder,
    unlabelled: Callable[[], np.ndarray],
    head: heads.Head | None = None,
    targets: Callable[[np.ndarray], Tensor] | None = None,
    recall: methods.Recall = methods.computed,
    report: mask_training.Report | None = None,
) -> Step:
    """The step after the arrival of one task vector.

    Teachers' features are computed once. Of older tasks nothing is read but `state`, and of that no other method's. What batch norms
    counted is averaged over the tasks, whatever the method. Where `options.lines` scale the layers, the next step merges onto what
    was there before.

    Args:
        pretrained, merged_vector, task_vector: theta0, D (None at the first step), tau, on one device.
        count: number of the step, from 1.
        state: what the last step returned, empty at the first.
        options: method and settings.
        encoder: features and preprocessing.
        unlabelled: gives the new task's unlabelled inputs; called only for a method that may see them.
        head: of the new task, for methods that look at predictions.
        targets: gives the new task's expert's features (n, d) of those inputs, where the caller has them; computed otherwise.
        recall: as in `methods.Data`; not asked where tensors of the merged model are in the expert's place (`left_out`, batch norms' counts).
        report: as in `mask_training.merge_step`.

    Raises:
        ValueError: if a vector is none of this model's or not finite; if `options.left_out` has a pattern that no tensor's name matches, or leaves
            nothing to merge; if there are no inputs for a method that reads some; or if what is merged is not finite.
    """
    task_vectors.check(task_vector, pretrained, what="a task vector")
    if merged_vector is not None:
        task_vectors.check(merged_vector, pretrained, what="a merged vector")
    if merged_vector is not None and LINES in state:
        merged_vector = layer_scaling.scaled(merged_vector, _factors(merged_vector, state[LINES].tolist()), back=True)
    kept_as_is = _statistics(merged_vector, task_vector, count) | _left_out(options.left_out, pretrained, merged_vector)
    shared = _with(encoder, {key: pretrained[key] + value for key, value in kept_as_is.items()})
    base, merged, tau = (_without(vector, kept_as_is) for vector in (pretrained, merged_vector, task_vector))
    own = _own(state, options.method)
    method, kept = methods.METHODS[options.method], memory.from_tensors(state)
    if method.sees == "nothing":
        outcome = methods.merge(methods.Arrival(base, merged, tau, count, own, options))
        return _done(_carried(outcome, own, kept_as_is), kept_as_is, kept, options, _saw(method))
    inputs = unlabelled()
    if not len(inputs):
        raise ValueError(
            f"expected unlabelled inputs of the new task for method {options.method}; received none; raise split.unlabelled, or choose a method that "
            "sees nothing"
        )
    taught = targets(inputs) if targets else encoder.teach(task_vectors.add(pretrained, task_vector), inputs)
    data, pre, dissimilarity = None, None, None
    if merged_vector is not None or method.reads_first(options):
        post = mask_training.Side(shared.prepare(inputs), taught)
        if merged_vector is not None:
            dissimilarity = _dissimilarity(base, merged, inputs, taught, shared)
            pre = _pre_side(base, merged, post, inputs, kept, options, shared)
        from_memory = pre is not None and kept is not None and options.pre_images != "new_task"
        steps, recalled = kept.steps if from_memory else None, methods.computed if kept_as_is else recall
        data = methods.Data(shared.features, pre, post, report, steps, head, recalled)
    outcome = methods.merge(methods.Arrival(base, merged, tau, count, own, options, data))
    left = _remember(options, kept, inputs, taught, count)
    outcome = methods.without_heads_of_others(
        _carried(outcome, own, kept_as_is), [] if left is None else left.steps.unique().tolist()
    )
    return _done(outcome, kept_as_is, left, options, _saw(method, data, options), dissimilarity)


def _own(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What a method's last step left. Up to code version 4 only WUDI left anything, and not under its name."""
    mark = f"method.{name}."
    found = {key.removeprefix(mark): value for key, value in state.items() if key.startswith(mark)}
    if name == "wudi" and not found:
        return {key: value for key, value in state.items() if key.partition(".")[0] in ("gram", "product", "sum")}
    return found


def _carried(outcome: methods.Outcome, own: Mapping[str, Tensor], kept_as_is: Mapping[str, Tensor]) -> methods.Outcome:
    """With what earlier steps kept of tensors that this one leaves out, `<what>.<key>`, for steps that merge them again."""
    there = {name: value for name, value in own.items() if name.partition(".")[2] in kept_as_is}
    return dataclasses.replace(outcome, state={**there, **outcome.state})


def _done(
    outcome: methods.Outcome,
    kept_as_is: Mapping[str, Tensor],
    left: memory.Memory | None,
    options: settings.Merge,
    saw: dict[str, Any],
    dissimilarity: float | None = None,
) -> Step:
    vector = {**outcome.vector, **kept_as_is}
    state = {f"method.{options.method}.{key}": value for key, value in outcome.state.items()} | memory.to_tensors(left)
    if options.lines is not None:
        vector = layer_scaling.scaled(vector, _factors(vector, options.lines))
        state[LINES] = torch.tensor(options.lines, dtype=torch.float64)
    _require_finite(vector, options.method)
    return Step(vector, state, saw, outcome.learned, dissimilarity, outcome.notes)


def _require_finite(vector: task_vectors.Vector, method: str) -> None:
    broken = [key for key, value in vector.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"expected a finite merged vector from method {method}; received NaN or infinity in {len(broken)} tensors ({', '.join(broken[:3])}); "
            "set smaller factors or learning rates"
        )


def _factors(vector: Mapping[str, Tensor], lines: Sequence[float]) -> dict[str, float]:
    found = layer_scaling.factors(vector, *lines)
    return {key: 1.0 if key.rpartition(".")[2] in _COUNTED else factor for key, factor in found.items()}


def _left_out(
    patterns: Sequence[str], pretrained: Mapping[str, Tensor], merged_vector: Mapping[str, Tensor] | None
) -> task_vectors.Vector:
    """The part of the merged vector that the patterns keep as it is, and tensors of no element; zero at the first step."""
    found = task_vectors.matching(patterns, pretrained, setting="merge.left_out")
    found += [
        key for key, value in pretrained.items() if value.is_floating_point() and not value.numel() and key not in found
    ]
    return {
        key: merged_vector[key] if merged_vector else task_vectors.zeros({key: pretrained[key]})[key] for key in found
    }


def _statistics(
    merged_vector: Mapping[str, Tensor] | None, task_vector: Mapping[str, Tensor], count: int
) -> task_vectors.Vector:
    """The mean over the tasks so far of what batch norms counted: it is no weight, and a sum of variances' differences can be below zero."""
    found = {key: tau for key, tau in task_vector.items() if key.rpartition(".")[2] in _COUNTED}
    if merged_vector is None:
        return {key: tau.clone() for key, tau in found.items()}
    return {key: merged_vector[key] + (tau - merged_vector[key]) / count for key, tau in found.items()}


def _with(encoder: Encoder, fixed: Mapping[str, Tensor]) -> Encoder:
    """The encoder as a function of all tensors but some."""
    if not fixed:
        return encoder
    return Encoder(lambda state, inputs: encoder.features({**state, **fixed}, inputs), encoder.prepare)


def _without(vector: Mapping[str, Tensor] | None, keys: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    return vector if not keys or vector is None else {key: value for key, value in vector.items() if key not in keys}


def _dissimilarity(
    pretrained: Mapping[str, Tensor],
    merged_vector: Mapping[str, Tensor],
    inputs: np.ndarray,
    targets: Tensor,
    encoder: Encoder,
) -> float:
    chosen = np.linspace(0, len(inputs) - 1, min(len(inputs), COMPARED)).astype(int)
    found = encoder.teach(task_vectors.add(pretrained, merged_vector), inputs[chosen])
    return transport.dissimilarity(found, targets[torch.from_numpy(chosen)].to(found.device), epsilon=EPSILON)


def _pre_side(
    pretrained: Mapping[str, Tensor],
    merged_vector: Mapping[str, Tensor],
    post: mask_training.Side,
    inputs: np.ndarray,
    kept: memory.Memory | None,
    options: settings.Merge,
    encoder: Encoder,
) -> mask_training.Side | None:
    def merged_so_far() -> task_vectors.State:
        return task_vectors.add(pretrained, merged_vector)

    if options.pre_images == "new_task":
        return mask_training.Side(post.inputs, encoder.teach(merged_so_far(), inputs))
    if options.pre_images == "none" or kept is None:
        return None
    old = kept.inputs.cpu().numpy()
    targets = kept.targets if options.remember_targets else encoder.teach(merged_so_far(), old)
    return mask_training.Side(encoder.prepare(old), targets.to(post.targets.device))


def _remember(
    options: settings.Merge, kept: memory.Memory | None, inputs: np.ndarray, targets: Tensor, count: int
) -> memory.Memory | None:
    if options.pre_images not in ("memory", "previous_task"):
        return None
    return memory.admit(
        kept,
        torch.from_numpy(np.ascontiguousarray(inputs)),
        targets.cpu(),
        step=count,
        size=options.memory_size,
        only_last=options.pre_images == "previous_task",
        seed=options.seed,
    )


def _saw(
    method: methods.Method,
    data: methods.Data | None = None,
    options: settings.Merge | None = None,
) -> dict[str, Any]:
    pre = data.pre if data else None
    steps = data.pre_steps if data else None
    return {
        "declared": method.sees,
        "labels": False,
        "test_images": 0,
        "pre_kind": options.pre_images if pre is not None else "none",
        "pre_images": 0 if pre is None else len(pre.inputs),
        "pre_steps": [] if steps is None else steps.unique().tolist(),
        "post_images": 0 if data is None else len(data.post.inputs),
    }
