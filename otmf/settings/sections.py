"""Everything that can be set, with its limits: one frozen model per section, and the check of a whole line of models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from otmf.settings import merge_methods, messages, names, presets, step_order
from otmf.settings.limits import Limits
from otmf.settings.merge_methods import AnyMerge, Merge, Otmf
from otmf.settings.section import Count, Fraction, NamePattern, Number, Positive, Section, Seed
from otmf.settings.step_order import FIRST


class SettingsError(ValueError):
    """Parameters that cannot be used. The message lists all mistakes."""


OF_THE_BASE = "base"


class Backbone(Section):
    """Which encoder: a model name of open_clip, a JSON file with `embed_dim` and `vision_cfg` in its form, or `base`, the one that
    the card of the base brings along."""

    model: str = "data/backbones/vit_tiny_32.json"


class Training(Section):
    """A training run: AdamW or Muon with linear warm-up, then cosine decay to zero; `steps` of it, or else `epochs`."""

    epochs: Count = 10
    steps: Count | None = None
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 3e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    batch_size: Count = 32
    warmup: Fraction = 0.08
    shift: Annotated[Number, Field(ge=0)] = 2.0
    zoom: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    turn: Annotated[Number, Field(ge=0)] = 0.0
    jitter: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    mirror: bool = False
    seed: Seed = 0


class Pretrained(Training):
    """The base: a training run over the classes of all parts, used where the base card says `source: train`.

    Its batches are large enough for more `threads` than the line's other stages have; None: the same number.
    """

    code_version: Count = 1
    threads: Count | None = None
    epochs: Count = 6
    optimiser: Literal["adamw", "muon"] = "muon"
    learning_rate: Positive = 2e-3
    batch_size: Count = 128
    warmup: Fraction = 0.2
    shift: Annotated[Number, Field(ge=0)] = 3.0
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    scale: Positive = 20.0
    label_smoothing: Fraction = 0.0


class Split(Section):
    """How the train images of a task are divided; what is neither unlabelled nor held back is labelled."""

    unlabelled: Annotated[Number, Field(gt=0, lt=1)] = 0.25
    held_back: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0


class Head(Section):
    """The head frozen before fine-tuning: zero-shot from a text tower, class prototypes, or a linear probe."""

    kind: Literal["auto", "zero_shot", "prototype", "probe"] = "auto"
    images_per_class: Count = 2
    centre: bool = True
    scale: Positive = 10.0
    seed: Seed = 0


class Finetune(Training):
    """As `Training`; left_out: patterns of names whose tensors stay as the base has them, so that the task vector is zero there: embeddings, say."""

    code_version: Count = 1
    left_out: tuple[NamePattern, ...] = ()


class Extract(Section):
    code_version: Count = 4


HEAD_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"heads": "aligned"},
    "paper": {"heads": "previous"},
    "transport": {"heads": "frozen"},
}


class HeadTune(Section):
    """Which heads change after a merge: none; those `aligned` without labels with what their experts' logits were, new and remembered inputs
    being scored; or those trained on frozen merged features with a fraction of the labelled images.

    unlabelled_images: of the new task, for `aligned`. ridge: how strongly the new task's head stays as it was (`heads.aligned`); ridge_of_old: those of
        earlier tasks, which were aligned on more inputs at their arrival than are remembered of them.
    """

    code_version: Count = 1
    heads: Literal["frozen", "aligned", "previous", "all"] = "frozen"
    unlabelled_images: Count = 1024
    ridge: Positive = 0.03
    ridge_of_old: Positive = 3.0
    fraction: Annotated[Number, Field(gt=0, le=1)] = 0.25
    steps: Count = 100
    learning_rate: Positive = 0.01
    batch_size: Count = 64
    seed: Seed = 0


class Evaluate(Section):
    code_version: Count = 2


class Task(Section):
    """The settings a task was onboarded with."""

    split: Split = Split()
    head: Head = Head()
    finetune: Finetune = Finetune()
    extract: Extract = Extract()


class Step(Section):
    """One step of the line: which task was merged on top of which step, and how."""

    task: names.Slug
    previous: str
    merge: AnyMerge = Otmf()
    head_tune: HeadTune = HeadTune()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _aligned_start_is_of_heads_that_will_be(self) -> Step:
        require_together(self.merge, self.head_tune)
        return self


def require_together(merge: Merge, head_tune: HeadTune) -> None:
    """Refuses a merge that reads the merged model through an aligned head, where heads stay frozen. Raises SettingsError."""
    if getattr(merge, "head_ridge", None) is not None and head_tune.heads == "frozen":
        raise SettingsError(
            "expected head_tune.heads other than frozen beside merge.head_ridge, which reads the merged model through a head that is aligned; "
            "received frozen; leave out head_ridge, or set heads: aligned"
        )


class Gate(Section):
    """Bounds that a merged model must keep to serve, at every step; accuracies and drops as fractions.

    least_of_finetuned: of each task, its accuracy over that of its own fine-tuned model. largest_drop: of any older task, from its
    best accuracy so far; largest_average_drop: on average over the older tasks. What a person accepts against the gate counts
    from then on. largest_dissimilarity: the Sinkhorn
    divergence between the features that the merged model so far and the fine-tuned model give to the new task's images,
    over the variance of the latter; None: no bound. What exceeds it is refused, kept in quarantine for a person to decide,
    or merged again with unbalanced transport of that `reach` and then judged by the other rules, as `dissimilar` says.
    """

    least_of_finetuned: Annotated[Number, Field(ge=0)] = 0.5
    largest_drop: Fraction = 0.1
    largest_average_drop: Fraction = 0.05
    largest_dissimilarity: Positive | None = None
    dissimilar: Literal["refuse", "quarantine", "unbalanced"] = "refuse"
    reach: Positive = 0.5


class Defaults(Section):
    """What the next task gets; changing it leaves earlier tasks as they are."""

    preset: Literal["default", "paper", "transport"] = "default"
    split: Split = Split()
    head: Head = Head()
    finetune: Finetune = Finetune()
    merge: dict[str, Any] = Field(default_factory=dict)
    head_tune: dict[str, Any] = Field(default_factory=dict)


class Params(Section):
    """A whole line of models, as in params.yaml."""

    line: names.Slug
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    backbone: Backbone = Backbone()
    pretrained: Pretrained = Pretrained()
    gate: Gate = Gate()
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    tasks: dict[str, Task] = Field(default_factory=dict)
    steps: dict[str, Step] = Field(default_factory=dict)


def check(content: Any) -> Params:
    """The checked parameters of a line.

    Beside each value, the order is checked: step names, known tasks, each task merged once, every `previous` known,
    no cycle, no gap, one chain.

    Raises:
        SettingsError: with all mistakes in one sentence.
    """
    if not isinstance(content, dict):
        raise SettingsError(
            f"params.yaml: expected a mapping of sections; received {type(content).__name__}; restore the file"
        )
    mistakes = step_order.mistakes(content)
    params = None
    try:
        params = Params.model_validate(content)
        mistakes += _preset_mistakes(params.defaults)
    except ValidationError as error:
        mistakes.insert(
            0,
            re.sub(
                rf"(?<=\.merge)\.({'|'.join(merge_methods.BY_NAME)})(?=[.:])",
                "",
                messages.described(error, Params.model_fields),
            ),
        )
    if mistakes:
        raise SettingsError("params.yaml: " + "; ".join(mistakes))
    return params


def merge(preset: str, *layers: dict[str, Any], heads: str | None = None) -> Merge:
    """The merge settings of a preset with single values replaced, later layers over earlier ones.

    A layer that was written for another method than the last one named gives only what every method has; so does the preset. Where a layer of the preset `default`
    names the granularity of masks or the old inputs, what no layer says follows from them (`presets.OF_GRANULARITY`, `presets.OF_OLD_INPUTS`).

    Args:
        heads: the kind that the step ends with, as in `HeadTune`; None: aligned ones. Of the preset `default` what no layer says follows from
            that too (`presets.OF_HEADS`).

    Raises:
        SettingsError: for a bad value, or one that the method does not have.
    """
    name = next((layer["method"] for layer in reversed(layers) if "method" in layer), merge_methods.DEFAULT)
    if not isinstance(name, str) or name not in merge_methods.BY_NAME:
        raise SettingsError(
            f"method: expected one of {', '.join(merge_methods.BY_NAME)}; received {str(name)[:60]!r}; choose one of them"
        )
    values, meant, said = {"method": name}, merge_methods.DEFAULT, {}
    for layer in layers:
        meant = layer.get("method", meant)
        said |= {key: value for key, value in layer.items() if meant == name or key in ("left_out", "seed", "lines")}
    if name == merge_methods.DEFAULT:
        values |= presets.PRESETS[preset]
        if preset == "default":
            values |= presets.OF_HEADS.get(heads or "", {})
            seen = "none" if said.get("memory_size") == 0 else str(said.get("pre_images"))
            values |= presets.OF_OLD_INPUTS.get(seen, {})
            values |= presets.OF_GRANULARITY.get(str(said.get("granularity")), {})
    values |= said
    return section(merge_methods.BY_NAME[name], values)


def head_tune(preset: str, overrides: dict[str, Any]) -> HeadTune:
    """The head settings of a preset with single values replaced. Raises SettingsError for a bad value."""
    return section(HeadTune, {**HEAD_PRESETS[preset], **overrides})


def section(model: type[Any], values: dict[str, Any]) -> Any:
    """One section from plain values. Raises SettingsError with all mistakes."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(messages.described(error, model.model_fields)) from error


def chain(steps: dict[str, Step]) -> list[str]:
    """The names of the steps in the order of merging, s00 left out; `steps` has passed `check`."""
    following = {step.previous: name for name, step in steps.items()}
    order, current = [], FIRST
    while current in following:
        current = following[current]
        order.append(current)
    return order


def _preset_mistakes(defaults: Defaults) -> list[str]:
    mistakes, tuned = [], None
    try:
        tuned = head_tune(defaults.preset, defaults.head_tune)
    except SettingsError as error:
        mistakes.append(f"defaults.head_tune: {error}")
    try:
        merged = merge(defaults.preset, defaults.merge, heads=tuned and tuned.heads)
    except SettingsError as error:
        return [*mistakes, f"defaults.merge: {error}"]
    try:
        if tuned is not None:
            require_together(merged, tuned)
    except SettingsError as error:
        mistakes.append(f"defaults: {error}")
    return mistakes
