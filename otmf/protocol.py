"""A comparison of merge methods as data: tasks, orders, seeds, what a merge may see; and the single runs it asks for."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from otmf import cards, merging, settings
from otmf._section import CountOrNone, Section, Seed

ORDERS = tuple(range(42, 52))
JOINT = ("ties", "tsv_m", "wudi")  # methods whose merge of all tasks at once is another one


class DataRule(Section):
    """What any merge may see at most.

    new: unlabelled inputs of the task that arrives. old: remembered unlabelled inputs of earlier tasks, in all. labels: whether
    heads may be tuned on labelled inputs after a merge.
    """

    new: CountOrNone = 300
    old: CountOrNone = 0
    labels: bool = False


class Protocol(Section):
    """The configuration of `otmf bench`.

    line: folder of a line whose tasks are fine-tuned, relative to the file; None: said by the caller.
    tasks: in the order that seeds shuffle; None: all, as they were merged.
    orders: seeds of orders, or orders themselves.
    pairs: instead of orders, each two tasks in both orders.
    seeds: of what methods draw.
    data: see there.
    heads: kinds of heads that every method is scored with, where the method names none itself; those `aligned` see as many new inputs as
        the rule allows, and what old ones the merge left.
    score: the test inputs; or for choosing settings those unlabelled ones that no merge draws, with the labels they came with.
    after: score every task seen so far after every step, or each after its own step and all after the last.
    methods: name of the row -> settings of `merge`, with `preset`, `joint` (all tasks at once), `heads` and `head_tune` (their settings)
        beside them; a row named after a method needs no `method`.
    """

    line: str | None = None
    tasks: tuple[cards.Slug, ...] | None = None
    orders: Annotated[tuple[Seed | tuple[cards.Slug, ...], ...], Field(min_length=1)] = ORDERS
    pairs: bool = False
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    data: DataRule = DataRule()
    heads: Annotated[tuple[Literal["frozen", "aligned", "previous", "all"], ...], Field(min_length=1)] = ("frozen",)
    score: Literal["test", "validation"] = "test"
    after: Literal["every_step", "own_and_last"] = "every_step"
    methods: Annotated[dict[cards.Slug, dict[str, Any] | None], Field(min_length=1)]

    @field_validator("line")
    @classmethod
    def _can_be_a_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("expected the path of a folder; received one with a null byte; correct it")
        return value

    @field_validator("orders", mode="before")
    @classmethod
    def _seeds_or_lists(cls, values: Any) -> Any:
        """One sentence for what is neither, in the place of one for each kind that it is not."""
        for value in values if isinstance(values, list | tuple) else ():
            seed = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
            if not seed and not isinstance(value, list | tuple):
                raise ValueError(
                    f"expected seeds, whole numbers from 0 to 2^31 - 1, or lists of tasks; received {str(value)[:60]!r}; correct it"
                )
        return values

    @field_validator("orders", "seeds", "heads")
    @classmethod
    def _once_each(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"expected each once; received {twice[0]!r} twice; remove one")
        return values


@dataclass(frozen=True)
class Run:
    """One method over one order.

    Attributes:
        method: name of the row.
        order: name of the order: its seed, `given1`, ..., or `ONE+OTHER` of a pair.
        tasks: in that order.
        seed: of what the method draws.
        merge: settings, as plain values.
        heads: settings of each kind of heads it is scored with.
        joint: all tasks at once.
        held_out: None to score on test inputs; else on unlabelled ones after so many, which no merge draws.
        after: as in `Protocol`.
        part: of a row whose merge depends on the heads that follow it, which of its merges this is; empty: all of it.
    """

    method: str
    order: str
    tasks: tuple[str, ...]
    seed: int
    merge: dict[str, Any]
    heads: tuple[dict[str, Any], ...]
    joint: bool
    held_out: int | None
    after: str
    part: str = ""

    @property
    def name(self) -> str:
        """Of its file of rows."""
        return ".".join(filter(None, (self.method, self.order, str(self.seed), self.part)))

    def identity(self, inputs: Mapping[str, str]) -> str:
        """A hash of all that decides its rows: itself, and the digests of the line's data, base, task vectors and heads."""
        own = {key: value for key, value in asdict(self).items() if key != "part"}
        content = json.dumps({"run": own, "inputs": dict(inputs)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def check(content: object) -> Protocol:
    """The configuration in plain values.

    Raises:
        SettingsError: with all mistakes of the file itself.
    """
    if not isinstance(content, Mapping):
        raise settings.SettingsError(
            "expected a mapping with `methods`; received "
            f"{'an empty file' if content is None else type(content).__name__}; see docs/bench.md"
        )
    return settings.section(Protocol, dict(content))


def runs(protocol: Protocol, known: Sequence[str]) -> list[Run]:
    """All runs, by method, order and seed.

    Args:
        known: the tasks of the line, in the order they were merged.

    Raises:
        SettingsError: with all mistakes of tasks, orders and methods.
    """
    tasks = tuple(known) if protocol.tasks is None else protocol.tasks
    mistakes = [
        *_task_mistakes(tasks, known),
        *_order_mistakes(protocol.orders, tasks),
        *_pair_mistakes(protocol, tasks),
    ]
    rows: list[_Row] = []
    for name, given in protocol.methods.items():
        try:
            rows += _parts(name, given or {}, protocol)
        except settings.SettingsError as error:
            mistakes.append(f"methods.{name}: {error}")
    if mistakes:
        raise settings.SettingsError("; ".join(mistakes))
    held_out = protocol.data.new if protocol.score == "validation" else None
    return [
        Run(row.name, order, ordered, seed, {**row.merge.model_dump(mode="json"), "seed": seed},
            tuple({**found.model_dump(mode="json"), "seed": seed} for found in row.heads), row.joint, held_out, protocol.after, row.part)
        for row in rows
        for (order, ordered), seed in itertools.islice(
            itertools.product(_orders(protocol, tasks), protocol.seeds), len(protocol.seeds) if row.joint else None
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class _Row:
    name: str
    part: str
    merge: merging.Merge
    heads: tuple[settings.HeadTune, ...]
    joint: bool


def _parts(name: str, given: dict[str, Any], protocol: Protocol) -> list[_Row]:
    """What a row asks for: one merge for all its heads; or several, where some kinds of heads bring other settings (`merging.OF_HEADS`)."""
    values = dict(given)
    if values.get("joint") and protocol.pairs:
        raise settings.SettingsError("joint: expected none beside pairs; received one; leave out either")
    preset, joint, kinds = values.pop("preset", None), values.pop("joint", False), values.pop("heads", protocol.heads)
    tune = values.pop("head_tune", {})
    if preset is None and "method" not in values:
        values["method"] = name
    if "seed" in values:
        raise settings.SettingsError("seed: expected none, as `seeds` has them; received one; remove it")
    if "code_version" in values:
        raise settings.SettingsError("code_version: expected none, as it is the code's own; received one; remove it")
    options = _fitted(preset or "default", values, protocol.data, None)
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
    merges: list[tuple[merging.Merge, list[settings.HeadTune]]] = []
    for found in _heads(kinds, tune, protocol.data):
        own = _fitted(preset or "default", values, protocol.data, found.heads)
        same = next((heads for merge, heads in merges if merge == own), None)
        if same is None:
            merges.append((own, [found]))
        else:
            same.append(found)
    return [
        _Row(name, _part(heads) if len(merges) > 1 and merge != options else "", merge, tuple(heads), bool(joint))
        for merge, heads in merges
    ]


def _part(heads: Sequence[settings.HeadTune]) -> str:
    """What the merge for some heads is called beside that for aligned ones: after the first of them in `merging.OF_HEADS`."""
    found = {each.heads for each in heads}
    return next(kind for kind in merging.OF_HEADS if kind in found)


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


def _fitted(preset: str, values: dict[str, Any], rule: DataRule, heads: str | None) -> merging.Merge:
    """The settings of a method before heads of that kind; how many inputs it sees is what the rule allows, where the row itself does not say it. Where
    that is no old one, a method that would remember some remembers none.

    Raises:
        SettingsError: for a bad value, or a method that sees more than the rule allows.
    """
    if not isinstance(preset, str) or preset not in settings.PRESETS:
        raise settings.SettingsError(
            f"preset: expected one of {', '.join(settings.PRESETS)}; received {str(preset)[:60]!r}; choose one of them"
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


def _require_allowed(options: merging.Merge, rule: DataRule) -> None:
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


def _task_mistakes(tasks: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    if not tasks:
        yield "tasks: expected at least one; received none; name tasks of the line"
    for task in dict.fromkeys(tasks):
        if task not in known:
            yield f"tasks: expected tasks of the line ({', '.join(known) or 'none yet'}); received {task!r}; correct it"
        if tasks.count(task) > 1:
            yield f"tasks: expected each once; received {task!r} {tasks.count(task)} times; name it once"


def _order_mistakes(orders: Sequence[int | tuple[str, ...]], tasks: Sequence[str]) -> Iterator[str]:
    wrong = [
        (place, order)
        for place, order in enumerate(orders, start=1)
        if not isinstance(order, int) and sorted(order) != sorted(tasks)
    ]
    if not wrong:
        return
    place, order = wrong[0]
    unknown, lacking = (", ".join(sorted(set(one) - set(other))) for one, other in ((order, tasks), (tasks, order)))
    apart = [f"with {unknown}" if unknown else "", f"without {lacking}" if lacking else ""]
    others = f", and {len(wrong) - 1} more like it" if len(wrong) > 1 else ""
    yield (
        f"orders: expected seeds or orders of the {len(tasks)} tasks; received in place {place} one of {len(order)} "
        f"{' and '.join(filter(None, apart))[:200] or 'with a task twice'}{others}; name each task of the line, or of `tasks`, once"
    )


def _pair_mistakes(protocol: Protocol, tasks: Sequence[str]) -> Iterator[str]:
    if protocol.pairs and len(tasks) < 2:
        yield f"pairs: expected at least two tasks; received {len(tasks)}; name more of them"
    if protocol.pairs and "orders" in protocol.model_fields_set:
        yield "pairs: expected no orders beside them; received some; leave out either"


def _orders(protocol: Protocol, tasks: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if protocol.pairs:
        yield from (("+".join(pair), pair) for pair in itertools.permutations(tasks, 2))
        return
    orders = protocol.orders
    for place, order in enumerate(orders, start=1):
        if isinstance(order, int):
            shuffled = list(tasks)
            random.Random(order).shuffle(shuffled)
            yield str(order), tuple(shuffled)
        else:
            yield f"given{place}", order
