"""Tensors that are made when they are needed: shape and dtype at once, values later, so that a model need not be in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_OF_VALUES = (torch.equal,)


class Deferred:
    """A tensor with shape and dtype but no values yet; functions of torch on it give another one.

    What needs the values (`torch.equal`) makes them. Each use makes them anew: whoever uses a tensor twice keeps it.

    Args:
        meta: a tensor on the meta device, with shape and dtype.
        make: gives the values.
    """

    is_meta = False

    def __init__(self, meta: Tensor, make: Callable[[], Tensor]) -> None:
        self.meta, self.make = meta, make

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:

        def done(change: Callable[[Any], Any]) -> Any:
            return function(*_each(args, change), **{key: _each(one, change) for key, one in (kwargs or {}).items()})

        if function in _OF_VALUES:
            return done(made)
        found = done(_meta)
        if isinstance(found, Tensor):
            return cls(found, lambda: done(made))
        return type(found)(cls(part, lambda place=place: done(made)[place]) for place, part in enumerate(found))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.meta, name)
        if isinstance(found, Tensor):  # such as T
            return Deferred(found, lambda: getattr(self.make(), name))
        if not callable(found):
            return found
        function = getattr(Tensor, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            there = found(*_each(args, _meta), **kwargs)
            return Deferred.__torch_function__(function, (), (self, *args), kwargs) if _tensors(there) else there

        return called


def made(value: Any) -> Any:
    """The values of a deferred tensor; anything else as it is."""
    return value.make() if isinstance(value, Deferred) else value


def whole(state: Mapping[str, Tensor | Deferred]) -> dict[str, Tensor]:
    """A state dict with all values made."""
    return {key: made(value) for key, value in state.items()}


def _meta(value: Any) -> Any:
    return value.meta if isinstance(value, Deferred) else value.to("meta") if isinstance(value, Tensor) else value


def _each(args: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(args, tuple | list):
        return type(args)(_each(one, change) for one in args)
    return change(args)


def _tensors(found: object) -> bool:
    return isinstance(found, Tensor) or (
        isinstance(found, tuple | list) and all(isinstance(one, Tensor) for one in found)
    )
