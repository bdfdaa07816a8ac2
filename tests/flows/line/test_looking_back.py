"""Looking at an earlier version with git changes nothing of what serves, of what is decided, of what the registry is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.changes import decisions
from flows.cli import main
from flows.line import workspace
from flows.programs import git
from flows.services import tracking
from flows.serving import serve
from flows.studies import status
from flows.versions import keyring, registry
from otmf.runtime import layout
from tests import makers
from tests.flows.changes.test_decisions import accept, aliases


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A line with two versions, to be copied."""
    line = workspace.open_line(makers.line(tmp_path_factory.mktemp("made") / "line"))
    for task in ("one", "two"):
        accept(line, task)
    return line.root


@pytest.fixture
def line(two, tmp_path) -> layout.Layout:
    shutil.copytree(two, tmp_path / "line", symlinks=True)
    found = workspace.open_line(tmp_path / "line")
    registry.follow(tracking.prepare(found, "small"), found, "line")
    git.run(found.root, "checkout", "--quiet", "model/v1")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollback", "--reason", "x"],
        ["promote", "three", "--reason", "x"],
        ["keys", "new", "--reason", "x"],
        ["retrain"],
        ["retire", "one", "--reason", "x"],
        ["predict", "--task", "one", "x.png"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_that_changes_or_serves_is_refused_before_anything_starts(line, arguments) -> None:
    before = state(line)
    done = CliRunner().invoke(main.app, [*arguments, "--line", str(line.root)])
    assert done.exit_code == 1
    way = f"received a detached HEAD at model/v1; go back with `git -C {line.root} checkout main`"
    assert way in done.stderr, done.stderr
    assert state(line) == before
    assert aliases(line) == {"champion": "2", "previous": "1"}
    assert not (line.private / "prefect").exists()


def test_card_is_refused_as_well(line, tmp_path) -> None:
    before = state(line)
    card = makers.card(tmp_path / "cards", "three")
    done = CliRunner().invoke(main.app, ["onboard", str(card), "--line", str(line.root)])
    assert "received a detached HEAD at model/v1" in done.stderr
    assert state(line) == before


def test_what_serves_stays_as_it_was(line) -> None:
    for work in (serve.point, decisions.serving):
        with pytest.raises(workspace.WorkspaceError, match="received a detached HEAD at model/v1"):
            work(line)


def test_registry_is_not_told_of_what_is_looked_at(line) -> None:
    with pytest.raises(workspace.WorkspaceError, match="received a detached HEAD"):
        registry.follow(tracking.prepare(line, "small"), line, "line")
    assert aliases(line) == {"champion": "2", "previous": "1"}


def test_status_says_so(line) -> None:
    (first,) = status._away(line)
    assert first.startswith("HEAD is not on main but at a detached HEAD at model/v1")
    assert f"go back with `git -C {line.root} checkout main`" in first


def test_branch_without_a_commit_is_told_as_any_other(line) -> None:
    git.run(line.root, "checkout", "--quiet", "--orphan", "lost")
    done = CliRunner().invoke(main.app, ["status", "--line", str(line.root)])
    assert (done.exit_code, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert done.stdout.startswith("HEAD is not on main but at branch lost: ")


def test_back_on_the_branch_decisions_go_on(line) -> None:
    git.run(line.root, "checkout", "--quiet", "main")
    assert status._away(line) == []
    decisions.roll_back(line, None, by="ada", reason="x", log=print)
    assert aliases(line) == {"champion": "1", "previous": "2"}
    assert keyring.new(line, by="ada", reason="x", log=print).keyid


def test_branch_moved_back_by_hand_is_refused_and_the_tag_stays(line) -> None:
    git.run(line.root, "checkout", "--quiet", "main")
    tag = git.run(line.root, "rev-parse", "model/v2")
    git.run(line.root, "reset", "--quiet", "--hard", "model/v1")
    done = CliRunner().invoke(main.app, ["rollback", "v1", "--reason", "x", "--line", str(line.root)])
    assert "received tag model/v2, whose commit is not on it" in done.stderr
    assert git.run(line.root, "rev-parse", "model/v2") == tag


def state(line: layout.Layout) -> list[str]:
    asked = (("rev-parse", "HEAD"), ("rev-parse", "main"), ("show-ref",), ("status", "--porcelain"))
    return [git.run(line.root, *arguments) for arguments in asked]
