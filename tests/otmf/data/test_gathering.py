"""Gathering: what a card refers to, copied whole or refused in one sentence."""

from __future__ import annotations

import json

import pytest

from otmf.data import cards, datasets, gathering, images, splits
from tests import makers
from tests.otmf.pictures import folder_card, gathered


def test_npz_is_gathered_and_loaded_with_its_own_classes(tmp_path) -> None:
    task = gathered(tmp_path)
    assert task.classes == makers.COLOURS
    assert (len(task.train), len(task.test)) == (48, 18)
    datasets.check(task)


def test_folder_of_pictures_is_gathered_and_resized(tmp_path) -> None:
    gathering.gather(folder_card(tmp_path), tmp_path / "given", tmp_path / "raw")
    task = datasets.load(tmp_path / "raw")
    datasets.check(task)
    assert task.train.read([0, 7], images.Fit(16)).shape == (2, 16, 16, 3)
    assert task.train.labels.tolist() == [0] * 6 + [1] * 6


def test_embedded_task_is_gathered_to_the_same_bytes_each_time(tmp_path) -> None:
    card = cards.Card(name="dice", source="embedded", path="dice")
    for place in ("one", "two"):
        gathering.gather(card, tmp_path, tmp_path / place)
    assert (tmp_path / "one/images.npz").read_bytes() == (tmp_path / "two/images.npz").read_bytes()


def test_folder_named_after_no_class_is_refused_with_the_class_that_lacks_one(tmp_path) -> None:
    card = folder_card(tmp_path, classes=("a", "c"))
    with pytest.raises(
        cards.CardError,
        match=r"expected folders named after the classes \(a, c\) in .* received the folder 'b', while the class 'c' has no folder; "
        "rename it to 'c', or add the class",
    ):
        gathering.gather(card, tmp_path / "given", tmp_path / "raw")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"source": "npz", "path": "none.npz"},
            "expected the data of task birds at `path`; received 'none.npz', which does not",
        ),
        ({"source": "npz", "path": "."}, "expected a file at `path` for source npz; received '.'"),
        ({"source": "embedded", "path": "birds"}, r"expected an embedded task \(digits, .*\); received 'birds'"),
    ],
)
def test_path_that_leads_nowhere_is_refused(tmp_path, keys, message) -> None:
    with pytest.raises(cards.CardError, match=message):
        gathering.gather(cards.Card(name="birds", **keys), tmp_path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_base_takes_the_held_back_part_alone_where_asked(tmp_path) -> None:
    path = makers.card(tmp_path / "given")
    part = {"name": "squares", "source": "npz", "path": path.with_suffix(".npz").name, "share": "held_back"}
    card = cards.BaseCard.model_validate({"source": "train", "parts": [part], "held_back": 0.5})
    gathering.gather_base(card, path.parent, tmp_path / "base")
    gathering.gather(cards.read(path), path.parent, tmp_path / "raw")
    split = splits.split(datasets.load(tmp_path / "raw"), unlabelled=0.25, held_back=0.5)
    kept = datasets.load(tmp_path / "base/squares").train
    whole = datasets.load(tmp_path / "raw").train
    assert kept.fingerprints() == [whole.fingerprints()[position] for position in split.held_back]
    assert json.loads((tmp_path / "base/base.json").read_text())["parts"] == ["squares"]


@pytest.mark.parametrize("length", [300, 900])
def test_path_that_is_too_long_for_any_file_is_data_that_does_not_exist(tmp_path, length) -> None:
    card = cards.Card(name="long", source="npz", path="x" * length)
    with pytest.raises(cards.CardError, match="which does not exist beside the card"):
        gathering.resolve(card, tmp_path)
