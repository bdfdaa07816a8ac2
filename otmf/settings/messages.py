"""What pydantic finds wrong, in our words: where, what was expected, what was received, what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_LIST, _MAPPING = "a list", "a mapping"
_KINDS = {
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
_VALUES = {
    "string_type": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge} on",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
    "finite_number": "a number that is neither infinite nor NaN",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
}
_LENGTHS = {
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
}
MOST_TOLD = 20  # mistakes in one sentence
ALIKE = 0.75  # of difflib's ratio: an unknown key is a known one misspelt


def shown(value: Any) -> str:
    """A value as it is told in a sentence, cut where it is long."""
    return _SHORT.repr(value)


def described(error: ValidationError, known: Iterable[str] = ()) -> str:
    """All mistakes in one line, each with the place it stands at; of very many the first.

    Args:
        known: the keys of the section itself, so that an unknown one can be told what it may be.
    """
    found = error.errors()
    told = [_described(mistake, known) for mistake in found if not _follows(mistake, found)]
    return "; ".join([*told[:MOST_TOLD], *([f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else [])])


def _follows(mistake: Any, others: Iterable[Any]) -> bool:
    """Whether a list is only too short because of mistakes within it, which are told."""
    place = mistake["loc"]
    return mistake["type"] == "too_short" and any(
        other["loc"][: len(place)] == place != other["loc"] for other in others
    )


def _described(mistake: Any, known: Iterable[str]) -> str:
    place = ".".join(str(part) for part in mistake["loc"] if part != "[key]") or "as a whole"
    if mistake["type"] == "extra_forbidden":
        own = list(known) if len(mistake["loc"]) == 1 else []
        near = difflib.get_close_matches(str(mistake["loc"][-1]), own, n=1, cutoff=ALIKE)
        remedy = f"write {near[0]}, or remove it" if near else "remove it or correct its spelling"
        return f"{place}: expected a known key; received an unknown one; {remedy}"
    if mistake["type"] in _KINDS:
        return f"{place}: expected {_KINDS[mistake['type']]}; received {shown(mistake['input'])}; correct it"
    if mistake["type"] == "missing":
        return f"{place}: expected a value; received none; add it"
    text = mistake["msg"].removeprefix("Value error, ")
    if text.startswith("expected"):
        return f"{place}: {text}"
    if mistake["type"] in _LENGTHS:
        number = len(mistake["input"])
        return f"{place}: expected {_LENGTHS[mistake['type']].format(**mistake['ctx'])}; received {number}; correct it"
    if mistake["type"] in _VALUES:
        expected = _VALUES[mistake["type"]].format(**mistake.get("ctx", {}))
        return f"{place}: expected {expected}; received {shown(mistake['input'])}; correct it"
    return f"{place}: {text}; received {shown(mistake['input'])}; correct it"
