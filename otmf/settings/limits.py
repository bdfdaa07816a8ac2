"""How much of somebody else's data is read: bounds on size, digits, rows, pixels and seconds, set in `params.yaml`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from otmf.settings.section import Count, Positive, Section


class Limits(Section):
    """Bounds on what a submission may bring.

    card_bytes: of a card or another file of YAML. card_digits: characters of one number in it. table_rows: of a table. table_mib: of its
    values, decoded. pixels: of one picture. arrays_mib: of an archive of arrays, unpacked. seconds: for the data of one task to be read
    and checked.
    """

    card_bytes: Count = 1 << 18
    card_digits: Count = 400
    table_rows: Count = 10_000_000
    table_mib: Count = 4096
    pixels: Count = 64_000_000
    arrays_mib: Count = 65536
    seconds: Positive = 3600.0


class LimitError(ValueError):
    """Data beyond a bound. The message names the setting."""


_in_force: ContextVar[tuple[Limits, float]] = ContextVar("limits", default=(Limits(), float("inf")))


def now() -> Limits:
    """The bounds in force: those of the line that is worked on, else the defaults."""
    return _in_force.get()[0]


def apply(found: Limits) -> None:
    """Puts bounds in force for the rest of this process, with no end to its seconds: for stages, whose data was read before."""
    _in_force.set((found, float("inf")))


@contextlib.contextmanager
def applied(found: Limits) -> Iterator[None]:
    """Puts bounds in force for a body; its seconds begin now."""
    token = _in_force.set((found, time.monotonic() + found.seconds))
    try:
        yield
    finally:
        _in_force.reset(token)


def require(what: str, received: float, bound: str) -> None:
    """Refuses what is beyond a bound.

    Args:
        what: what is counted, for a person.
        received: how much of it there is.
        bound: name of the setting.

    Raises:
        LimitError: naming both.
    """
    most = getattr(now(), bound)
    if received > most:
        raise LimitError(
            f"expected at most {most} {what}; received {math.ceil(received)}; bring less, or raise limits.{bound} in params.yaml"
        )


def require_time() -> None:
    """Refuses to go on where the seconds are used up. Raises LimitError."""
    found, end = _in_force.get()
    if time.monotonic() > end:
        raise LimitError(
            f"expected data that is read and checked within {found.seconds:g} seconds; received more; bring less, or raise limits.seconds in "
            "params.yaml"
        )
