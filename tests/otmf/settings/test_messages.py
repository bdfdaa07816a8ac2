"""What pydantic finds wrong, in our words."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from otmf.settings import messages


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tasks: tuple[int, ...] = Field(default=(1,), min_length=1)
    inner: Inner = Inner()
    by_name: dict[str, int] = {}
    count: int = Field(default=1, gt=0)
    name: str = Field(default="", max_length=4)
    kind: Literal["a", "b"] = "a"


def said(**values) -> str:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(values)
    return messages.described(raised.value, Outer.model_fields)


def test_misspelt_key_is_told_the_known_one_and_another_is_not() -> None:
    assert said(taks=1) == "taks: expected a known key; received an unknown one; write tasks, or remove it"
    assert said(colour=1) == "colour: expected a known key; received an unknown one; remove it or correct its spelling"
    assert said(inner={"tasks": 1}).endswith("remove it or correct its spelling")  # not a key of that section


def test_kinds_have_plain_names() -> None:
    assert said(tasks=3) == "tasks: expected a list; received 3; correct it"
    assert said(inner=3) == "inner: expected a mapping; received 3; correct it"
    assert said(by_name=[1]) == "by_name: expected a mapping; received [1]; correct it"


def test_bounds_and_choices_are_told_in_plain_words() -> None:
    assert said(inner={"rate": "fast"}) == "inner.rate: expected a number; received 'fast'; correct it"
    assert said(count=0) == "count: expected a number above 0; received 0; correct it"
    assert said(count=1.5) == "count: expected a whole number; received 1.5; correct it"
    assert said(name="abcde") == "name: expected at most 4 characters; received 5; correct it"
    assert said(kind="c") == "kind: expected 'a' or 'b'; received 'c'; correct it"


def test_list_is_too_short_only_where_nothing_in_it_is_wrong() -> None:
    assert said(tasks=[]) == "tasks: expected at least 1 entries; received 0; correct it"
    assert said(tasks=["x"]).count(";") == 2  # one sentence


def test_all_mistakes_are_told_and_long_values_cut() -> None:
    told = said(tasks="x" * 500, colour=1)
    assert told.count("expected") == 2
    assert len(told) < 250
