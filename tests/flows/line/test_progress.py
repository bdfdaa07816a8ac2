from __future__ import annotations

import subprocess
import sys

import pytest

from flows.line import progress
from otmf.runtime import layout


@pytest.fixture
def clone(tmp_path) -> layout.Layout:
    root = tmp_path / "line/.otmf/attempts/birds"
    root.mkdir(parents=True)
    return layout.Layout(root)


def test_running_stage_is_shown_with_the_minutes_left_and_gone_when_it_ends(clone, tmp_path) -> None:
    line, said = layout.Layout(tmp_path / "line"), []
    with progress.noted(clone, "merge-step@s02", said.append) as log:
        assert [found.stage for found in progress.running(line)] == ["merge-step@s02"]
        log("merge-step s02: epoch 25/100, pre 1.0, post 2.0")
        found = progress.running(line)[0]
        assert (found.attempt, found.said) == ("birds", "merge-step s02: epoch 25/100, pre 1.0, post 2.0")
        assert found.left == pytest.approx(3 * found.minutes)
    assert progress.running(line) == []
    assert said == ["merge-step s02: epoch 25/100, pre 1.0, post 2.0"]


def test_note_of_a_dead_process_is_not_shown(clone, tmp_path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from flows.line import progress; from otmf.runtime import layout\n"
        "with progress.noted(layout.Layout(Path(sys.argv[1])), 'finetune@birds', print): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(clone.root)], check=True)
    assert (clone.private / "running.json").exists()
    assert progress.running(layout.Layout(tmp_path / "line")) == []


def test_no_number_no_estimate(clone, tmp_path) -> None:
    with progress.noted(clone, "finetune@birds", lambda _: None) as log:
        log("handed to an agent")
        assert progress.running(layout.Layout(tmp_path / "line"))[0].left is None
