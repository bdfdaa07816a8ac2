"""What every encoder offers, whatever it reads: inputs from a data set, features from a state. It holds no weights."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from otmf import settings, task_vectors
from otmf.data.datasets import DataSet
from otmf.runtime import strict_json


@dataclass(frozen=True)
class Foreign:
    """What the library that defines an architecture loads by itself.

    Attributes:
        documents: file -> its content, plain JSON.
        weights: file -> tensors.
        copies: file -> where it lies.
    """

    documents: dict[str, Any]
    weights: dict[str, task_vectors.State]
    copies: dict[str, Path] = field(default_factory=dict)


LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True)
class Backbone(ABC):
    """An architecture and its preprocessing.

    What it reads of a data set is an array with one row an input, small enough to be kept: pixels (n, size, size, 3) uint8, or
    tokens (n, length) int32. What it computes on is prepared from that.

    Attributes:
        config: what it was built from, plain JSON.
        skeleton: the encoder on the meta device; it holds no weights.
        reads: what its inputs are called, `images` or `texts`.
    """

    config: dict[str, Any]
    skeleton: nn.Module

    reads: ClassVar[str]

    @property
    def files(self) -> dict[str, Path]:
        """File -> where it lies, of what belongs beside the configuration."""
        return {}

    @property
    def optional(self) -> task_vectors.State:
        """Tensors, on the meta device, that a checkpoint may have beside those of the skeleton."""
        return {}

    @abstractmethod
    def read(self, source: DataSet, positions: Sequence[int] | NDArray[np.int64]) -> np.ndarray:
        """The inputs at some positions of a data set, one row each."""

    @abstractmethod
    def decode(self, contents: Sequence[bytes], names: Sequence[str] | None = None) -> np.ndarray:
        """Inputs from the contents of files, one row each; errors call them by their names, or by their numbers.

        Raises:
            CardError: for the first that does not decode.
        """

    def pixels(self, contents: Sequence[bytes]) -> int:
        """Pixels that decoding the contents of files would compute, told by their heads; none where there are none to compute."""
        return 0

    def lengths(self, found: np.ndarray) -> NDArray[np.int64] | None:
        """How much of each row (n, ...) there is to compute: rows of one length cost least side by side. None: of all the same."""
        return None

    @abstractmethod
    def blank(self) -> np.ndarray:
        """One input without content, of the form that `read` gives."""

    @abstractmethod
    def prepare(self, found: np.ndarray, where: torch.device | None = None) -> Tensor:
        """What was read, as the encoder takes it, on a device; the CPU otherwise."""

    @abstractmethod
    def features(self, state: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Encoder outputs (n, d) before the head, not normalised, differentiable in the state."""

    @abstractmethod
    def initial_state(self, *, seed: int) -> task_vectors.State:
        """Fresh random weights from a seed, without touching torch's own random state."""

    def tagged_state(self, tag: str) -> task_vectors.State:
        """The weights under a tag of open_clip; fetched once where they are not in its cache.

        Raises:
            ValueError: if there is no such tag for this architecture.
        """
        raise ValueError(f"expected a model of open_clip for weights by tag; received {tag!r}; bring a checkpoint")

    @abstractmethod
    def foreign(self, state: task_vectors.State) -> Foreign:
        """What the library that defines the architecture needs to load an encoder from a folder by itself."""

    @abstractmethod
    def hugging_face(self, state: task_vectors.State) -> Foreign:
        """What transformers needs to load an encoder from a folder by itself.

        Raises:
            ValueError: if transformers has no such architecture.
        """

    def canonical(self, state: Mapping[str, Tensor]) -> task_vectors.State:
        """A state dict in the one form that is merged: sorted, each tied tensor once."""
        return dict(sorted(state.items()))

    def check_beside(self, folder: Path) -> None:
        """Refuses weights whose own description, in the folder that they came in, is of an encoder that computes something else.

        Raises:
            ValueError: naming the first difference.
        """
        path = folder / "config.json"
        if not path.is_file():
            return
        try:
            if path.stat().st_size > LARGEST_CONFIG:
                raise ValueError(f"more than {LARGEST_CONFIG} bytes")
            found = strict_json.loads(path.read_text(encoding="utf-8"))
            differing = self.differing(found) if isinstance(found, dict) else {}
        except Exception as error:  # whatever transformers makes of a document that somebody brought
            raise ValueError(
                f"expected the configuration of an encoder in {path.name} beside the weights; received one that does not read "
                f"({' '.join(str(error).split())[:200]}); take it as it was saved, or bring the file of weights alone"
            ) from error
        for key, (theirs, ours) in sorted(differing.items()):
            raise ValueError(
                f"expected weights of this line's encoder, whose {key} is {str(ours)[:80]}; received a {path.name} beside them with "
                f"{str(theirs)[:80]}; bring an expert of the same encoder"
            )

    @abstractmethod
    def differing(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Where a configuration as Hugging Face saves it means another computation: key -> (its value, the line's)."""

    @abstractmethod
    def zero_shot(self, base: Mapping[str, Any]) -> bool:
        """Whether class vectors can be had from the names of classes, for a base of that description."""

    @abstractmethod
    def class_embeddings(
        self,
        base: Mapping[str, Any],
        state: Mapping[str, Tensor],
        classes: Sequence[str],
        prompts: Sequence[str],
    ) -> tuple[Tensor, float | None]:
        """Embeddings (classes, prompts, d) of class names put into each prompt's {}, and the scale of the logits where one was learned."""

    def vary(
        self, inputs: Tensor, options: settings.Training, *, generator: torch.Generator, mirrored: Tensor | None
    ) -> Tensor:
        """Prepared inputs, varied at random for training as `options` say; the same where there is no such thing.

        Args:
            inputs: as `prepare` gives them.
            options: of the training.
            generator: of all random numbers, on the CPU.
            mirrored: shape (n,), whether an input may be mirrored; None for none.
        """
        return inputs

    def module(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The encoder as a module of its own that holds its weights."""
        found = copy.deepcopy(self.skeleton)
        found.load_state_dict(dict(state), assign=True)
        return found.eval().requires_grad_(False)
