"""The settings of a merge step: one model per method, with what that method reads and no more; the defaults are the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from otmf.settings.section import Count, CountOrNone, Fraction, NamePattern, Number, Positive, Section, Seed

DEFAULT = "otmf"
FEW = 3  # settings of another method that are told one by one
SHARED_ONCE = frozenset(
    ("combination", "alpha", "scale", "granularity", "objective", "epsilon", "reach", "alternate", "steps", "learning_rate", "batch_size",
     "pre_images", "memory_size", "remember_targets", "unlabelled_images", "coefficient", "ridge")
)  # fmt: skip


class Merge(Section):
    """What every method has.

    code_version: of the method; it is raised where the same settings would merge otherwise, or be written otherwise.
    left_out: patterns of names whose tensors stay as they are in the model merged so far: embeddings or norms, say.
    seed: of all that is drawn.
    lines: the factors of the first and the last block of the merged vector, linear between; None: as it is merged.
    """

    follows_itself: ClassVar[bool] = (
        False  # whether a later step needs what the step before it left, of the same method
    )

    code_version: Count = 5
    method: str
    left_out: tuple[NamePattern, ...] = ()
    seed: Seed = 0
    lines: tuple[Positive, Positive] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written_before(cls, values: Any) -> Any:
        """Up to code version 4 a step had the settings of all methods there were: those of other methods decided nothing."""
        version = values.get("code_version") if isinstance(values, Mapping) else None
        if not isinstance(version, int) or version >= 5:
            return cls._only_own(values)
        return {key: value for key, value in values.items() if key in cls.model_fields or key not in SHARED_ONCE}

    @classmethod
    def _only_own(cls, values: Any) -> Any:
        """One sentence, and not one for each, for many settings of another method."""
        given = values if isinstance(values, Mapping) else {}
        foreign = [key for key in given if key not in cls.model_fields and key in _of_any()]
        if len(foreign) > FEW:
            raise ValueError(
                f"expected settings of method {given.get('method')} alone; received {', '.join(foreign[:FEW])} and {len(foreign) - FEW} more, which "
                "other methods have; leave them out"
            )
        return values


def _of_any() -> set[str]:
    return {key for model in BY_NAME.values() for key in model.model_fields}


class RunningAverage(Merge):
    """The mean of the task vectors so far."""

    method: Literal["running_average"] = "running_average"


class TaskArithmetic(Merge):
    """The sum of the task vectors so far, each times `coefficient`."""

    method: Literal["task_arithmetic"] = "task_arithmetic"
    coefficient: Positive = 0.3


class Ties(Merge):
    """Entries that agree with the elected sign, of the trimmed sum so far and the trimmed new vector, times `coefficient`.

    density: the fraction of a vector's entries that trimming keeps.
    """

    follows_itself: ClassVar[bool] = True
    method: Literal["ties"] = "ties"
    coefficient: Positive = 0.3
    density: Fraction = 0.2


class TiesPublished(Ties):
    """The merged vector and, added to it, `coefficient` times TIES of it and the new one: as published, it adds what is there already."""

    follows_itself: ClassVar[bool] = False
    method: Literal["ties_published"] = "ties_published"


class Dare(Merge):
    """Task arithmetic (`coefficient`) with entries dropped at random and the rest scaled up.

    drop: the probability that an entry is dropped.
    """

    method: Literal["dare"] = "dare"
    coefficient: Positive = 0.3
    drop: Annotated[Number, Field(ge=0, lt=1)] = 0.9


class MagMax(Merge):
    """Of all task vectors so far, entry by entry, that of the greatest magnitude, times `coefficient`."""

    follows_itself: ClassVar[bool] = True
    method: Literal["magmax"] = "magmax"
    coefficient: Positive = 0.5


class Opcm(Merge):
    """Of each new linear weight what is orthogonal to the leading directions of the merged one, at a norm that is kept.

    threshold: the part of the sum of the merged weight's singular values that its leading directions have.
    """

    follows_itself: ClassVar[bool] = True
    method: Literal["opcm"] = "opcm"
    threshold: Annotated[Number, Field(ge=0, lt=1)] = 0.5


class NullSpace(Merge):
    """NUFILT's filter alone: of each new linear weight what does not act on the leading input directions of the merged one.

    null_rank: how many of those directions.
    """

    method: Literal["null_space"] = "null_space"
    null_rank: Count = 128


class Nufilt(Merge):
    """Each new linear weight filtered off the leading input directions of the merged one, and a small way back learned without data.

    null_rank, new_rank: leading directions of the merged weight, and of the new one that the way back is to restore.
    adapter_rank, steps, learning_rate: of the way back, and of Adam.
    """

    method: Literal["nufilt"] = "nufilt"
    null_rank: Count = 128
    new_rank: Count = 8
    adapter_rank: Count = 64
    steps: Count = 50
    learning_rate: Positive = 1e-3


class Dop(Merge):
    """Each linear weight pulled to the merged one and to the new one along the directions that matter to each, balanced by MGDA.

    spectrum: the part of the sum of the singular values that is looked at.
    balance, balance_decay: weight of the old side to begin with, and of what its running mean keeps at each step.
    steps, learning_rate: of Adam.
    """

    method: Literal["dop"] = "dop"
    spectrum: Fraction = 0.99999
    balance: Fraction = 0.8
    balance_decay: Fraction = 0.999
    steps: Count = 200
    learning_rate: Positive = 1e-4


class IsoC(Merge):
    """The sum of all task vectors with the singular values of each matrix made equal, times `coefficient`."""

    follows_itself: ClassVar[bool] = True
    method: Literal["iso_c"] = "iso_c"
    coefficient: Positive = 1.0


class TsvM(Merge):
    """The leading singular triplets of the merged vector and of the new one side by side, made orthogonal, times `coefficient`."""

    follows_itself: ClassVar[bool] = True
    method: Literal["tsv_m"] = "tsv_m"
    coefficient: Positive = 1.0


class Wudi(Merge):
    """WUDI's objective in closed form, from running sums: per linear weight the merge that interferes least with any task vector.

    ridge: in units of the mean diagonal entry of the summed Gram matrices. (The published 300 steps of Adam are its joint form in `otmf bench`.)
    """

    follows_itself: ClassVar[bool] = True
    method: Literal["wudi"] = "wudi"
    ridge: Positive = 1e-2


class _NewInputs(Merge):
    """Of methods that see unlabelled inputs of the new task and keep none, but sums over the tasks."""

    follows_itself: ClassVar[bool] = True
    unlabelled_images: Count = 256
    pre_images: Literal["none"] = "none"


class Fisher(_NewInputs):
    """The mean of the task vectors, each number weighed by how much its task's predictions depend on it, from running sums.

    normalise, floor: the information of all numbers of a task at unit length, and what is added to that of each.
    draws: of a class for each input, from the expert's own prediction.
    """

    method: Literal["fisher"] = "fisher"
    normalise: bool = True
    floor: Positive = 1e-6
    draws: Count = 4


class RegMean(_NewInputs):
    """Per linear weight the least-squares merge on the inputs that each expert's layer saw, from running sums.

    shrinkage: of the off-diagonal entries of the Gram matrices.
    """

    method: Literal["regmean"] = "regmean"
    shrinkage: Fraction = 0.95


class Lot(_NewInputs):
    """As RegMean, with plain Gram matrices, the pseudo-inverse of their sum, and `coefficient`."""

    method: Literal["lot"] = "lot"
    unlabelled_images: Count = 64
    coefficient: Positive = 1.0


class AdaMergingTaskWise(Merge):
    """How much of the merged vector and of the new one: two factors, by which predictions become sure.

    coefficient: the new one's, to begin with.
    steps, learning_rate, batch_size: of Adam on the mean entropy.
    pre_images, memory_size, remember_targets, unlabelled_images: as OTMF's.
    """

    method: Literal["adamerging_task_wise"] = "adamerging_task_wise"
    coefficient: Positive = 0.3
    steps: CountOrNone = 50
    learning_rate: Positive = 1e-3
    batch_size: Count = 16
    pre_images: Literal["memory", "none"] = "none"
    memory_size: CountOrNone = 300
    remember_targets: Literal[True] = True
    unlabelled_images: Count = 300


class AdaMergingLayerWise(AdaMergingTaskWise):
    """As `adamerging_task_wise`, with two factors for each tensor."""

    method: Literal["adamerging_layer_wise"] = "adamerging_layer_wise"


class Distillation(Merge):
    """The merged model itself is trained, all of it, to give what experts gave; no vector is combined.

    start: from the merged vector (`merged`), or from that plus the new one (`sum`).
    objective: of features (`mse`, `l1`) or of predictions (`logits`, `kl`).
    steps, learning_rate, batch_size: of Adam; the rate is that of fine-tuning.
    pre_images, memory_size, remember_targets, unlabelled_images: as OTMF's.
    """

    method: Literal["distillation"] = "distillation"
    start: Literal["merged", "sum"] = "merged"
    objective: Literal["mse", "l1", "logits", "kl"] = "mse"
    steps: CountOrNone = 100
    learning_rate: Positive = 1e-4
    batch_size: Count = 16
    pre_images: Literal["previous_task", "memory", "none"] = "memory"
    memory_size: CountOrNone = 300
    remember_targets: bool = True
    unlabelled_images: Count = 300


class Otmf(Merge):
    """Masks on the merged vector and on the new one, trained without labels; the values here are the preset `transport`.

    combination, alpha, scale: as in `otmf.merging.fusion`: a convex combination with weight alpha of the merged vector, or a sum.
    granularity: a mask for each element, row, column or tensor, of low rank, or of a share of the elements (`sparse`).
    epsilon, batch_size, steps: of the Sinkhorn distance; inputs in a batch; steps of Adam.
    pre_images: which old inputs there are: of all tasks (`memory`), of the last (`previous_task`), the new ones (`new_task`), or none.
    memory_size, unlabelled_images: how many old inputs are remembered in all; how many new ones are seen at most.
    remember_targets: whether what experts gave for old inputs is remembered, or asked of the merged model.
    alternate: one vector's masks at a time.
    schedule, start: where a step begins, with masks at one, as in `otmf.methods.otmf`.
    retention: the part of a change of mean curvature that each step takes back towards where old and new predictions balance, more of a steeper
        one, less of a flatter one (`otmf.merging.retention`), by what earlier steps kept in place of their inputs (`otmf.merging.curvature`). 0: nothing is kept for it.
    aligned_retention: in the place of `retention` at a step that reads the merged model through an aligned head (`head_ridge`), which has less to lose.
        None: the same.
    weight_of_old: how much heavier old tasks' curvature counts there, and in `start: curvature`, than the new one's.
    largest_damage: of what old tasks' fine-tuning did to their predictions, the share that a step's start may be foretold to undo; the
        start keeps so much of the new task as stays below. None: no bound.
    probes, gradient_batch: how the new task's curvature is measured, as in `otmf.merging.curvature.of_predictions`.
    damping: of `start: curvature`.
    learning_rate: of Adam. What masks of all elements take at 0.02, those of few numbers take at 0.05 to 0.1, and
        masks of few ranks, where no old input is seen, three times the retention (`otmf.settings.presets`).
    decay: of the learning rate over the steps, down to zero.
    rank: of `granularity: low_rank`.
    rank_share: how many numbers those masks may have, of the elements of each vector: tensors for which they would lower the loss least
        have a single factor instead. None: all have them.
    share: of the elements of each vector, that have a mask with `granularity: sparse`.
    head_ridge: with an objective on predictions, the new task's head is aligned to the start (`heads.aligned`) and the merged model is read through
        it, as it will be once heads are aligned after the step: masks then learn what no head can make up. None, or with fewer inputs than five for
        each of the head's degrees of freedom: through the head that the task came with.
    objective: as in `otmf.objectives.losses`; those on predictions, `kl` and `entropy`, keep the heads of remembered inputs in the state.
    reach: in units of the mean cost, makes the Sinkhorn divergence unbalanced; None: balanced.
    """

    code_version: Count = 10
    method: Literal["otmf"] = "otmf"
    combination: Literal["convex", "sum"] = "sum"
    alpha: Fraction = 0.8
    scale: Positive = 1.0
    schedule: Literal["constant", "running_mean", "norm_preserving"] = "constant"
    start: Literal["ones", "closed_form", "null_space", "curvature"] = "ones"
    retention: Annotated[Number, Field(ge=0)] = 0.0
    aligned_retention: Annotated[Number, Field(ge=0)] | None = None
    weight_of_old: Positive = 1.0
    largest_damage: Positive | None = None
    probes: Count = 1
    gradient_batch: Count = 4
    damping: Positive = 1e-2
    granularity: Literal["element", "row", "column", "tensor", "low_rank", "sparse"] = "element"
    rank: Count = 1
    rank_share: Fraction | None = None
    share: Fraction = 0.005
    head_ridge: Positive | None = None
    objective: Literal["sinkhorn_divergence", "transport_cost", "regularised_cost", "exact_cost", "sliced_cost", "mmd", "mse", "l1", "logits",
                       "kl", "entropy"] = "sinkhorn_divergence"  # fmt: skip
    epsilon: Positive = 0.05
    reach: Positive | None = None
    alternate: bool = False
    steps: CountOrNone = 100
    learning_rate: Positive = 0.02
    decay: Literal["none", "cosine"] = "none"
    batch_size: Annotated[Count, Field(ge=2)] = 16
    pre_images: Literal["previous_task", "memory", "new_task", "none"] = "memory"
    memory_size: CountOrNone = 300
    remember_targets: bool = True
    unlabelled_images: Count = 300

    @property
    def keeps_curvature(self) -> bool:
        """Whether a step leaves the curvature of its task for the next ones."""
        return (
            self.start == "curvature"
            or self.retention > 0
            or bool(self.aligned_retention)
            or self.largest_damage is not None
        )

    @model_validator(mode="after")
    def _reach_is_of_the_divergence(self) -> Otmf:
        if self.reach is not None and self.objective != "sinkhorn_divergence":
            raise ValueError(
                f"expected objective sinkhorn_divergence beside reach; received {self.objective}; leave out reach, or that objective"
            )
        return self

    @model_validator(mode="after")
    def _rank_share_is_of_low_rank(self) -> Otmf:
        if self.rank_share is not None and self.granularity != "low_rank":
            raise ValueError(
                f"expected granularity low_rank beside rank_share; received {self.granularity}; leave out rank_share, or set that granularity"
            )
        return self

    @model_validator(mode="after")
    def _running_mean_is_convex(self) -> Otmf:
        if self.schedule == "running_mean" and self.combination != "convex":
            raise ValueError(
                f"expected combination convex beside schedule running_mean; received {self.combination}; set that combination"
            )
        return self


MODELS = (Otmf, RunningAverage, TaskArithmetic, Ties, TiesPublished, Dare, MagMax, Opcm, NullSpace, Nufilt, Dop, IsoC, TsvM, Wudi,
          Fisher, RegMean, Lot, AdaMergingTaskWise, AdaMergingLayerWise, Distillation)  # fmt: skip
BY_NAME: dict[str, type[Merge]] = {model.model_fields["method"].default: model for model in MODELS}

SOURCES: dict[str, str] = {
    "otmf": "arXiv:2511.19561",
    "running_average": "arXiv:2203.05482",
    "task_arithmetic": "arXiv:2212.04089",
    "ties": "arXiv:2306.01708",
    "ties_published": "arXiv:2306.01708",
    "dare": "arXiv:2311.03099",
    "magmax": "arXiv:2407.06322",
    "opcm": "arXiv:2501.09522",
    "null_space": "arXiv:2509.21413",
    "nufilt": "arXiv:2509.21413",
    "dop": "openreview:zD5cUX67b9",
    "iso_c": "arXiv:2502.04959",
    "tsv_m": "arXiv:2412.00081",
    "wudi": "arXiv:2503.08099",
    "adamerging_task_wise": "arXiv:2310.02575",
    "adamerging_layer_wise": "arXiv:2310.02575",
    "distillation": "arXiv:1503.02531",
    "fisher": "arXiv:2111.09832",
    "regmean": "arXiv:2212.09849",
    "lot": "arXiv:2505.23859",
}  # where each method was published


def _method(values: Any) -> str:
    """The method that a section names; the default where it names none."""
    name = values.get("method", DEFAULT) if isinstance(values, Mapping) else getattr(values, "method", None)
    return name if isinstance(name, str) else ""


AnyMerge = Annotated[
    Union[tuple(Annotated[model, Tag(name)] for name, model in BY_NAME.items())],  # noqa: UP007 - made from the table
    Discriminator(
        _method,
        custom_error_type="unknown_method",
        custom_error_message=f"expected `method` as one of {', '.join(BY_NAME)}; received another; choose one of them",
    ),
]
