"""Splits: disjoint, complete, independent of order, proven by a manifest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otmf.data import cards, datasets, images, splits
from tests import makers
from tests.otmf.pictures import changed, gathered


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.floats(0.05, 0.6), st.floats(0.0, 0.3))
def test_parts_of_a_split_are_disjoint_and_complete(seed, unlabelled, held_back) -> None:
    pixels, labels = makers.pictures(60, seed=1)
    test = makers.pictures(12, seed=2)
    task = datasets.Task("t", makers.COLOURS, ("{}",), images.ArrayImages(pixels, labels), images.ArrayImages(*test))
    found = splits.split(task, unlabelled=unlabelled, held_back=held_back, seed=seed)
    parts = [set(part.tolist()) for part in (found.labelled, found.unlabelled, found.held_back)]
    assert sum(map(len, parts)) == 60 == len(set.union(*parts))
    assert found.manifest["disjoint"]
    assert set(labels[found.labelled]) == {0, 1, 2}


def test_split_does_not_depend_on_the_order_of_images() -> None:
    pixels, labels = makers.pictures(60, seed=1)
    test = images.ArrayImages(*makers.pictures(12, seed=2))
    order = np.random.default_rng(0).permutation(60)
    one, other = (
        splits.split(
            datasets.Task("t", makers.COLOURS, ("{}",), images.ArrayImages(pixels[chosen], labels[chosen]), test),
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
    task = datasets.Task(
        "t", makers.COLOURS, ("{}",), images.ArrayImages(doubled, marks), images.ArrayImages(test, test_labels)
    )
    found = splits.split(task, unlabelled=0.3)
    assert found.manifest["train_images_dropped_because_in_test"] == 4
    assert found.manifest["disjoint"]
    for position in range(30):
        assert (position in found.unlabelled) == (position + 30 in found.unlabelled)


def test_manifest_names_an_overlap_where_there_is_one() -> None:
    """The proof is computed from the parts, not asserted: feed it parts that overlap."""
    manifest = splits._manifest(
        datasets.Task("t", ("a", "b"), ("{}",), None, None),
        {"labelled": np.array([0, 1]), "unlabelled": np.array([1, 2]), "held_back": np.array([], int), "test": np.array([0])},
        ["x", "y", "z"], ["z"], dropped=0, seed=0,
    )  # fmt: skip
    assert manifest["overlaps"]["labelled & unlabelled"] == 1
    assert manifest["overlaps"]["test & unlabelled"] == 1
    assert not manifest["disjoint"]


def test_task_without_labels_gives_all_train_images_to_the_merge(tmp_path) -> None:
    task = gathered(tmp_path, data=changed(train_y=None))
    datasets.check(task, needs_training_labels=False)
    found = splits.split(task, unlabelled=0.25)
    assert len(found.labelled) == 0
    assert len(found.unlabelled) == 48
    with pytest.raises(
        cards.CardError, match="expected labels for the train images; received none; add them, or bring a checkpoint"
    ):
        datasets.check(task)


def test_split_with_an_empty_part_is_refused(tmp_path) -> None:
    task = gathered(tmp_path, data=makers.arrays(seed=1, train=3))
    with pytest.raises(
        cards.CardError, match="expected images in the unlabelled part of the split; received none out of 3"
    ):
        splits.split(task, unlabelled=0.25)


def test_image_with_two_labels_lies_in_one_part() -> None:
    pixels, labels = makers.pictures(40, seed=1)
    both = images.ArrayImages(np.concatenate([pixels, pixels]), np.concatenate([labels, (labels + 1) % 3]))
    task = datasets.Task("t", makers.COLOURS, ("{}",), both, images.ArrayImages(*makers.pictures(12, seed=2)))
    assert splits.split(task, unlabelled=0.4, held_back=0.2).manifest["disjoint"]
