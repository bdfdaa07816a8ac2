"""The methods table: a name in params.yaml -> the code that merges, what it may see, and the paper it comes from."""

from __future__ import annotations

from otmf.methods import otmf, running_average, task_arithmetic, wudi
from otmf.methods._table import Arrival, Data, Method, Outcome

METHODS: dict[str, Method] = {
    "otmf": Method(otmf.step, sees="unlabelled", source="arXiv:2511.19561"),
    "running_average": Method(running_average.step, sees="nothing", source="arXiv:2203.05482"),
    "task_arithmetic": Method(task_arithmetic.step, sees="nothing", source="arXiv:2212.04089"),
    "wudi": Method(wudi.step, sees="nothing", source="arXiv:2503.08099"),
}

__all__ = ["METHODS", "Arrival", "Data", "Method", "Outcome", "merge"]


def merge(arrival: Arrival) -> Outcome:
    """One step of the method named in `arrival.options`; a method that sees nothing is given nothing.

    Raises:
        ValueError: if inputs are handed to a method that declares none.
    """
    method = METHODS[arrival.options.method]
    if method.sees == "nothing" and arrival.data is not None:
        raise ValueError(
            f"expected no inputs for method {arrival.options.method}, which declares to see nothing; received some; "
            "pass data=None"
        )
    return method.step(arrival)
