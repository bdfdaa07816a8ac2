"""Stand-ins for the twenty tasks of the published protocol: small pictures in the same forms, under a recipe of the same shape.

python -m tests.pipeline.standins FOLDER
otmf reproduce FOLDER/recipe.yaml-small FOLDER/run --data FOLDER/sets
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from flows.line import workspace
from otmf.data import cards
from tests import makers, torchvision_raw

CLASSES = 3


def prepare(folder: Path, tasks: Sequence[str] = (), *, counts: Sequence[int] = (8, 14, 20), orders: int = 10) -> Path:
    """Writes sets, cards and a recipe into a folder; returns the recipe.

    Of each shipped card of the protocol it keeps name, source, data set and prompts; classes are three colours. `tasks`: all twenty unless named. Data sets whose
    form on disk is not written by `tests.torchvision_raw` come as arrays.
    """
    yaml = YAML(typ="safe")
    recipe = yaml.load((workspace.template() / "data/recipes/paper.yaml").read_text(encoding="utf-8"))
    recipe |= {"models": {"small": "small.json"}, "cards": "cards", "sets": "sets", "orders": orders}
    recipe |= {"tasks": list(tasks or recipe["tasks"]), "counts": list(counts)}
    recipe["base"] = {"name": "pretrained", "source": "train", "parts": [{"name": "mixture", "source": "npz", "path": "mixture.npz"}]}  # fmt: skip
    recipe["params"] |= {"device": "cpu", "pretrained": {"epochs": 2, "batch_size": 16},
                         "defaults": {"finetune": {"steps": 12, "batch_size": 8}, "merge": {"steps": 6, "batch_size": 4}}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    makers.write_yaml(folder / "recipe.yaml", recipe)
    (folder / "small.json").write_text(json.dumps(makers.BACKBONE), encoding="utf-8")
    np.savez(folder / "mixture.npz", **makers.arrays(seed=0))
    (folder / "cards").mkdir(exist_ok=True)
    for seed, name in enumerate(recipe["tasks"], start=1):
        _task(folder, cards.read(workspace.template() / f"data/cards/clip/{name}.yaml"), seed)
    return folder / "recipe.yaml"


def _task(folder: Path, shipped: cards.Card, seed: int) -> None:
    arrays = makers.arrays(seed=seed)
    del arrays["classes"]
    card = shipped.model_copy(update={"classes": makers.COLOURS, "path": "../sets"})
    (folder / "sets").mkdir(exist_ok=True)
    if shipped.source == "folder":
        card = card.model_copy(update={"folders": shipped.folders[:CLASSES], "path": f"../sets/{shipped.name}"})
        for part in ("train", "test"):
            for number, (pixels, label) in enumerate(zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)):
                path = folder / "sets" / shipped.name / part / card.folders[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    elif shipped.dataset in torchvision_raw.WRITERS:
        torchvision_raw.WRITERS[shipped.dataset](folder / "sets", arrays)
    else:
        path = f"../sets/{shipped.name}.npz"
        card = card.model_copy(update={"source": "npz", "dataset": None, "path": path})
        np.savez(folder / "cards" / path, **arrays)
    (folder / "cards" / f"{shipped.name}.yaml").write_text(cards.dump(card), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(prepare(parser.parse_args().folder))


if __name__ == "__main__":
    main()
