"""Inputs of a task as its encoder reads them: held in memory where they are small together, else read whenever they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from otmf import backbones
from otmf.data import datasets

HELD = 2 * 2**30  # bytes


class Rows:
    """The inputs of a data set at some positions, in that order; the same rows whether they are held or not.

    Attributes:
        positions: shape (n,).
    """

    def __init__(
        self, backbone: backbones.Backbone, source: datasets.DataSet, positions: np.ndarray, *, largest: int = HELD
    ) -> None:
        self.positions, self._held, self._read = positions, None, None
        if len(positions) and backbone.blank().nbytes * len(positions) <= largest:
            self._held = backbone.read(source, positions)  # and nothing of the data set itself
        else:
            self._read = lambda chosen: backbone.read(source, positions[chosen])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Rows (n, ...) as the backbone reads them."""
        return self._read(chosen) if self._held is None else self._held[chosen]


class Prepared:
    """Rows as the encoder takes them, in batches.

    Attributes:
        rows: shape (n, ...).
        prepare: rows -> inputs on the device.
    """

    def __init__(self, rows: Rows, prepare: Callable[[np.ndarray], Tensor]) -> None:
        self.rows, self.prepare = rows, prepare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self.prepare(self.rows[chosen.numpy()])
