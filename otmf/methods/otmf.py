"""OTMF as a row of the methods table: masks learned on unlabelled features (`otmf.fusion`)."""

from __future__ import annotations

from otmf import fusion
from otmf.methods import _table


def step(arrival: _table.Arrival) -> _table.Outcome:
    """The fused vector with learned masks; the first task vector whole.

    Source: arXiv:2511.19561.
    """
    if arrival.merged_vector is None:
        learned = fusion.merge_step(
            arrival.pretrained,
            None,
            arrival.task_vector,
            features=_no_features,
            pre=None,
            post=None,
            options=arrival.options,
        )
        return _table.Outcome(learned.vector, learned=learned)
    if arrival.data is None:
        raise ValueError("expected unlabelled inputs for method otmf; received none; choose a method that sees nothing")
    learned = fusion.merge_step(
        arrival.pretrained,
        arrival.merged_vector,
        arrival.task_vector,
        features=arrival.data.features,
        pre=arrival.data.pre,
        post=arrival.data.post,
        options=arrival.options,
        report=arrival.data.report,
    )
    return _table.Outcome(learned.vector, learned=learned)


def _no_features(state: object, inputs: object) -> None:
    raise AssertionError("the first step reads no inputs")
