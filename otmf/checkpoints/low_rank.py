"""Task vectors of adapters, kept as the factors they came in: a weight's difference is up @ down, every other difference zero.

Element-wise masks need the whole difference, so a merge expands them when it reads them; what is stored, versioned and carried
between machines is a few megabytes instead of an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from otmf import checkpoints, task_vectors

_FORM = "low_rank"
UP, DOWN = ".up", ".down"


@dataclass(frozen=True)
class Product:
    """The difference of one weight, with its axes after the first in one: up @ down.

    Attributes:
        up: shape (outputs, rank).
        down: shape (rank, the rest).
    """

    up: Tensor
    down: Tensor

    def norm(self) -> float:
        """The Euclidean norm of the product, from rank x rank matrices: sqrt(tr(up^T up down down^T))."""
        up, down = self.up.double(), self.down.double()
        return float(((up.T @ up) * (down @ down.T).T).sum().clamp(min=0)) ** 0.5


def save(products: Mapping[str, Product], path: Path) -> None:
    """Writes factors to a safetensors file, in float32."""
    tensors = {f"{key}{UP}": found.up for key, found in products.items()}
    tensors |= {f"{key}{DOWN}": found.down for key, found in products.items()}
    checkpoints.save({key: value.float().contiguous() for key, value in tensors.items()}, path, form=_FORM)


def read(path: Path) -> dict[str, Product]:
    """The factors in a file that `save` wrote.

    Raises:
        CheckpointError: if it is another file.
    """
    if checkpoints.metadata(path).get("form") != _FORM:
        raise checkpoints.CheckpointError(
            f"expected factors of a task vector in {path.name}; received another file; extract it again"
        )
    tensors = checkpoints.load(path)
    keys = [key.removesuffix(UP) for key in tensors if key.endswith(UP)]
    return {key: Product(tensors[f"{key}{UP}"], tensors[f"{key}{DOWN}"]) for key in keys}


def load_vector(path: Path, pretrained: Mapping[str, Tensor]) -> task_vectors.Vector:
    """A task vector from a file, whole whichever form it is kept in.

    Args:
        path: what `extract` wrote.
        pretrained: the base's state, for the shapes of what factors do not name.

    Raises:
        CheckpointError: if the file is damaged, or its factors are of another encoder.
    """
    if checkpoints.metadata(path).get("form") != _FORM:
        return checkpoints.load(path)
    vector = task_vectors.zeros(pretrained)
    for key, found in read(path).items():
        wanted = None if key not in vector else tuple(vector[key].flatten(1).shape) if vector[key].ndim > 1 else None
        if wanted != (found.up.shape[0], found.down.shape[1]):
            raise checkpoints.CheckpointError(
                f"expected factors of this line's encoder in {path.name}; received some of {key}, {found.up.shape[0]} x {found.down.shape[1]}; "
                "extract it again"
            )
        product = found.up.double() @ found.down.double()
        vector[key] = product.to(vector[key].dtype).view(vector[key].shape).to(vector[key].device)
    return vector
