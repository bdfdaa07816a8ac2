"""Data that a card names but does not bring: fetched into a folder of the line, with a card that brings it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.programs import process
from otmf.data import cards, images
from otmf.runtime import layout
from otmf.runtime.environment import WARM


@contextlib.contextmanager
def brought(line: layout.Layout, card: cards.Card, base: Path) -> Iterator[tuple[cards.Card, Path]]:
    """A card whose data lies beside it, and the folder it lies in, for as long as it is used: the card itself, or one made for
    what torchvision reads.

    Args:
        line: where what is fetched lies meanwhile.
        card: the card.
        base: the folder that its paths start from.

    Raises:
        ProcessError: if torchvision is not installed or does not find the data.
    """
    if card.source != cards.PACKAGED:
        yield card, base
        return
    card, folder = cards.absolute(card, base), line.private / "fetched" / card.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    try:
        process.pump(
            [sys.executable, "-m", "stages", "packaged", card.dataset, card.path, str(folder / "data")],
            folder=line.root, log=lambda _: None, extra={WARM: ""},
        )  # fmt: skip
        arrays = folder / "data" / images.ARRAYS
        content = card.model_dump(exclude={"dataset"}, exclude_unset=True) | {"source": "npz", "path": str(arrays)}
        if not arrays.exists():
            names = [str(position) for position in range(len(card.classes))]
            content |= {"source": "folder", "path": str(folder / "data"), "folders": names}
        yield cards.Card.model_validate(content), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
