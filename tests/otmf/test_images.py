"""Images: gathering, checks with their sentences, and splits that are proven apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from otmf import cards, images
from tests import makers


def gathered(tmp_path, **keys) -> images.TaskImages:
    path = makers.card(tmp_path / "given", **keys)
    images.gather(cards.read(path), path.parent, tmp_path / "raw")
    return images.load(tmp_path / "raw")


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


def test_npz_is_gathered_and_loaded_with_its_own_classes(tmp_path) -> None:
    task = gathered(tmp_path)
    assert task.classes == makers.COLOURS
    assert (len(task.train), len(task.test)) == (48, 18)
    images.check(task)


def test_folder_of_pictures_is_gathered_and_resized(tmp_path) -> None:
    images.gather(folder_card(tmp_path), tmp_path / "given", tmp_path / "raw")
    task = images.load(tmp_path / "raw")
    images.check(task)
    assert task.train.read([0, 7], 16).shape == (2, 16, 16, 3)
    assert task.train.labels.tolist() == [0] * 6 + [1] * 6


def test_embedded_task_is_gathered_to_the_same_bytes_each_time(tmp_path) -> None:
    card = cards.Card(name="dice", source="embedded", path="dice")
    for place in ("one", "two"):
        images.gather(card, tmp_path, tmp_path / place)
    assert (tmp_path / "one/images.npz").read_bytes() == (tmp_path / "two/images.npz").read_bytes()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.floats(0.05, 0.6), st.floats(0.0, 0.3))
def test_parts_of_a_split_are_disjoint_and_complete(seed, unlabelled, held_back) -> None:
    pixels, labels = makers.pictures(60, seed=1)
    test = makers.pictures(12, seed=2)
    task = images.TaskImages(
        "t", makers.COLOURS, ("{}",), images.ArrayImages(pixels, labels), images.ArrayImages(*test)
    )
    found = images.split(task, unlabelled=unlabelled, held_back=held_back, seed=seed)
    parts = [set(part.tolist()) for part in (found.labelled, found.unlabelled, found.held_back)]
    assert sum(map(len, parts)) == 60 == len(set.union(*parts))
    assert found.manifest["disjoint"]
    assert set(labels[found.labelled]) == {0, 1, 2}


def test_split_does_not_depend_on_the_order_of_images() -> None:
    pixels, labels = makers.pictures(60, seed=1)
    test = images.ArrayImages(*makers.pictures(12, seed=2))
    order = np.random.default_rng(0).permutation(60)
    one, other = (
        images.split(
            images.TaskImages("t", makers.COLOURS, ("{}",), images.ArrayImages(pixels[chosen], labels[chosen]), test),
            unlabelled=0.3,
        )
        for chosen in (np.arange(60), order)
    )
    assert one.manifest == other.manifest
    assert set(one.labelled) == {order[position] for position in other.labelled}


def test_copies_lie_in_one_part_and_train_images_in_test_are_dropped() -> None:
    pixels, labels = makers.pictures(30, seed=1)
    test, test_labels = makers.pictures(12, seed=2)
    doubled = np.concatenate([pixels, pixels, test[:4]])
    marks = np.concatenate([labels, labels, test_labels[:4]])
    task = images.TaskImages(
        "t", makers.COLOURS, ("{}",), images.ArrayImages(doubled, marks), images.ArrayImages(test, test_labels)
    )
    found = images.split(task, unlabelled=0.3)
    assert found.manifest["train_images_dropped_because_in_test"] == 4
    assert found.manifest["disjoint"]
    for position in range(30):
        assert (position in found.unlabelled) == (position + 30 in found.unlabelled)


def test_manifest_names_an_overlap_where_there_is_one() -> None:
    """The proof is computed from the parts, not asserted: feed it parts that overlap."""
    manifest = images._manifest(
        images.TaskImages("t", ("a", "b"), ("{}",), None, None),
        {"labelled": np.array([0, 1]), "unlabelled": np.array([1, 2]), "held_back": np.array([], int), "test": np.array([0])},
        ["x", "y", "z"], ["z"], dropped=0, seed=0,
    )  # fmt: skip
    assert manifest["overlaps"]["labelled & unlabelled"] == 1
    assert manifest["overlaps"]["test & unlabelled"] == 1
    assert not manifest["disjoint"]


def test_task_without_labels_gives_all_train_images_to_the_merge(tmp_path) -> None:
    task = gathered(tmp_path, data=changed(train_y=None))
    images.check(task, needs_training_labels=False)
    found = images.split(task, unlabelled=0.25)
    assert len(found.labelled) == 0
    assert len(found.unlabelled) == 48
    with pytest.raises(
        cards.CardError, match="expected labels for the train images; received none; add them, or bring a checkpoint"
    ):
        images.check(task)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(train_y=np.full(48, 7)), "expected train labels from 0 to 2, one for each class; received 7"),
        (changed(test_y=np.full(18, -1)), "expected test labels from 0 to 2, one for each class; received -1"),
        (changed(train_y=np.zeros(48, int)), "expected train images of at least two classes; received only 'red'"),
        (changed(train_y=np.arange(48) % 2), "expected train images of every class; received none of blue"),
        (makers.arrays(seed=1, train=2), "expected at least one train image for each of 3 classes; received 2 images"),
        (makers.arrays(seed=1, test=0), "expected images in the test part; received none"),
        (makers.arrays(seed=1, train=0), "expected images in the train part; received none"),
        (changed(train_y=np.zeros(5, int)), "expected one label for each of the 48 train images; received"),
        (changed(train_y=np.full(48, 0.5)), "expected train_y as whole numbers in images.npz; received float64"),
        (changed(train_x=np.zeros((48, 16, 16), np.uint8)), "expected train_x as uint8 of shape"),
        (
            changed(train_x=np.zeros((48, 16, 16, 3), np.float32)),
            "expected train_x as uint8 of shape .* received float32",
        ),
        (changed(test_x=None), "expected arrays train_x, train_y, test_x and test_y in .* received none named test_x"),
        (changed(classes=None), "expected `classes` in the card or in .* received neither"),
    ],
)
def test_data_that_cannot_make_a_task_gets_one_sentence(tmp_path, data, message) -> None:
    with pytest.raises(cards.CardError, match=message) as caught:
        images.check(gathered(tmp_path, data=data))
    assert "\n" not in str(caught.value)


def test_split_with_an_empty_part_is_refused(tmp_path) -> None:
    task = gathered(tmp_path, data=makers.arrays(seed=1, train=3))
    with pytest.raises(
        cards.CardError, match="expected images in the unlabelled part of the split; received none out of 3"
    ):
        images.split(task, unlabelled=0.25)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_file_that_is_not_an_image_is_named(tmp_path, content) -> None:
    card = folder_card(tmp_path)
    (tmp_path / "given/pictures/train/a/bad.png").write_bytes(content)
    images.gather(card, tmp_path / "given", tmp_path / "raw")
    with pytest.raises(cards.CardError, match="expected an image that decodes; received .*bad.png"):
        images.check(images.load(tmp_path / "raw"))


def test_truncated_image_is_named(tmp_path) -> None:
    card = folder_card(tmp_path)
    whole = (tmp_path / "given/pictures/train/a/0.png").read_bytes()
    (tmp_path / "given/pictures/train/a/0.png").write_bytes(whole[: len(whole) // 2])
    images.gather(card, tmp_path / "given", tmp_path / "raw")
    with pytest.raises(
        cards.CardError, match=r"expected an image that decodes; received .*0.png .*replace or remove it"
    ):
        images.check(images.load(tmp_path / "raw"))


def test_folder_named_after_no_class_is_a_label_outside_the_classes(tmp_path) -> None:
    card = folder_card(tmp_path, classes=("a", "c"))
    with pytest.raises(
        cards.CardError, match="expected folders named after the classes in .* received 'b', a label outside"
    ):
        images.gather(card, tmp_path / "given", tmp_path / "raw")


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
        images.gather(cards.Card(name="birds", **keys), tmp_path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_archive_with_pickled_objects_is_refused(tmp_path) -> None:
    data = changed(train_x=np.array([{"code": "runs"}], dtype=object))
    with pytest.raises(
        cards.CardError, match="expected train_x as a plain array in images.npz; received one that does not read"
    ):
        images.check(gathered(tmp_path, data=data))


def test_base_takes_the_held_back_part_alone_where_asked(tmp_path) -> None:
    path = makers.card(tmp_path / "given")
    part = {"name": "squares", "source": "npz", "path": path.with_suffix(".npz").name, "share": "held_back"}
    card = cards.BaseCard.model_validate({"source": "train", "parts": [part], "held_back": 0.5})
    images.gather_base(card, path.parent, tmp_path / "base")
    images.gather(cards.read(path), path.parent, tmp_path / "raw")
    split = images.split(images.load(tmp_path / "raw"), unlabelled=0.25, held_back=0.5)
    kept = images.load(tmp_path / "base/squares").train
    whole = images.load(tmp_path / "raw").train
    assert kept.fingerprints() == [whole.fingerprints()[position] for position in split.held_back]
    assert json.loads((tmp_path / "base/base.json").read_text())["parts"] == ["squares"]
