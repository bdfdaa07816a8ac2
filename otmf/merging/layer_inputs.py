"""What goes into each linear map of an encoder, as Gram matrices: seen where torch multiplies, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
Features = Callable[[Mapping[str, Tensor], Tensor], Tensor]


def grams(
    features: Features, state: Mapping[str, Tensor], inputs: Tensor, *, batch_size: int = 32
) -> dict[str, Tensor]:
    """The sum of x x^T over all rows x that reach the weight of each linear map.

    Args:
        features: (state, inputs) -> (n, d).
        state: the encoder's tensors, each with memory of its own.
        inputs: shape (n, ...), as the encoder takes them.
        batch_size: how many at a time.

    Returns:
        Name of a two-dimensional tensor -> (in, in) float64, for those that multiply something.
    """
    seen = _Seen({value.untyped_storage().data_ptr(): key for key, value in state.items() if value.ndim == 2})
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), seen:
            for chosen in inputs.split(batch_size):
                features(state, chosen)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return seen.found


class _Seen(TorchDispatchMode):
    """Adds up x x^T for each product x W^T with a weight W that is known by its memory."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names, self.found = names, {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        place = {_aten.mm.default: 0, _aten.addmm.default: 1, _aten.linear.default: 0, _aten.matmul.default: 0,
                 _aten.bmm.default: 0}.get(function)  # fmt: skip
        if place is not None:
            name = self.names.get(args[place + 1].untyped_storage().data_ptr())
            if name is not None:
                self._add(name, args[place])
        return function(*args, **(kwargs or {}))

    def _add(self, name: str, rows: Tensor) -> None:
        wide = rows.reshape(-1, rows.shape[-1]).double()
        gram = wide.T @ wide
        self.found[name] = self.found[name] + gram if name in self.found else gram
