"""The cards that ship with otmf for public data sets, and the protocol that names them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from torchvision import datasets

from flows.studies import reproduce
from otmf.data import cards, torchvision_sets

CARDS = Path(__file__).resolve().parents[3] / "data/cards"
CLASSES = {"sun397": 397, "stanford_cars": 196, "resisc45": 45, "eurosat": 10, "svhn": 10, "gtsrb": 43, "mnist": 10, "dtd": 47, "flowers102": 102,
           "pcam": 2, "fer2013": 7, "oxford_pets": 37, "stl10": 10, "cifar100": 100, "cifar10": 10, "food101": 101, "fashion_mnist": 10,
           "emnist_letters": 26, "kmnist": 10, "rendered_sst2": 2}  # fmt: skip


def test_every_task_of_the_protocol_has_a_card_with_classes_and_prompts() -> None:
    _, recipe, _ = reproduce.find("paper-vit-b-32")
    assert list(CLASSES) == recipe.tasks
    assert recipe.counts == [8, 14, 20]
    for name, count in CLASSES.items():
        card = cards.read(CARDS / f"clip/{name}.yaml")
        assert (card.name, len(card.classes)) == (name, count)
        assert card.prompts
    random.Random(42).shuffle(eight := recipe.tasks[:8])
    assert eight == ["eurosat", "svhn", "mnist", "dtd", "resisc45", "gtsrb", "sun397", "stanford_cars"]


def test_every_data_set_is_one_of_torchvision_and_of_a_card() -> None:
    named = {cards.read(path).dataset for path in (CARDS / "clip").glob("*.yaml")} - {None}
    assert named == set(torchvision_sets.DATASETS)
    assert all(hasattr(datasets, name) for name in torchvision_sets.DATASETS)


@pytest.mark.parametrize("path", sorted((CARDS / "glue").glob("*.yaml")), ids=lambda path: path.stem)
def test_cards_of_glue_read_its_tables(path) -> None:
    card = cards.read(path)
    assert (card.name, card.source, card.reads) == (path.stem, "parquet", "texts")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "torchvision"}, "expected `dataset` with source torchvision"),
        ({"source": "npz", "dataset": "MNIST"}, "expected `dataset` with source torchvision, and only there"),
        ({"source": "torchvision", "dataset": "os.system"}, "expected a data set of torchvision"),
        ({"source": "npz", "folders": ("x", "y")}, "expected `folders` with source folder alone"),
        ({"source": "folder", "folders": ("x",)}, "one for each of 2 classes; received 1"),
        ({"source": "folder", "folders": ("x", "x")}, "expected distinct `folders`"),
    ],
)  # fmt: skip
def test_cards_that_name_no_such_set_are_refused(keys, message) -> None:
    with pytest.raises(ValueError, match=message):
        cards.Card.model_validate({"name": "a", "path": ".", "classes": ("a", "b"), **keys})
