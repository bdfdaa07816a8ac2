"""Experts' features of the inputs that merges see, kept in a folder: they are the same in every order and for every method."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from otmf import checkpoints


class Kept:
    """Features by what they are features of.

    Attributes:
        saved: seconds that reading them took less than computing them had, since it was set to 0: what a step would have cost more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved = folder, 0.0

    def features(self, state: Mapping[str, Tensor], inputs: np.ndarray, compute: Callable[[], Tensor]) -> Tensor:
        """Features (n, d) of inputs under an expert: read, or else computed and kept."""
        begun = time.perf_counter()
        path = self.folder / f"{_digest(state, inputs)}.safetensors"
        device = next(iter(state.values())).device
        if path.exists():
            found, took = checkpoints.load(path)["features"].to(device), float(checkpoints.metadata(path)["seconds"])
            self.saved += took - (time.perf_counter() - begun)
            return found
        computing = time.perf_counter()
        found = compute()
        took = time.perf_counter() - computing
        checkpoints.save({"features": found.cpu()}, path, seconds=repr(took))
        self.saved += took - (time.perf_counter() - begun)
        return found


def _digest(state: Mapping[str, Tensor], inputs: np.ndarray) -> str:
    content = hashlib.sha256(repr((inputs.dtype.str, inputs.shape)).encode() + np.ascontiguousarray(inputs).tobytes())
    for key in sorted(state):
        content.update(f"{key} {state[key].dtype} {tuple(state[key].shape)}".encode())
        content.update(state[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()
