"""OTMF as a row of the methods table: masks learned on unlabelled features (`otmf.merging.mask_training`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from otmf import task_vectors
from otmf.merging import curvature, fusion, linear_maps, mask_training
from otmf.merging.retention import Retention
from otmf.methods import interface, remembered_heads
from otmf.methods.baselines import nufilt, wudi
from otmf.objectives import losses
from otmf.settings import merge_methods

SMALLEST = 1e-2  # a task's unit is at least this share of the mean square of its expert's centred logits


def reads_first(options: merge_methods.Otmf) -> bool:
    """Whether the first task's inputs or head are to be read: where the objective is on predictions, or curvature is kept."""
    return options.objective in losses.ON_PREDICTIONS or options.keeps_curvature


def step(arrival: interface.Arrival) -> interface.Outcome:
    """The fused vector with learned masks; the first task vector whole.

    State: none with preset `transport`. With an objective on predictions, or curvature, `head.<step>.weight`, `.bias`, `.unit` and, with `head_ridge`,
    `.aligned`, the heads that memory needs; with `start: curvature`, `retention` or `largest_damage` the sum `curvature.*` of the tasks' curvature (`otmf.merging.curvature`), each in its unit; with
    `start: closed_form` WUDI's `gram.<key>` and `product.<key>`; with `schedule: norm_preserving` the sum `norm` of the task vectors' norms.

    Source: arXiv:2511.19561; what is kept in place of old inputs is this project's.
    """
    options, data = arrival.options, arrival.data
    if data is None and (arrival.merged_vector is not None or reads_first(options)):
        raise ValueError("expected unlabelled inputs for method otmf; received none; choose a method that sees nothing")
    pre, post = (None, None) if data is None else (data.pre, data.post)
    state: dict[str, Tensor] = {}
    unit = _unit(arrival) if options.objective == "logits" or options.keeps_curvature else None
    old, new = _curvatures(arrival, unit) if options.keeps_curvature else (None, None)
    if reads_first(options):  # also where this step's objective needs no head: the next one's may
        state = remembered_heads.kept(arrival, unit)
        of_pre, of_post = remembered_heads.predictors(arrival, unit)
        pre, post = pre and replace(pre, predictors=of_pre), replace(post, predictors=of_post)
    start, sums = _start(arrival, old, new)
    notes: dict[str, float] = {}
    if old is not None and options.largest_damage is not None:
        start, notes = _bounded(arrival, start, old)
    strength = options.retention
    if start is not None and options.head_ridge is not None and options.objective in losses.ON_PREDICTIONS:
        merged = task_vectors.add(arrival.pretrained, start.vector(arrival.merged_vector, arrival.task_vector))
        if (head := remembered_heads.aligned(arrival, merged)) is not None:
            post = replace(post, predictors=replace(post.predictors, heads=(head,), teachers=post.predictors.heads))
            state |= {f"head.{arrival.count}.aligned": head.weight} if state else {}
            strength = strength if options.aligned_retention is None else options.aligned_retention
    kept = _retention(arrival, start, old, new, strength) if old is not None and strength and options.steps else None
    learned = mask_training.merge_step(
        arrival.pretrained,
        arrival.merged_vector,
        arrival.task_vector,
        features=_no_features if data is None else data.features,
        pre=pre,
        post=post,
        options=options,
        start=start,
        retention=kept,
        report=data.report if data else None,
    )
    if new is not None:
        together = new if old is None else old.plus(new)
        sums |= {f"curvature.{key}": value for key, value in together.tensors().items()}
    return interface.Outcome(learned.vector, state | sums, learned, notes)


def _unit(arrival: interface.Arrival) -> float:
    """How far fine-tuning moved the centred logits of the new task's inputs: the mean square, and at least a share of their own.

    Raises:
        ValueError: if the head's class vectors are all equal.
    """
    head, data = remembered_heads.required(arrival), arrival.data
    if bool((head.weight == head.weight[:1]).all()):
        raise ValueError(
            f"expected a head that tells classes apart for method {arrival.options.method}; received one whose {len(head.weight)} class vectors are equal; "
            "correct the head, or merge with preset: transport"
        )
    with torch.no_grad():
        found = remembered_heads.of_new_inputs(arrival, arrival.pretrained)
        base, expert = (losses.centred(head, features) for features in (found, data.post.targets))
        moved, told = (float(found.square().sum(dim=1).mean()) for found in (expert - base, expert))
    return max(moved, SMALLEST * told, torch.finfo(torch.float32).tiny)


def _curvatures(arrival: interface.Arrival, unit: float) -> tuple[curvature.Curvature | None, curvature.Curvature]:
    """Of all old tasks, and of the new one at its expert, such that its own task vector has Q = 1.

    Where fine-tuning moved less than the least unit, less of it counts: such a task has hardly anything to lose.
    """
    _require(arrival, "curvature.", "start: curvature, retention or largest_damage", " with preset: transport")
    options, data, head = arrival.options, arrival.data, remembered_heads.required(arrival)

    def measured() -> dict[str, Tensor]:
        return curvature.of_predictions(
            lambda state, inputs: losses.centred(head, data.features(state, inputs)),
            task_vectors.add(arrival.pretrained, arrival.task_vector),
            data.post.inputs,
            probes=options.probes,
            batch_size=options.gradient_batch,
            seed=options.seed,
        ).tensors()

    how = f"curvature {options.code_version} {options.probes} {options.gradient_batch} {options.seed}"
    new = curvature.from_tensors(data.recall(how, measured))
    foretold = new.of(arrival.task_vector)
    new = new.scaled(1 / max(foretold, unit * SMALLEST))
    if arrival.merged_vector is None:
        return None, new
    mark = "curvature."
    return curvature.from_tensors({key.removeprefix(mark): value for key, value in arrival.state.items() if key.startswith(mark)}), new  # fmt: skip


def _bounded(
    arrival: interface.Arrival, start: fusion.Start, old: curvature.Curvature
) -> tuple[fusion.Start, dict[str, float]]:
    """The start moved back towards D until what old tasks are foretold to lose, on average, is within the bound; and what was foretold."""
    D, tau, (a, b) = arrival.merged_vector, arrival.task_vector, start.factors
    change = {key: value - D[key] for key, value in start.vector(D, tau).items()}
    damage = old.of(change) / (arrival.count - 1)
    bound = arrival.options.largest_damage
    share = 1.0 if damage <= bound else (bound / damage) ** 0.5
    kept = {key: D[key] * (1 - a) - b * tau[key] + share * change[key] for key in tau}
    found = start if share == 1.0 else fusion.Start(start.factors, kept)
    return found, {"foretold_damage": damage, "share_of_the_start": share}


def _retention(
    arrival: interface.Arrival,
    start: fusion.Start,
    of_old: curvature.Curvature,
    of_new: curvature.Curvature,
    strength: float,
) -> Retention:
    """Towards the start, where it is the one at which old and new predictions balance; else towards that one."""
    options = arrival.options
    if options.start == "curvature":
        anchor = start.vector(arrival.merged_vector, arrival.task_vector)
    else:
        anchor = _balanced(arrival, of_old, of_new)
    return Retention(of_old.scaled(options.weight_of_old).plus(of_new), anchor, strength)


def _balanced(
    arrival: interface.Arrival, of_old: curvature.Curvature, of_new: curvature.Curvature
) -> task_vectors.Vector:
    """Where predictions on all tasks are foretold to change least, old tasks as heavy as the settings say."""
    options, weighed = arrival.options, of_old.scaled(arrival.options.weight_of_old)
    return curvature.merged(
        arrival.merged_vector, weighed, arrival.task_vector, of_new, count=arrival.count, damping=options.damping
    )


def _start(
    arrival: interface.Arrival, of_old: curvature.Curvature | None = None, of_new: curvature.Curvature | None = None
) -> tuple[fusion.Start | None, dict[str, Tensor]]:
    """Where a step begins with masks at one, and what the next step needs for that; None at the first step.

    `schedule` says how much of D and tau: as `fusion.weights`; a running mean; or scaled so that the norm is the mean norm of the task
    vectors so far. `start` then puts the weights of linear maps at WUDI's merge of all tasks so far (`closed_form`), or at D and what tau
    does outside the leading directions of D (`null_space`), as METHODS have them by default; `curvature` puts all tensors where old and new
    tasks' predictions are foretold to change least. Masks multiply D and tau all the same.
    """
    options, D, tau = arrival.options, arrival.merged_vector, arrival.task_vector
    state: dict[str, Tensor] = {}
    if options.schedule == "norm_preserving":
        _require(arrival, "norm", "schedule: norm_preserving")
        norm = torch.tensor(task_vectors.norm(tau), dtype=torch.float64)
        state["norm"] = interface.added(arrival, "norm", norm)
    merged: task_vectors.Vector = {}
    if options.start == "closed_form":
        _require(arrival, "gram.", "start: closed_form")
        merged, sums = wudi.linear(arrival, ridge=merge_methods.Wudi().ridge)
        state |= sums
    if D is None:
        return None, state
    if options.start == "null_space":
        for key in tau:
            if linear_maps.is_linear(key, tau[key]):
                old, new = linear_maps.oriented(key, D[key]), linear_maps.oriented(key, tau[key])
                filtered = nufilt.outside(new, nufilt.directions(old, merge_methods.NullSpace().null_rank))
                merged[key] = linear_maps.oriented(key, old + filtered)
    if options.start == "curvature":
        merged = _balanced(arrival, of_old, of_new)
    a, b = fusion.weights(options)
    if options.schedule == "running_mean":
        a, b = (arrival.count - 1) / arrival.count, 1 / arrival.count
    if options.schedule == "norm_preserving":
        total = task_vectors.norm({key: a * D[key] + b * tau[key] for key in tau})
        scale = float(state["norm"]) / arrival.count / total if total else 1.0
        a, b = a * scale, b * scale
    return fusion.Start((a, b), {key: merged[key] - a * D[key] - b * tau[key] for key in merged}), state


def _require(arrival: interface.Arrival, mark: str, setting: str, instead: str = "") -> None:
    if arrival.count > 1 and not any(key.startswith(mark) for key in arrival.state):
        raise ValueError(
            f"expected what {arrival.count - 1} earlier steps left for {setting}; received nothing, as they were set otherwise; set it from "
            f"the first step on, or leave it out{instead}"
        )


def _no_features(state: object, inputs: object) -> None:
    raise AssertionError("the first step reads no inputs")
