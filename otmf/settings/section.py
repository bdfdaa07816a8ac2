"""What every section of settings is: strict, frozen, finite."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    """Refuses what would pass for a whole number: true is no count, nor is a text."""
    if isinstance(value, bool | str):
        raise ValueError(f"expected a whole number; received {value!r}; write a number without quotes")
    return value


def _number(value: Any) -> Any:
    """Refuses what would pass for a number: true, as a bound of 1, would let everything through."""
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number; received {value!r}; write one without quotes")
    return value


MOST = 2**31 - 1
Number = Annotated[float, BeforeValidator(_number)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MOST)]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)]
NamePattern = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
