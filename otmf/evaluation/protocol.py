"""A comparison of merge methods as data: tasks, orders, seeds, what a merge may see; and the single runs it asks for."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from otmf import settings
from otmf.evaluation import protocol_rows, task_orders
from otmf.settings import names
from otmf.settings.section import Section, Seed

ORDERS = tuple(range(42, 52))


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
    tasks: tuple[names.Slug, ...] | None = None
    orders: Annotated[tuple[Seed | tuple[names.Slug, ...], ...], Field(min_length=1)] = ORDERS
    pairs: bool = False
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    data: protocol_rows.DataRule = protocol_rows.DataRule()
    heads: Annotated[tuple[Literal["frozen", "aligned", "previous", "all"], ...], Field(min_length=1)] = ("frozen",)
    score: Literal["test", "validation"] = "test"
    after: Literal["every_step", "own_and_last"] = "every_step"
    methods: Annotated[dict[names.Slug, dict[str, Any] | None], Field(min_length=1)]

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
        twice = next((value for value, count in Counter(values).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"expected each once; received {twice!r} twice; remove one")
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
        *task_orders.task_mistakes(tasks, known),
        *task_orders.order_mistakes(protocol.orders, tasks),
        *_pair_mistakes(protocol, tasks),
    ]
    rows: list[protocol_rows.Row] = []
    for name, given in protocol.methods.items():
        try:
            rows += protocol_rows.asked(name, given or {}, protocol.data, kinds=protocol.heads, pairs=protocol.pairs)
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


def _pair_mistakes(protocol: Protocol, tasks: Sequence[str]) -> Iterator[str]:
    if protocol.pairs and len(tasks) < 2:
        yield f"pairs: expected at least two tasks; received {len(tasks)}; name more of them"
    if protocol.pairs and "orders" in protocol.model_fields_set:
        yield "pairs: expected no orders beside them; received some; leave out either"


def _orders(protocol: Protocol, tasks: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if protocol.pairs:
        return (("+".join(pair), pair) for pair in itertools.permutations(tasks, 2))
    return task_orders.named(protocol.orders, tasks)
