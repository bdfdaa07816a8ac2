"""The table of merge methods: a name in params.yaml -> the code that merges, what it may see, the paper it comes from."""

from __future__ import annotations

from otmf import settings
from otmf.methods import otmf
from otmf.methods.baselines import (
    adamerging,
    dare,
    distillation,
    dop,
    fisher,
    iso,
    magmax,
    nufilt,
    opcm,
    regmean,
    running_average,
    task_arithmetic,
    ties,
    tsv_m,
    wudi,
)
from otmf.methods.interface import Arrival, Data, Method, Outcome, Recall, computed
from otmf.methods.remembered_heads import without_heads_of_others


def _always(options: settings.Merge) -> bool:
    return True


METHODS: dict[str, Method] = {
    "otmf": Method(otmf.step, sees="unlabelled", reads_first=otmf.reads_first),
    "running_average": Method(running_average.step, sees="nothing"),
    "task_arithmetic": Method(task_arithmetic.step, sees="nothing"),
    "ties": Method(ties.step, sees="nothing", joint=ties.joint),
    "ties_published": Method(ties.published, sees="nothing"),
    "dare": Method(dare.step, sees="nothing"),
    "magmax": Method(magmax.step, sees="nothing"),
    "opcm": Method(opcm.step, sees="nothing"),
    "null_space": Method(nufilt.null_space, sees="nothing"),
    "nufilt": Method(nufilt.step, sees="nothing"),
    "dop": Method(dop.step, sees="nothing"),
    "iso_c": Method(iso.step, sees="nothing"),
    "tsv_m": Method(tsv_m.step, sees="nothing", joint=tsv_m.joint),
    "wudi": Method(wudi.step, sees="nothing", joint=wudi.joint),
    "adamerging_task_wise": Method(adamerging.task_wise, sees="unlabelled", reads_first=_always),
    "adamerging_layer_wise": Method(adamerging.layer_wise, sees="unlabelled", reads_first=_always),
    "distillation": Method(distillation.step, sees="unlabelled", reads_first=distillation.reads_first),
    "fisher": Method(fisher.step, sees="unlabelled", reads_first=_always),
    "regmean": Method(regmean.step, sees="unlabelled", reads_first=_always),
    "lot": Method(regmean.lot, sees="unlabelled", reads_first=_always),
}

__all__ = ["METHODS", "Arrival", "Data", "Method", "Outcome", "Recall", "computed", "merge", "without_heads_of_others"]


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
