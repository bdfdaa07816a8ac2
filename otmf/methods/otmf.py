"""OTMF as a row of the methods table: masks learned on unlabelled features (`otmf.fusion`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from otmf import fusion, linear_maps, merging, objectives, task_vectors
from otmf.methods import _kept_heads, _table, nufilt, wudi


def reads_first(options: object) -> bool:
    """Whether the first task's head is to be kept: where the objective is on predictions."""
    return options.objective in objectives.ON_PREDICTIONS


def step(arrival: _table.Arrival) -> _table.Outcome:
    """The fused vector with learned masks; the first task vector whole.

    State: none by default. With an objective on predictions `head.<step>.weight` and `.bias`, the heads that memory needs; with
    `start: closed_form` WUDI's `gram.<key>` and `product.<key>`; with `schedule: norm_preserving` the sum `norm` of the task vectors' norms.

    Source: arXiv:2511.19561.
    """
    options, data = arrival.options, arrival.data
    if data is None and (arrival.merged_vector is not None or reads_first(options)):
        raise ValueError("expected unlabelled inputs for method otmf; received none; choose a method that sees nothing")
    state = _kept_heads.kept(arrival) if reads_first(options) else {}
    pre, post = (None, None) if data is None else (data.pre, data.post)
    if reads_first(options):
        of_pre, of_post = _kept_heads.predictors(arrival)
        pre, post = pre and replace(pre, predictors=of_pre), replace(post, predictors=of_post)
    start, sums = _start(arrival)
    learned = fusion.merge_step(
        arrival.pretrained,
        arrival.merged_vector,
        arrival.task_vector,
        features=_no_features if data is None else data.features,
        pre=pre,
        post=post,
        options=options,
        start=start,
        report=data.report if data else None,
    )
    return _table.Outcome(learned.vector, state | sums, learned)


def _start(arrival: _table.Arrival) -> tuple[fusion.Start | None, dict[str, Tensor]]:
    """Where a step begins with masks at one, and what the next step needs for that; None at the first step.

    `schedule` says how much of D and tau: as `fusion.weights`; a running mean; or scaled so that the norm is the mean norm of the task
    vectors so far. `start` then puts the weights of linear maps at WUDI's merge of all tasks so far (`closed_form`), or at D and what tau
    does outside the leading directions of D (`null_space`), as METHODS have them by default; masks multiply D and tau all the same.
    """
    options, D, tau = arrival.options, arrival.merged_vector, arrival.task_vector
    state: dict[str, Tensor] = {}
    if options.schedule == "norm_preserving":
        _require(arrival, "norm", "schedule: norm_preserving")
        norm = torch.tensor(task_vectors.norm(tau), dtype=torch.float64)
        state["norm"] = _table.added(arrival, "norm", norm)
    merged: task_vectors.Vector = {}
    if options.start == "closed_form":
        _require(arrival, "gram.", "start: closed_form")
        merged, sums = wudi.linear(arrival, ridge=merging.Wudi().ridge)
        state |= sums
    if D is None:
        return None, state
    if options.start == "null_space":
        for key in tau:
            if linear_maps.is_linear(key, tau[key]):
                old, new = linear_maps.oriented(key, D[key]), linear_maps.oriented(key, tau[key])
                filtered = nufilt.outside(new, nufilt.directions(old, merging.NullSpace().null_rank))
                merged[key] = linear_maps.oriented(key, old + filtered)
    a, b = fusion.weights(options)
    if options.schedule == "running_mean":
        a, b = (arrival.count - 1) / arrival.count, 1 / arrival.count
    if options.schedule == "norm_preserving":
        total = task_vectors.norm({key: a * D[key] + b * tau[key] for key in tau})
        scale = float(state["norm"]) / arrival.count / total if total else 1.0
        a, b = a * scale, b * scale
    return fusion.Start((a, b), {key: merged[key] - a * D[key] - b * tau[key] for key in merged}), state


def _require(arrival: _table.Arrival, mark: str, setting: str) -> None:
    if arrival.count > 1 and not any(key.startswith(mark) for key in arrival.state):
        raise ValueError(
            f"expected what {arrival.count - 1} earlier steps left for {setting}; received nothing, as they were set otherwise; set it from "
            "the first step on, or leave it out"
        )


def _no_features(state: object, inputs: object) -> None:
    raise AssertionError("the first step reads no inputs")
