"""What merges measure of an arriving task alone, kept in a folder: it is the same in every order and for every method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from otmf import checkpoints
from stages import _cost

Compute = Callable[[], dict[str, Tensor]]


class Kept:
    """Tensors by what they are of: an expert, inputs, and what is said of how.

    Attributes:
        saved: seconds that reading them took less than computing them had, since `forget`: what a step would have cost more.
        peak: MiB that the process would have held at its peak while computing what was read, since `forget`; 0 where nothing was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forget()

    def forget(self) -> None:
        """What was read so far counts no more."""
        self.saved, self.peak = 0.0, 0.0

    def recall(self, of: Mapping[str, Tensor], inputs: np.ndarray, how: str, compute: Compute) -> dict[str, Tensor]:
        """What `compute` gives, on the device of what it is of: read, or else computed and kept.

        Args:
            of: the tensors it depends on: an expert's, and its head's.
            inputs: as the backbone reads them.
            how: whatever else it depends on.
        """
        where = next(iter(of.values())).device
        begun = _cost.clock(where)
        path = self.folder / f"{_digest(of, inputs, how)}.safetensors"
        if path.exists():
            found = {key: value.to(where) for key, value in checkpoints.load(path).items()}
            said = checkpoints.metadata(path)
            took, above = float(said["seconds"]), float(said["above_mib"])
            if (held := _cost.held(where)) is not None:
                self.peak = max(self.peak, held + above)
        else:
            held, computing = _cost.held(where), _cost.clock(where)
            found = compute()
            took, peak = _cost.clock(where) - computing, _cost.peak(where)
            above = 0.0 if held is None or peak is None else max(peak - held, 0.0)
            checkpoints.save(
                {key: value.cpu() for key, value in found.items()}, path, seconds=repr(took), above_mib=repr(above)
            )
        self.saved += took - (_cost.clock(where) - begun)
        return found


def _digest(state: Mapping[str, Tensor], inputs: np.ndarray, how: str) -> str:
    said = repr((inputs.dtype.str, inputs.shape, how)).encode()
    content = hashlib.sha256(said + np.ascontiguousarray(inputs).tobytes())
    for key in sorted(state):
        content.update(f"{key} {state[key].dtype} {tuple(state[key].shape)}".encode())
        content.update(state[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()
