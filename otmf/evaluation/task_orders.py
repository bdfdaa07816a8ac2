"""Orders in which tasks are merged, as a comparison names them: seeds, or lists of tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def task_mistakes(tasks: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """A sentence for each mistake in the tasks that a comparison names, of those that the line knows."""
    if not tasks:
        remedy = "name tasks of the line" if known else "onboard a task first"
        yield f"tasks: expected at least one; received none; {remedy}"
    for task in dict.fromkeys(tasks):
        if task not in known:
            yield f"tasks: expected tasks of the line ({', '.join(known) or 'none yet'}); received {task!r}; correct it"
        if tasks.count(task) > 1:
            yield f"tasks: expected each once; received {task!r} {tasks.count(task)} times; name it once"


def order_mistakes(orders: Sequence[int | tuple[str, ...]], tasks: Sequence[str]) -> Iterator[str]:
    """One sentence for all orders that do not name each task once; none where there is no such order."""
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


def named(orders: Sequence[int | tuple[str, ...]], tasks: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each order with its name: a seed of `random.Random`, or `given1`, ... of those that are lists.

    Of equal ones the first: of few tasks several seeds give the same order, which is no further evidence.
    """
    found: set[tuple[str, ...]] = set()
    for place, order in enumerate(orders, start=1):
        name, ordered = f"given{place}", order
        if isinstance(order, int):
            shuffled = list(tasks)
            random.Random(order).shuffle(shuffled)
            name, ordered = str(order), tuple(shuffled)
        if ordered not in found:
            found.add(ordered)
            yield name, ordered
