"""What is stale is what DVC itself calls stale, on a real line after every kind of change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.dvc import commands, staleness
from flows.line import workspace
from otmf.runtime import layout

pytestmark = pytest.mark.pipeline


@pytest.fixture
def line(onboarded, tmp_path) -> layout.Layout:
    root, _ = onboarded
    copy = tmp_path / "small"
    shutil.copytree(root, copy, symlinks=True)
    return layout.Layout(copy)


def parameter(line: layout.Layout) -> None:
    document = workspace.read_params(line)
    document["steps"]["s02"]["merge"]["steps"] = 7
    workspace.write_params(line, document)


def another_task(line: layout.Layout) -> None:
    document = workspace.read_params(line)
    document["tasks"]["third"] = dict(document["tasks"]["first"])
    document["steps"]["s03"] = {"task": "third", "previous": "s02"}
    workspace.write_params(line, document)


def altered(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b" ")


def command(line: layout.Layout) -> None:
    path = line.root / "dvc.yaml"
    path.write_text(path.read_text().replace("stages extract ${key}", "stages extract  ${key}"))


def lock_entry(line: layout.Layout) -> None:
    commands.forget(line.root, {"extract@second"})


def data(line: layout.Layout) -> None:
    altered(next(line.raw("first").glob("*.npz")))
    commands.track(line.root, line.raw("first"))


CHANGES = {
    "nothing": lambda line: None,
    "parameter": parameter,
    "base's parameter": lambda line: line.params.write_text(line.params.read_text().replace("batch_size: 16", "batch_size: 8", 1)),
    "another task": another_task,
    "command": command,
    "lock entry": lock_entry,
    "no lock": lambda line: (line.root / "dvc.lock").unlink(),
    "data, tracked": data,
    "data, not tracked": lambda line: altered(next(line.raw("first").glob("*.npz"))),
    "data gone": lambda line: shutil.rmtree(line.raw("second")),
    "output": lambda line: altered(line.merged("s01") / "model.safetensors"),
    "output gone": lambda line: shutil.rmtree(line.masks("s02")),
    "result": lambda line: altered(line.evaluation("s01")),
    "result gone": lambda line: line.trace("s02").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_stale_is_what_dvc_calls_stale(line, what) -> None:
    CHANGES[what](line)
    found = staleness.reasons(line)
    assert set(found) == set(commands.stale(line.root)), found
    assert (what == "nothing") == (not found)
    assert all(found.values())
