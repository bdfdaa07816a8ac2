"""The line's branch: where HEAD has to be, and a move that is whole or undone, whatever cuts it off."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.line import branch, clones, workspace
from flows.programs import git, process
from otmf.runtime import layout
from tests import makers


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return makers.line(tmp_path_factory.mktemp("made") / "line")


@pytest.fixture
def line(made, tmp_path) -> layout.Layout:
    shutil.copytree(made, tmp_path / "line", symlinks=True)
    return layout.Layout(tmp_path / "line")


def ahead(line: layout.Layout) -> str:
    """A commit in the line's objects that changes a file, adds one and takes one away, on no branch."""
    clone = clones.begin(line, "ahead", outputs=False)
    (clone.root / "prefect.yaml").write_text("name: other\n")
    (clone.root / "data/results").mkdir(exist_ok=True)
    (clone.root / "data/results/new.json").write_text("{}\n")
    (clone.root / "data/backbones" / next((clone.root / "data/backbones").iterdir()).name).unlink()
    workspace.commit(clone.root, "Ahead")
    git.run(line.root, "fetch", "--quiet", str(clone.root), "HEAD")
    return git.run(clone.root, "rev-parse", "HEAD").strip()


def state(line: layout.Layout) -> tuple[str, ...]:
    asked = (("rev-parse", "main"), ("symbolic-ref", "HEAD"), ("status", "--porcelain"), ("tag", "--list"))
    return tuple(git.run(line.root, *arguments) for arguments in asked)


def test_branch_files_and_tag_move_together(line) -> None:
    commit = ahead(line)
    branch.move(line, commit, tag="model/v1")
    assert state(line) == (f"{commit}\n", "refs/heads/main\n", "", "model/v1\n")
    assert (line.root / "data/results/new.json").read_text() == "{}\n"
    assert not branch.cut_off(line)


@pytest.mark.parametrize("lock", ["index.lock", "refs/heads/main.lock", "HEAD.lock", "packed-refs.lock"])
def test_lock_that_a_dead_git_left_is_removed(line, lock) -> None:
    commit = ahead(line)
    path = line.root / ".git" / lock
    path.touch()
    os.utime(path, (time.time() - 60, time.time() - 60))
    branch.move(line, commit)
    assert branch.head(line.root) == commit
    assert not path.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says who has a file open")
def test_lock_that_somebody_holds_is_named_and_the_line_is_as_it_was(line, monkeypatch) -> None:
    monkeypatch.setattr(branch, "_YOUNG", 0.2)
    commit, before = ahead(line), state(line)
    path = line.root / ".git/refs/heads/main.lock"
    holder = subprocess.Popen([sys.executable, "-c", f"f = open({str(path)!r}, 'w'); print(1, flush=True); input()"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert holder.stdout.readline() == b"1\n"
        os.utime(path, (time.time() - 60, time.time() - 60))
        with pytest.raises(
            workspace.WorkspaceError, match=r"received the lock .*main\.lock; .* delete it with `rm .*main\.lock`"
        ):
            branch.move(line, commit, tag="model/v1")
    finally:
        holder.communicate(b"\n")
    path.unlink()
    assert state(line) == before


def test_tag_that_exists_is_never_moved(line) -> None:
    git.run(line.root, "tag", "model/v1")
    commit, before = ahead(line), state(line)
    with pytest.raises(process.ProcessError, match="reference already exists"):
        branch.move(line, commit, tag="model/v1")
    assert state(line) == before
    assert not branch.cut_off(line)


def test_file_of_yours_in_the_way_stops_the_move(line) -> None:
    commit = ahead(line)
    (line.root / "data/results").mkdir(exist_ok=True)
    (line.root / "data/results/new.json").write_text("mine")
    before = state(line)
    with pytest.raises(process.ProcessError, match=r"data/results/new\.json"):
        branch.move(line, commit, tag="model/v1")
    assert state(line) == before
    assert (line.root / "data/results/new.json").read_text() == "mine"


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("how", [KeyboardInterrupt, "killed"])
def test_move_cut_off_at_any_command_of_git_is_whole_or_undone(line, monkeypatch, call, how) -> None:
    """An interrupt is undone at once. After a kill, which undoes nothing, whoever comes next completes or takes back."""
    commit, before, run, calls = ahead(line), state(line), git.run, []

    class Killed(BaseException):
        pass

    def failing(root: Path, *arguments: str, **options: str) -> str:
        calls.append(arguments)
        if len(calls) == call + 4:
            if "read-tree" in arguments and "--dry-run" not in arguments:  # some of the files are there already
                (root / "prefect.yaml").write_text("name: oth")
            raise Killed if how == "killed" else how
        if len(calls) > call + 4 and how == "killed":
            raise Killed  # the dead do nothing more
        return run(root, *arguments, **options)

    monkeypatch.setattr(git, "run", failing)
    with contextlib.suppress(Killed, KeyboardInterrupt):
        branch.move(line, commit, tag="model/v1")
    monkeypatch.setattr(git, "run", run)
    said = branch.complete(line)
    after = (f"{commit}\n", "refs/heads/main\n", "", "model/v1\n")
    assert state(line) in (before, after)
    if how is KeyboardInterrupt and state(line) == before:
        assert said == ""
    assert not branch.cut_off(line)


@pytest.fixture
def cut_off(line, monkeypatch) -> str:
    """The commit of a move that was cut off once the branch had it, and before the files had."""
    commit, run = ahead(line), git.run

    def killed(root: Path, *arguments: str, **options: str) -> str:
        if arguments[:3] == ("read-tree", "-m", "-u") and "--dry-run" not in arguments:
            raise SystemExit
        return run(root, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(git, "run", killed)
        patched.setattr(branch, "_take_back", lambda *_: None)
        with pytest.raises(SystemExit):
            branch.move(line, commit, tag="model/v1")
    return commit


def test_file_edited_after_a_move_was_cut_off_is_not_lost(line, cut_off) -> None:
    (line.root / "prefect.yaml").write_text("name: mine\n")
    with pytest.raises(
        workspace.WorkspaceError, match=r"expected prefect\.yaml as of .*; received another content; keep a copy"
    ):
        branch.complete(line)
    assert (line.root / "prefect.yaml").read_text() == "name: mine\n"


def test_commit_made_after_a_move_was_cut_off_stays(line, cut_off) -> None:
    git.run(line.root, "reset", "--quiet", "--hard")
    (line.root / "NOTE").write_text("mine\n")
    git.run(line.root, "add", "NOTE")
    git.run(line.root, "commit", "--quiet", "-m", "Note")
    before = state(line)
    assert branch.complete(line) == "a change that was cut off while it landed (model/v1) was completed"
    assert state(line) == before
    assert before[2:] == ("", "model/v1\n")
    assert (line.root / "NOTE").read_text() == "mine\n"


def test_commit_that_undoes_a_move_that_was_cut_off_is_named_with_what_mends_it(line, cut_off) -> None:
    git.run(line.root, "commit", "--quiet", "--allow-empty", "-m", "Note")  # the index is still the one from before
    with pytest.raises(workspace.WorkspaceError, match="from a commit made since; call `git restore") as caught:
        branch.complete(line)
    remedy = str(caught.value).split("`")[1]
    subprocess.run(["bash", "-c", remedy], cwd=line.root, check=True)
    git.run(line.root, "commit", "--quiet", "-m", "Mend")
    assert branch.complete(line) == "a change that was cut off while it landed (model/v1) was completed"
    assert (line.root / "data/results/new.json").is_file()
    assert state(line)[2:] == ("", "model/v1\n")


def test_commit_made_after_a_move_that_never_landed_stays(line, cut_off) -> None:
    git.run(line.root, "reset", "--quiet", "--hard", "HEAD~1")
    git.run(line.root, "commit", "--quiet", "--allow-empty", "-m", "Note")
    before = state(line)
    assert "was taken back" in branch.complete(line)
    assert state(line) == (*before[:3], "")
    assert not branch.cut_off(line)


@pytest.mark.parametrize(
    ("away", "said"), [(["checkout", "--detach"], "a detached HEAD at"), (["checkout", "-b", "try"], "branch try")]
)
def test_head_elsewhere_is_refused_with_the_way_back(line, away, said) -> None:
    branch.require(line.root)
    git.run(line.root, *away)
    with pytest.raises(
        workspace.WorkspaceError,
        match=f"on the line's branch main; received {said}.*; go back with `git -C .* checkout main`",
    ):
        branch.require(line.root)


def test_shallow_clone_is_refused_with_what_fetches_the_rest(line, tmp_path) -> None:
    for name in ("a", "b"):
        (line.root / "NOTE").write_text(name)
        git.run(line.root, "add", "NOTE")
        git.run(line.root, "commit", "--quiet", "-m", name)
    git.run(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{line.root}", "shallow")
    with pytest.raises(workspace.WorkspaceError, match="received a shallow clone; .*`git fetch --unshallow`"):
        branch.require_versions(tmp_path / "shallow")


def test_branch_that_lacks_a_version_is_refused(line) -> None:
    git.run(line.root, "tag", "model/v1")
    branch.require_versions(line.root)
    branch.move(line, ahead(line), tag="model/v2")
    git.run(line.root, "reset", "--quiet", "--hard", "model/v1")
    with pytest.raises(
        workspace.WorkspaceError, match=r"received tag model/v2, whose commit is not on it; bring the branch back"
    ):
        branch.require_versions(line.root)
