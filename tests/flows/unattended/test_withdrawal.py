"""Submissions taken out of the order by a person: put aside with the reason, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from typer.testing import CliRunner

from flows.cli import main
from flows.line import workspace
from flows.studies import status
from flows.unattended import arrival, inbox, withdrawal
from otmf.runtime import layout
from tests import makers


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    return layout.Layout(makers.line(tmp_path / "line"))


def delivered(line: layout.Layout, folder: Path, name: str, *, accepted: bool = True) -> str:
    submission = inbox.deliver(line, makers.card(folder / name, name))
    if accepted:
        inbox.accept(line, submission)
    return submission


@pytest.mark.parametrize("accepted", [True, False])
def test_withdrawn_submission_is_refused_with_who_and_why_and_the_others_wait(line, tmp_path, accepted) -> None:
    first, second = delivered(line, tmp_path, "ant", accepted=accepted), delivered(line, tmp_path, "bee")
    done = CliRunner().invoke(
        main.app, ["withdraw", "ant", "--reason", "wrong [labels]", "--by", "ada", "--line", str(line.root)]
    )
    assert (done.exit_code, done.stdout) == (
        0,
        f"{first} is withdrawn: it is not onboarded unless somebody submits it again\n",
    )
    assert inbox.outcome(line, first) == ("refused", "withdrawn by ada: wrong [labels]")
    assert [name for name, _ in inbox.waiting(line)] == [second]
    assert any("withdrawn by ada: wrong [labels]" in said for said in status._queue(line))


def test_withdrawn_submission_can_be_submitted_again(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    withdrawal.withdraw(line, name, by="ada", reason="x")
    assert delivered(line, tmp_path, "ant") == name
    assert inbox.outcome(line, name) is None
    assert [waits for waits, _ in inbox.waiting(line)] == [name]


def test_submission_that_is_being_onboarded_is_not_withdrawn(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    with (
        workspace.locked(line, name=inbox.turn(name)),
        pytest.raises(workspace.WorkspaceError, match=f"received {name}, which is being fine-tuned or merged; wait"),
    ):
        withdrawal.withdraw(line, name, by="ada", reason="x")
    assert inbox.place(line, name) is not None


@pytest.mark.parametrize("asked", ["bee", "../ant", "ant-0", ""])
def test_what_does_not_wait_is_refused_with_what_does(line, tmp_path, asked) -> None:
    name = delivered(line, tmp_path, "ant")
    with pytest.raises(workspace.WorkspaceError, match=rf"expected a submission that waits \({name}\); received"):
        withdrawal.withdraw(line, asked, by="ada", reason="x")


def test_run_that_comes_to_a_withdrawn_submission_says_so_and_goes_on(line, tmp_path, monkeypatch) -> None:
    """The run had listed it before it was withdrawn."""
    first, second = delivered(line, tmp_path, "ant"), delivered(line, tmp_path, "bee")
    seen = []

    def taken_up(_: layout.Layout, name: str) -> tuple[str, None]:
        seen.append(name)
        return "s01", None

    waiting = inbox.waiting(line)
    withdrawal.withdraw(line, first, by="ada", reason="x")
    monkeypatch.setattr(arrival, "_taken_up", taken_up)
    monkeypatch.setattr(inbox, "waiting", lambda _: waiting)
    with prefect_test_harness():
        flow(lambda: arrival._deal(line, second), name="deal", validate_parameters=False)()
    assert seen == [second]
    assert inbox.outcome(line, second) == ("arrived", "onboarded as s01")


def test_rollback_names_what_will_serve_in_its_place(line, tmp_path) -> None:
    assert status.overtaking(line) == []
    name = delivered(line, tmp_path, "ant")
    (said,) = status.overtaking(line)
    assert said.startswith(
        f"Still to come: 1 waiting ({name}). What the gate accepts of it serves in place of this version; `otmf withdraw"
    )
