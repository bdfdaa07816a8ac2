"""A version in memory keeps to the time of a request."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from otmf import heads
from stages.serving import version
from stages.serving.prediction_log import PredictionLog
from tests import makers
from tests.pipeline.serving import picture


@pytest.fixture
def loaded(backbone) -> version.Loaded:
    notice = version.Notice(root="", version=1, step="s01", sha256="", files={}, record="", record_sha256="")
    head = heads.Head(torch.eye(3, 8), torch.zeros(3))
    return version.Loaded(
        notice, backbone, backbone.initial_state(seed=0), {"first": (head, makers.COLOURS)}, torch.device("cpu")
    )


def test_many_inputs_are_computed_as_one_by_one(loaded) -> None:
    read = loaded.decode([picture(seed) for seed in range(2 * version.TOGETHER + 3)])
    together = loaded.predict("first", read)
    alone = [loaded.predict("first", one[None])[0] for one in read]
    assert [one["class"] for one in together] == [one["class"] for one in alone]
    assert np.allclose([one["probability"] for one in together], [one["probability"] for one in alone], atol=1e-5)


def test_time_that_is_over_ends_decoding_and_computing(loaded) -> None:
    over = time.monotonic() - 1
    with pytest.raises(TimeoutError):
        loaded.decode([picture()], over)
    with pytest.raises(TimeoutError):
        loaded.predict("first", loaded.decode([picture()]), over)


def test_input_that_does_not_decode_is_named_by_its_number(loaded) -> None:
    with pytest.raises(ValueError, match="expected an image that decodes; received image 2"):
        loaded.decode([picture(), b"none"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected to read and write the line's files; received: No such file or directory"),
        ("{}", "expected the version to serve in notice.json; received another document"),
    ],
)
def test_notice_that_cannot_be_read_is_said_without_python(tmp_path, content, message) -> None:
    notice = tmp_path / "notice.json"
    if content:
        notice.write_text(content)
    serving = version.Serving(notice, PredictionLog(tmp_path / "log"))
    serving.follow()
    assert serving.loaded is None
    assert serving.trouble.startswith(message)


def test_version_that_fails_to_load_in_an_unknown_way_leaves_the_other_serving(
    tmp_path, monkeypatch, loaded, capsys
) -> None:
    notice = tmp_path / "notice.json"
    notice.write_text(loaded.notice.model_copy(update={"version": 2}).model_dump_json())
    serving = version.Serving(notice, PredictionLog(tmp_path / "log"))
    serving.loaded = loaded

    def full(_: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(version, "load", full)
    serving.follow()
    assert serving.loaded is loaded
    assert serving.trouble == "expected v2 to load; received a failure; it is in the server's log"
    assert "not enough memory" in capsys.readouterr().err


def test_version_that_did_not_load_is_tried_again_ever_later_and_complained_of_once(
    tmp_path, monkeypatch, loaded, capsys
) -> None:
    notice = tmp_path / "notice.json"
    notice.write_text(loaded.notice.model_copy(update={"version": 2}).model_dump_json())
    serving = version.Serving(notice, PredictionLog(tmp_path / "log"))
    now, tries = [0.0], []

    def load(wanted: version.Notice) -> version.Loaded:
        tries.append(now[0])
        if len(tries) < 9:
            raise RuntimeError("not enough memory")
        return loaded

    monkeypatch.setattr(version, "load", load)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    while serving.loaded is None:
        serving.follow()
        now[0] += 10
    assert [later - earlier for earlier, later in itertools.pairwise(tries)] == [30, 60, 120, 240, 480, 600, 600, 600]
    assert (serving.loaded, serving.trouble) == (loaded, "")
    said = capsys.readouterr()
    assert said.err.count("Traceback") == 1
    assert (said.out + said.err).count("does not serve") == 1
