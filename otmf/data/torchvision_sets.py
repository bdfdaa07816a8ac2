"""Data sets that torchvision reads and, where their owners allow it, downloads: how it is asked for their parts. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Packaged:
    """How torchvision's class of a data set is asked.

    Attributes:
        train, test: arguments for the parts; of sets with a validation part as well, that is left out.
        first: the label of the first class.
        by_hand: the folder that its owners have people fill, as torchvision may not download it; None where it may.
        lying: whether its pictures have rows and columns exchanged.
    """

    train: Mapping[str, Any]
    test: Mapping[str, Any]
    first: int = 0
    by_hand: str | None = None
    lying: bool = False

    @property
    def downloads(self) -> bool:
        """Whether torchvision can download it."""
        return self.by_hand is None


def _by_flag(first: int = 0, *, lying: bool = False, **more: Any) -> Packaged:
    return Packaged({"train": True, **more}, {"train": False, **more}, first, lying=lying)


def _by_split(train: str = "train", *, by_hand: str | None = None) -> Packaged:
    return Packaged({"split": train}, {"split": "test"}, by_hand=by_hand)


DATASETS: Mapping[str, Packaged] = MappingProxyType(
    {
        "CIFAR10": _by_flag(),
        "CIFAR100": _by_flag(),
        "DTD": _by_split(),
        "EMNIST": _by_flag(first=1, lying=True, split="letters"),
        "FER2013": _by_split(by_hand="fer2013"),
        "FashionMNIST": _by_flag(),
        "Flowers102": _by_split(),
        "Food101": _by_split(),
        "GTSRB": _by_split(),
        "KMNIST": _by_flag(),
        "MNIST": _by_flag(),
        "OxfordIIITPet": _by_split("trainval"),
        "PCAM": _by_split(),
        "RenderedSST2": _by_split(),
        "STL10": _by_split(),
        "SVHN": _by_split(),
        "StanfordCars": _by_split(by_hand="stanford_cars"),
    }
)
