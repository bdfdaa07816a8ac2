"""OTMF as a row of the methods table: masks learned on unlabelled features (`otmf.fusion`)."""

from __future__ import annotations

from dataclasses import replace

from otmf import fusion, objectives
from otmf.methods import _kept_heads, _table


def reads_first(options: object) -> bool:
    """Whether the first task's head is to be kept: where the objective is on predictions."""
    return options.objective in objectives.ON_PREDICTIONS


def step(arrival: _table.Arrival) -> _table.Outcome:
    """The fused vector with learned masks; the first task vector whole.

    State: none; with an objective on predictions `head.<step>.weight` and `.bias`, the heads that memory needs.

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
    learned = fusion.merge_step(
        arrival.pretrained,
        arrival.merged_vector,
        arrival.task_vector,
        features=_no_features if data is None else data.features,
        pre=pre,
        post=post,
        options=options,
        report=data.report if data else None,
    )
    return _table.Outcome(learned.vector, state, learned)


def _no_features(state: object, inputs: object) -> None:
    raise AssertionError("the first step reads no inputs")
