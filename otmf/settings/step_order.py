"""The order of a line's steps: numbered without a gap, each task merged once, one chain from the base."""

from __future__ import annotations

from typing import Any

from otmf.settings import names

FIRST = "s00"


def mistakes(content: dict[str, Any]) -> list[str]:
    """What is wrong with them, a sentence each, of parameters in plain values that nothing else has checked."""
    tasks, steps = content.get("tasks") or {}, content.get("steps") or {}
    if not isinstance(tasks, dict) or not isinstance(steps, dict):
        return []
    found = []
    for name in tasks:
        try:
            names.check_slug(str(name))
        except ValueError as error:
            found.append(f"tasks: {error}")
    merged: dict[str, str] = {}
    followed: dict[str, str] = {}
    for position, (name, step) in enumerate(steps.items(), start=1):
        if not isinstance(step, dict):
            continue
        if name != f"s{position:02d}":
            found.append(
                f"steps: expected s{position:02d} as the name of step {position}; received {name!r}; number the "
                "steps without a gap"
            )
        task, previous = step.get("task"), step.get("previous")
        if not isinstance(task, str) or task not in tasks:
            found.append(
                f"steps.{name}.task: expected one of the tasks ({', '.join(map(str, tasks)) or 'none yet'}); received "
                f"{task!r}; add the task or correct the name"
            )
        elif task in merged:
            found.append(
                f"steps.{name}.task: expected a task not merged before; received {task!r}, which {merged[task]} "
                "merges already; remove one of the two"
            )
        merged.setdefault(str(task), str(name))
        if previous != FIRST and (not isinstance(previous, str) or previous not in steps):
            found.append(
                f"steps.{name}.previous: expected {FIRST} or another step; received {previous!r}, which is unknown; "
                "correct it"
            )
        elif str(previous) in followed:
            found.append(
                f"steps.{name}.previous: expected a step that nothing follows; received {previous!r}, which "
                f"{followed[str(previous)]} follows already; make the steps one chain"
            )
        followed.setdefault(str(previous), str(name))
    found.extend(_cycle(steps))
    return found


def _cycle(steps: dict[str, Any]) -> list[str]:
    for start in steps:
        seen, current = [], start
        while current in steps and current not in seen:
            seen.append(current)
            current = steps[current].get("previous") if isinstance(steps[current], dict) else None
        if current == start:
            return [
                f"steps.{start}.previous: expected a chain that ends at {FIRST}; received a cycle "
                f"({' -> '.join([*map(str, seen), str(start)])}); correct one `previous`"
            ]
    return []
