"""Image sets that tests of several modules need: gathered tasks, altered arrays, folders of pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from otmf.data import cards, datasets, gathering
from tests import makers


def gathered(tmp_path, **keys) -> datasets.Task:
    path = makers.card(tmp_path / "given", **keys)
    gathering.gather(cards.read(path), path.parent, tmp_path / "raw")
    return datasets.load(tmp_path / "raw")


def changed(**arrays) -> dict[str, np.ndarray]:
    data = {**makers.arrays(seed=1), **arrays}
    return {key: value for key, value in data.items() if value is not None}


def folder_card(tmp_path, *, classes=("a", "b")) -> cards.Card:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("a", "b"):
            place = tmp_path / "given" / "pictures" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return cards.Card(name="birds", source="folder", path="pictures", classes=classes)
