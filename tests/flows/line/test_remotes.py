"""What a line exchanges with its git remote: attempts for agents, results of theirs, accepted versions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.dvc import commands
from flows.line import clones, landing, remotes, workspace
from flows.programs import git
from otmf.runtime import layout
from tests import makers
from tests.pipeline import production


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    root = makers.line(tmp_path / "shop")
    production.remotes(root, tmp_path)
    return layout.Layout(root)


def bare(line: layout.Layout) -> Path:
    return line.root.parent / "line.git"


def colleague(line: layout.Layout, tmp_path: Path) -> None:
    """Somebody else pushes a commit."""
    clone = tmp_path / "colleague"
    subprocess.run(["git", "clone", "--quiet", str(bare(line)), str(clone)], check=True)
    (clone / "NOTES.md").write_text("words\n")
    makers.commit(clone, "Say something")
    git.run(clone, "push", "--quiet", "origin", "main")


def test_attempt_made_again_is_the_same_commit(line) -> None:
    found = []
    for _ in range(2):
        clone = clones.begin(line, "birds")
        (clone.root / "data/cards/birds.yaml").write_text("name: birds\n")
        found.append(remotes.offer(clone, "refs/otmf/attempts/{}"))
    assert found[0] == found[1]
    assert found[0] in git.run(bare(line), "for-each-ref", "refs/otmf/attempts")
    assert git.run(clone.root, "log", "--format=%s", "-1").strip() == "Name the DVC remote", (
        "no commit in the clone itself"
    )
    remotes.withdraw(clone, f"refs/otmf/attempts/{found[0]}")
    assert git.run(bare(line), "for-each-ref", "refs/otmf").strip() == ""


def test_results_of_an_agent_are_taken_over_and_nothing_else(line) -> None:
    clone, other = clones.begin(line, "birds"), clones.begin(line, "agent")
    (other.root / "dvc.lock").write_text("schema: '2.0'\n")
    (other.root / "data/results/merges").mkdir(parents=True)
    (other.root / "data/results/merges/s01.json").write_text("{}\n")
    remotes.offer(other, "refs/otmf/results/good")
    remotes.take_over(clone, "refs/otmf/results/good", ("dvc.lock", "data/results/"))
    assert (clone.root / "data/results/merges/s01.json").read_text() == "{}\n"
    (other.root / "dvc.yaml").write_text("stages: {}\n")
    remotes.offer(other, "refs/otmf/results/bad")
    before = (clone.root / "dvc.yaml").read_text()
    with pytest.raises(workspace.WorkspaceError, match=r"received dvc\.yaml; do not trust that agent"):
        remotes.take_over(clone, "refs/otmf/results/bad", ("dvc.lock", "data/results/"))
    assert (clone.root / "dvc.yaml").read_text() == before


def test_line_takes_over_what_others_pushed(line, tmp_path) -> None:
    colleague(line, tmp_path)
    remotes.synchronise(line)
    assert (line.root / "NOTES.md").exists()
    assert git.run(line.root, "status", "--porcelain", "--untracked-files=no") == ""


def test_version_is_not_taken_where_somebody_pushed_in_between(line, tmp_path) -> None:
    clone = clones.begin(line, "birds")
    (clone.root / "new").write_text("x")
    workspace.commit(clone.root, "Onboard birds")
    colleague(line, tmp_path)
    before = git.run(line.root, "rev-parse", "HEAD")
    with pytest.raises(workspace.WorkspaceError, match="expected the git remote to take the new version"):
        landing.land(line, clone, tag="model/v1")
    assert git.run(line.root, "rev-parse", "HEAD") == before
    assert git.run(line.root, "tag").strip() == ""
    assert git.run(bare(line), "tag").strip() == ""


def test_version_is_in_the_remote_with_its_tag_once_the_line_stands_at_it(line) -> None:
    clone = clones.begin(line, "birds")
    (clone.root / "new").write_text("x")
    workspace.commit(clone.root, "Onboard birds")
    assert landing.land(line, clone, tag="model/v1") == ""
    head = git.run(line.root, "rev-parse", "HEAD")
    assert git.run(bare(line), "rev-parse", "main") == head
    assert git.run(bare(line), "rev-parse", "model/v1") == head


def test_two_histories_are_left_to_a_person(line, tmp_path) -> None:
    colleague(line, tmp_path)
    (line.root / "mine").write_text("x")
    makers.commit(line.root, "Mine")
    with pytest.raises(workspace.WorkspaceError, match="received 1 commits only here and 1 only there"):
        remotes.synchronise(line)


def test_inputs_of_a_stage_are_those_of_dvc_yaml(line) -> None:
    assert commands.inputs(line.root, "merge-step@s02", "birds", "s01") == [
        "data/raw/birds", "data/models/pretrained", "data/models/task_vectors/birds", "data/models/merged/s01"
    ]  # fmt: skip
    assert commands.inputs(line.root, "pretrained", "", "") == ["data/raw/pretrained"]
    assert "data/results/steps/s01.json" not in commands.inputs(line.root, "evaluate@s02", "birds", "s01"), (
        "git's, not DVC's"
    )


def test_remotes_are_seen(line, tmp_path) -> None:
    bare_line = layout.Layout(makers.line(tmp_path / "alone"))
    assert (remotes.has_remote(line), commands.has_remote(line.root)) == (True, True)
    assert (remotes.has_remote(bare_line), commands.has_remote(bare_line.root)) == (False, False)
