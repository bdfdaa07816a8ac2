"""What merges measure of an arriving task alone, kept in a folder: it is the same in every order and for every method."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from otmf import checkpoints
from stages.bench import measurement

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
        begun = measurement.clock(where)
        path = self.folder / f"{_digest(of, inputs, how)}.safetensors"
        read = _read(path)
        if read is not None:
            tensors, took, above = read
            found = {key: value.to(where) for key, value in tensors.items()}
            if (held := measurement.held(where)) is not None:
                self.peak = max(self.peak, held + above)
        else:
            held, computing = measurement.held(where), measurement.clock(where)
            found = compute()
            took, peak = measurement.clock(where) - computing, measurement.peak(where)
            above = 0.0 if held is None or peak is None else max(peak - held, 0.0)
            self._keep({key: value.cpu() for key, value in found.items()}, path, took, above)
        self.saved += took - (measurement.clock(where) - begun)
        return found

    def _keep(self, found: Mapping[str, Tensor], path: Path, took: float, above: float) -> None:
        """Writes what was computed, in the place of what did not read; where it can't be written it is not kept."""
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                return
            checkpoints.save(found, path, seconds=repr(took), above_mib=repr(above), digest=_content(found))


def _read(path: Path) -> tuple[dict[str, Tensor], float, float] | None:
    """Tensors as they were kept, with seconds and MiB; None where there are none, or other than were written."""
    try:
        found, said = checkpoints.load(path), checkpoints.metadata(path)
        took, above = float(said["seconds"]), float(said["above_mib"])
    except (OSError, ValueError, KeyError):
        return None
    whole = said.get("digest") == _content(found) and math.isfinite(took) and math.isfinite(above)
    return (found, took, above) if whole else None


def _content(found: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    _add(content, found)
    return content.hexdigest()


def _digest(state: Mapping[str, Tensor], inputs: np.ndarray, how: str) -> str:
    said = repr((inputs.dtype.str, inputs.shape, how)).encode()
    content = hashlib.sha256(said + np.ascontiguousarray(inputs).tobytes())
    _add(content, state)
    return content.hexdigest()


def _add(content: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    for key in sorted(tensors):
        content.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        content.update(tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
