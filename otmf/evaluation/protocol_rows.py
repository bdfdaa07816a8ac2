"""A row of a comparison of merge methods: its settings, what it may see, and the heads it is scored with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import field_validator

from otmf import settings
from otmf.settings import merge_methods, presets
from otmf.settings.section import CountOrNone, Section

JOINT = ("ties", "tsv_m", "wudi")  # methods whose merge of all tasks at once is another one


class DataRule(Section):
    """What any merge may see at most.

    new: unlabelled inputs of the task that arrives. old: remembered unlabelled inputs of earlier tasks, in all. labels: whether
    heads may be tuned on labelled inputs after a merge.
    """

    new: CountOrNone = 300
    old: CountOrNone = 0
    labels: bool = False

    @field_validator("new")
    @classmethod
    def _some_or_none(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0, or at least 2, as a merge reads a batch of them; received 1; correct it")
        return value


@dataclass(frozen=True)
class Row:
    """A method as it is run: settings of its merge, and the kinds of heads that are scored after that merge; `part` as in `protocol.Run`."""

    name: str
    part: str
    merge: merge_methods.Merge
    heads: tuple[settings.HeadTune, ...]
    joint: bool


def asked(name: str, given: Mapping[str, Any], rule: DataRule, *, kinds: Sequence[str], pairs: bool) -> list[Row]:
    """What a row asks for: one merge for all its heads; or several, where some kinds of heads bring other settings (`presets.OF_HEADS`).

    Args:
        name: of the row.
        given: its settings.
        rule: what it may see.
        kinds: of heads, where it names none.
        pairs: whether tasks come in pairs, which no joint merge does.

    Raises:
        SettingsError: naming the setting at fault.
    """
    values = dict(given)
    if values.get("joint") and pairs:
        raise settings.SettingsError("joint: expected none beside pairs; received one; leave out either")
    preset, joint, kinds = values.pop("preset", None), values.pop("joint", False), values.pop("heads", kinds)
    tune = values.pop("head_tune", {})
    if preset is None and "method" not in values:
        if name in presets.PRESETS:
            raise settings.SettingsError(
                f"method: expected one beside a row named {name}, which is a preset; received none; write {{preset: {name}}}"
            )
        values["method"] = name
    other = values.get("method", name if name in merge_methods.BY_NAME else merge_methods.DEFAULT)
    if preset is not None and other != merge_methods.DEFAULT:
        raise settings.SettingsError(
            f"preset: expected none beside method {str(other)[:60]}, as presets are of {merge_methods.DEFAULT}; received {str(preset)[:60]!r}; leave it out, or "
            "name the row otherwise"
        )
    if "seed" in values:
        raise settings.SettingsError("seed: expected none, as `seeds` has them; received one; remove it")
    if "code_version" in values:
        raise settings.SettingsError("code_version: expected none, as it is the code's own; received one; remove it")
    preset = "default" if preset is None else preset
    options = _fitted(preset, values, rule, None)
    if joint is not False and (joint is not True or options.method not in JOINT):
        raise settings.SettingsError(
            f"joint: expected true, and a method whose joint merge is another one ({', '.join(JOINT)}); received {joint!r} for "
            f"{options.method}; remove it"
        )
    if not isinstance(kinds, list | tuple) or not kinds:
        raise settings.SettingsError(
            f"heads: expected a list of frozen, aligned, previous, all; received {kinds!r}; correct it"
        )
    if joint and "heads" in given and list(kinds) != ["frozen"]:
        raise settings.SettingsError(
            f"heads: expected [frozen] beside joint, as all tasks at once are scored under their frozen heads; received {kinds!r}; leave them out"
        )
    kinds = ["frozen"] if joint else kinds
    if twice := [kind for kind in kinds if list(kinds).count(kind) > 1]:
        raise settings.SettingsError(f"heads: expected each once; received {twice[0]!r} twice; remove one")
    merges: list[tuple[merge_methods.Merge, list[settings.HeadTune]]] = []
    for found in _heads(kinds, tune, rule):
        own = _fitted(preset, values, rule, found.heads)
        same = next((heads for merge, heads in merges if merge == own), None)
        if same is None:
            merges.append((own, [found]))
        else:
            same.append(found)
    return [
        Row(name, _part(heads) if len(merges) > 1 and merge != options else "", merge, tuple(heads), bool(joint))
        for merge, heads in merges
    ]


def _part(heads: Sequence[settings.HeadTune]) -> str:
    """What the merge for some heads is called beside that for aligned ones: after the first of them in `presets.OF_HEADS`."""
    found = {each.heads for each in heads}
    return next(kind for kind in presets.OF_HEADS if kind in found)


def _heads(kinds: Sequence[Any], given: object, rule: DataRule) -> tuple[settings.HeadTune, ...]:
    if not isinstance(given, Mapping) or {"heads", "seed"} & set(given):
        raise settings.SettingsError(
            f"head_tune: expected a mapping of settings of heads without `heads` and `seed`, which stand elsewhere; received {str(given)[:60]!r}; "
            "correct it"
        )
    if "aligned" in kinds and not rule.new:
        raise settings.SettingsError(
            "heads: expected data.new above 0 beside aligned heads, which read inputs of the new task; received 0; raise it or leave them out"
        )
    try:
        tuned = tuple(
            settings.head_tune("default", {"unlabelled_images": rule.new or 1, **given, "heads": kind})
            for kind in kinds
        )
    except settings.SettingsError as error:
        raise settings.SettingsError(
            str(error) if str(error).startswith("heads: ") else f"head_tune: {error}"
        ) from error
    if any(found.heads in ("previous", "all") for found in tuned) and not rule.labels:
        raise settings.SettingsError(
            "heads: expected frozen or aligned ones, as data.labels is false; received others, which are tuned on labels; set data.labels: true"
        )
    wanted = max((found.unlabelled_images for found in tuned if found.heads == "aligned"), default=0)
    if wanted > rule.new:
        raise settings.SettingsError(
            f"heads: expected aligned ones that see at most {rule.new} inputs of the new task, as data.new says; received {wanted}; raise data.new "
            "or leave them out"
        )
    return tuned


def _fitted(preset: str, values: dict[str, Any], rule: DataRule, heads: str | None) -> merge_methods.Merge:
    """The settings of a method before heads of that kind; how many inputs it sees is what the rule allows, where the row itself does not say it. Where
    that is no old one, a method that would remember some remembers none.

    Raises:
        SettingsError: for a bad value, or a method that sees more than the rule allows.
    """
    if not isinstance(preset, str) or preset not in presets.PRESETS:
        raise settings.SettingsError(
            f"preset: expected one of {', '.join(presets.PRESETS)}; received {str(preset)[:60]!r}; choose one of them"
        )
    options = settings.merge(preset, values, heads=heads)
    if (
        not rule.old
        and getattr(options, "pre_images", None) == "memory"
        and not {"pre_images", "memory_size"} & set(values)
    ):
        options = settings.merge(preset, {**values, "pre_images": "none"}, heads=heads)
    allowed = {"unlabelled_images": rule.new, "memory_size": rule.old}
    filled = {key: most for key, most in allowed.items() if hasattr(options, key) and key not in values and most}
    options = settings.section(type(options), {**options.model_dump(), **filled})
    _require_allowed(options, rule)
    return options


def _require_allowed(options: merge_methods.Merge, rule: DataRule) -> None:
    new, kind = getattr(options, "unlabelled_images", 0), getattr(options, "pre_images", "none")
    old = getattr(options, "memory_size", 0) if kind in ("memory", "previous_task") else 0
    for what, wanted, most in (("new", new, rule.new), ("old", old, rule.old)):
        if wanted > most:
            remedy = "set pre_images: none" if what == "old" else "lower unlabelled_images"
            raise settings.SettingsError(
                f"expected a method that sees at most {most} {'inputs of the new task' if what == 'new' else 'remembered inputs of old tasks'}, "
                f"as data.{what} says{'' if what in rule.model_fields_set else ' where it is left out'}; received {options.method}, which sees {wanted}; "
                f"raise data.{what}, or {remedy} in the row"
            )
