"""YAML of people: what does not read is named with its line."""

from __future__ import annotations

import pytest

from otmf.runtime import strict_yaml


def test_text_without_fault_is_what_it_says() -> None:
    assert strict_yaml.loads("a: 1\nb: [x, !!int '3']\n", ValueError) == {"a": 1, "b": ["x", 3]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb:\n  - x\n  - !!bool maybe\n", "'maybe' on line 4, which cannot be read as !!bool"),
        ("a: !!int ''\n", "'' on line 1, which cannot be read as !!int"),
        ("a:\n  ? !!float y\n", "'y' on line 2, which cannot be read as !!float"),
        ('a: "\\UFFFFFFFF"\n', "a number in it is too large"),
        ("a: 1\nb: c: d\n", "mapping values are not allowed here on line 2, column 5"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_reason_names_the_value_or_the_place(text, reason) -> None:
    with pytest.raises(ValueError, match="^") as raised:
        strict_yaml.loads(text, ValueError)
    assert str(raised.value) == reason
