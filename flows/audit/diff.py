"""What changed between two versions: data, code, parameters, accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.audit.document import Audit


@dataclass(frozen=True)
class Difference:
    """One thing that changed: of which kind, what, and what it was and is; None where it was not or is no more."""

    kind: str
    what: str
    before: str | None
    after: str | None


def between(one: Audit, other: Audit) -> Iterator[Difference]:
    """All differences of two versions of a line, data first; parameters of stages that both have."""
    tasks = [{task.name: task for task in found.tasks} for found in (one, other)]
    yield from _changes("data", *({name: task.data.sha256[:16] for name, task in side.items()} for side in tasks))
    yield from _changes("data", {"base": one.base.sha256[:16]}, {"base": other.base.sha256[:16]})
    yield from _changes(
        "licence", *({name: task.licence or "not stated" for name, task in side.items()} for side in tasks)
    )
    yield from _changes("code", one.packages, other.packages)
    before, after = _parameters(one), _parameters(other)
    both = {name.rsplit(" ", 1)[0] for name in before} & {name.rsplit(" ", 1)[0] for name in after}
    yield from _changes("parameters", *({name: said for name, said in side.items() if name.rsplit(" ", 1)[0] in both}
                                        for side in (before, after)))  # fmt: skip
    yield from _changes(
        "order", {step.step: step.task for step in one.steps}, {step.step: step.task for step in other.steps}
    )
    yield from _changes("accuracy", *({name: f"{100 * task.accuracy[found.step]:.1f}" for name, task in side.items()}
                                      for found, side in zip((one, other), tasks, strict=True)))  # fmt: skip
    yield from _changes(
        "accuracy", {"average": f"{100 * one.steps[-1].acc:.1f}"}, {"average": f"{100 * other.steps[-1].acc:.1f}"}
    )


def _parameters(found: Audit) -> dict[str, str]:
    """Stage and name -> value, for every parameter of every stage; steps go by their task, as their numbers may move."""
    of = {step.step: step.task for step in found.steps}
    flat: dict[str, str] = {}
    for name, stage in found.stages.items():
        kind, _, key = name.partition("@")
        for section, value in stage.parameters.items():
            short = section.split(".")[-1]
            flat |= {f"{kind} {of.get(key, key)} {path}".strip(): said for path, said in _flat(value, short)}
    return flat


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    else:
        yield path, str(value)


def _changes(kind: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for what in [*before, *(name for name in after if name not in before)]:
        if before.get(what) != after.get(what):
            yield Difference(kind, what, before.get(what), after.get(what))
