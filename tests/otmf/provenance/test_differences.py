"""How far outputs are apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from otmf.provenance import differences


def folder(root: Path, name: str, weight: np.ndarray, result: object) -> Path:
    made = root / name
    made.mkdir()
    save_file({"weight": weight}, made / "model.safetensors")
    (made / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return made


def test_same_bytes_are_not_apart(tmp_path) -> None:
    weight = np.arange(6, dtype=np.float32)
    one, other = folder(tmp_path, "one", weight, {"a": 1}), folder(tmp_path, "other", weight, {"a": 1})
    assert differences.between(one, other) == 0


def test_rounding_is_measured_against_the_largest_value(tmp_path) -> None:
    weight = np.array([0.001, 2.0], np.float32)
    near = weight + np.array([0.002, 0], np.float32)
    one, other = folder(tmp_path, "one", weight, [0.5]), folder(tmp_path, "other", near, [0.5])
    assert differences.between(one, other) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("mine", "theirs", "apart"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.02]}, 0.02 / 2.02),
        ({"a": "x"}, {"a": "y"}, math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ([1], [1, 1], math.inf),
        ({"a": None}, {"a": None, "b": 0}, math.inf),
        ({"a": True}, {"a": 1}, 0.0),
        ({"a": 0.0}, {"a": 1e-9}, 1.0),
    ],
)
def test_numbers_in_json_are_compared_and_the_rest_must_be_equal(tmp_path, mine, theirs, apart) -> None:
    weight = np.zeros(2, np.float32)
    one, other = folder(tmp_path, "one", weight, mine), folder(tmp_path, "other", weight, theirs)
    assert differences.between(one, other) == pytest.approx(apart)


@pytest.mark.parametrize(
    "other", [np.zeros((2, 1), np.float32), np.zeros(2, np.float64), np.array([0, np.nan], np.float32), np.array([0, np.inf], np.float32)]
)  # fmt: skip
def test_tensors_of_another_kind_are_apart(tmp_path, other) -> None:
    one = folder(tmp_path, "one", np.zeros(2, np.float32), {})
    assert differences.between(one, folder(tmp_path, "other", other, {})) == math.inf


def test_files_that_are_missing_unknown_or_broken_are_apart(tmp_path) -> None:
    weight = np.zeros(2, np.float32)
    one, other = folder(tmp_path, "one", weight, {}), folder(tmp_path, "other", weight, {})
    (other / "more.txt").write_text("more", encoding="utf-8")
    assert differences.between(one, other) == math.inf
    (one / "more.txt").write_text("other", encoding="utf-8")
    assert differences.between(one, other) == math.inf
    assert differences.between(one, tmp_path / "none") == math.inf
    (other / "model.safetensors").write_bytes(b"broken")
    assert differences.between(one / "model.safetensors", other / "model.safetensors") == math.inf


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), st.floats(0, 1e-3))
def test_scaling_by_a_little_is_apart_by_that_little(tmp_path_factory, values, little) -> None:
    root = tmp_path_factory.mktemp("scaled")
    weight = np.array(values, np.float64)
    factor = 1 + little
    one, other = folder(root, "one", weight, {}), folder(root, "other", weight * factor, {})
    assert differences.between(one, other) <= (factor - 1) + 4 * np.finfo(np.float64).eps, (
        "the factor as it was rounded"
    )
    assert differences.between(one, other) == differences.between(other, one)
