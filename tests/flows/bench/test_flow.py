"""The time that a comparison has left."""

from __future__ import annotations

import pytest

from flows.bench import flow


def asked(name: str, method: str | None, seconds: float | None) -> dict:
    return {"name": name, "run": None if method is None else {"method": method}, "seconds": seconds}


RUNS = [
    asked("references", None, None),
    asked("otmf.42.0", "otmf", 30.0),
    asked("otmf.43.0", "otmf", 30.0),
    asked("wudi.42.0", "wudi", None),
]


def test_runs_that_are_left_take_as_long_as_others_of_their_method() -> None:
    found = flow.seconds_left(RUNS, {"references": 4.0, "otmf.42.0": 60.0, "wudi.42.0": 2.0}, 66.0)
    assert found == pytest.approx(60.0)


def test_of_a_method_that_none_was_run_of_the_thought_counts_or_else_the_mean() -> None:
    assert flow.seconds_left(RUNS, {"references": 4.0}, 4.0) == pytest.approx(30.0 + 30.0 + 4.0)


def test_two_at_a_time_take_half_as_long() -> None:
    found = flow.seconds_left(RUNS, {"references": 4.0, "otmf.42.0": 60.0, "wudi.42.0": 2.0}, 33.0)
    assert found == pytest.approx(30.0)
