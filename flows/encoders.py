"""What a line's encoder is called and what it reads, as the card of its base says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from otmf import cards, datasets, layout, settings


@dataclass(frozen=True)
class Encoder:
    """Attributes:
    name: for people.
    reads: `images` or `texts`.
    """

    name: str
    reads: str


def of(line: layout.Layout, params: settings.Params) -> Encoder:
    """The encoder of a line. Raises CardError if the card of its base does not hold up."""
    return described(cards.read_base(line.base_card), params)


def described(base: cards.BaseCard, params: settings.Params) -> Encoder:
    """The encoder of a base's card and a line's parameters."""
    if base.backbone is not None:
        return Encoder(Path(base.path).name, datasets.TEXTS)
    return Encoder(Path(params.backbone.model).stem, datasets.IMAGES)
