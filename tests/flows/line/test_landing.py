"""A line that moves to an attempt's commit: what DVC holds follows, and a death in between is made good."""

from __future__ import annotations

import json
import subprocess

import pytest

from flows.dvc import commands
from flows.line import clones, landing, workspace
from flows.programs import git, process
from otmf.runtime import layout
from tests import makers


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    return layout.Layout(makers.line(tmp_path / "line"))


def attempted(line: layout.Layout) -> layout.Layout:
    """An attempt with data of another task, and without that of the base."""
    clone = clones.begin(line, "attempt")
    (clone.raw("other")).mkdir()
    (clone.raw("other") / "a.txt").write_text("a")
    commands.track(clone.root, clone.raw("other"))
    workspace.commit(clone.root, "Other data")
    return clone


def test_data_of_the_attempt_follows_and_the_rest_stays(line) -> None:
    clone = attempted(line)
    before = (line.raw("pretrained") / "base.json").stat().st_ino
    assert landing.land(line, clone) == ""
    assert (line.raw("other") / "a.txt").read_text() == "a"
    assert (line.raw("pretrained") / "base.json").stat().st_ino == before
    assert commands.changed(line.root) == {}
    assert not clone.root.exists()


def test_what_the_attempt_took_out_goes(line) -> None:
    landing.land(line, attempted(line))
    clone = clones.begin(line, "attempt")
    commands.untrack(clone.root, clone.raw("other"))
    workspace.commit(clone.root, "Without it")
    assert landing.land(line, clone) == ""
    assert not line.raw("other").exists()
    assert line.raw("pretrained").is_dir()


def test_data_that_changed_takes_the_place_of_what_was_there(line) -> None:
    landing.land(line, attempted(line))
    clone = clones.begin(line, "attempt")
    (clone.raw("other") / "a.txt").unlink()
    (clone.raw("other") / "b.txt").write_text("b")
    commands.track(clone.root, clone.raw("other"))
    workspace.commit(clone.root, "Other data again")
    assert landing.land(line, clone) == ""
    assert [path.name for path in line.raw("other").iterdir()] == ["b.txt"]
    assert commands.changed(line.root) == {}


def test_what_the_attempt_has_not_comes_from_the_cache(line) -> None:
    clone = attempted(line)
    subprocess.run(["rm", "-r", str(clone.raw("other"))], check=True)
    assert landing.land(line, clone) == ""
    assert (line.raw("other") / "a.txt").read_text() == "a"


def test_death_between_the_commit_and_its_outputs_is_made_good(line, monkeypatch) -> None:
    clone = attempted(line)
    monkeypatch.setattr(landing, "_bring", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        landing.land(line, clone)
    assert git.run(line.root, "log", "-1", "--format=%s").strip() == "Other data"
    assert not line.raw("other").exists()
    landing.finish(line)
    assert (line.raw("other") / "a.txt").read_text() == "a"
    assert not (line.private / "landing").exists()
    assert json.loads((line.raw("pretrained") / "base.json").read_text())


def test_move_that_could_be_neither_made_nor_taken_back_is_completed_with_its_outputs(line, monkeypatch) -> None:
    """On a disk that is full, git could not write the files, nor take the branch back; the note that outputs are to follow was gone."""
    clone, run = attempted(line), git.run

    def full(root, *arguments: str, **options: object) -> str:
        if root == line.root and (
            (arguments[:2] == ("read-tree", "-m") and "--dry-run" not in arguments) or "otmf: undo" in arguments
        ):
            raise process.ProcessError("expected `git read-tree` to succeed; received: no space left on device")
        return run(root, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(git, "run", full)
        with pytest.raises(process.ProcessError, match="no space left"):
            landing.land(line, clone)
    assert landing.unfinished(line)
    assert len(landing.finish(line)) == 2
    assert git.run(line.root, "log", "-1", "--format=%s").strip() == "Other data"
    assert (line.raw("other") / "a.txt").read_text() == "a"
    assert not landing.unfinished(line)
