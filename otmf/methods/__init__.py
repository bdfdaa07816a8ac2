"""The methods table: a name in params.yaml -> the code that merges, what it may see, and the paper it comes from."""

from __future__ import annotations

from otmf import settings
from otmf.methods import (
    adamerging,
    dare,
    distillation,
    dop,
    iso,
    magmax,
    nufilt,
    opcm,
    otmf,
    regmean,
    running_average,
    task_arithmetic,
    ties,
    tsv_m,
    wudi,
)
from otmf.methods._table import Arrival, Data, Method, Outcome, Recall, computed


def _always(options: settings.Merge) -> bool:
    return True


METHODS: dict[str, Method] = {
    "otmf": Method(otmf.step, sees="unlabelled", source="arXiv:2511.19561", reads_first=otmf.reads_first),
    "running_average": Method(running_average.step, sees="nothing", source="arXiv:2203.05482"),
    "task_arithmetic": Method(task_arithmetic.step, sees="nothing", source="arXiv:2212.04089"),
    "ties": Method(ties.step, sees="nothing", source="arXiv:2306.01708", joint=ties.joint),
    "ties_published": Method(ties.published, sees="nothing", source="arXiv:2306.01708"),
    "dare": Method(dare.step, sees="nothing", source="arXiv:2311.03099"),
    "magmax": Method(magmax.step, sees="nothing", source="arXiv:2407.06322"),
    "opcm": Method(opcm.step, sees="nothing", source="arXiv:2501.09522"),
    "null_space": Method(nufilt.null_space, sees="nothing", source="arXiv:2509.21413"),
    "nufilt": Method(nufilt.step, sees="nothing", source="arXiv:2509.21413"),
    "dop": Method(dop.step, sees="nothing", source="openreview:zD5cUX67b9"),
    "iso_c": Method(iso.step, sees="nothing", source="arXiv:2502.04959"),
    "tsv_m": Method(tsv_m.step, sees="nothing", source="arXiv:2412.00081", joint=tsv_m.joint),
    "wudi": Method(wudi.step, sees="nothing", source="arXiv:2503.08099", joint=wudi.joint),
    "adamerging_task_wise": Method(
        adamerging.task_wise, sees="unlabelled", source="arXiv:2310.02575", reads_first=_always
    ),
    "adamerging_layer_wise": Method(
        adamerging.layer_wise, sees="unlabelled", source="arXiv:2310.02575", reads_first=_always
    ),
    "distillation": Method(
        distillation.step, sees="unlabelled", source="arXiv:1503.02531", reads_first=distillation.reads_first
    ),
    "regmean": Method(regmean.step, sees="unlabelled", source="arXiv:2212.09849", reads_first=_always),
    "lot": Method(regmean.lot, sees="unlabelled", source="arXiv:2505.23859", reads_first=_always),
}

__all__ = ["METHODS", "Arrival", "Data", "Method", "Outcome", "Recall", "computed", "merge"]


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
