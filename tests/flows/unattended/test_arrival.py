"""What a submission leaves behind once it is dealt with: nothing, however its fine-tuning ahead of its turn ended."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.line import workspace
from flows.services import agents, recovery
from flows.unattended import arrival, inbox
from otmf.data import cards
from otmf.runtime import layout
from tests import makers


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    root = tmp_path / "line"
    (root / "data/inbox").mkdir(parents=True)
    return layout.Layout(root)


def left(line: layout.Layout, name: str) -> Path:
    """The clone of an attempt that died, with a lock that nobody holds."""
    clone = line.private / "attempts" / name
    (clone / "data").mkdir(parents=True)
    (line.private / name).touch()
    return clone


@pytest.mark.parametrize("fails", [False, True])
def test_clone_of_a_fine_tuning_that_died_goes_with_its_submission(line, tmp_path, monkeypatch, fails) -> None:
    def taken_up(*_: object) -> tuple[str, SimpleNamespace]:
        if fails:
            raise ValueError("expected another card")
        return "s01", SimpleNamespace(step="s01")

    monkeypatch.setattr(arrival, "_taken_up", taken_up)
    name = inbox.deliver(line, makers.card(tmp_path / "card", "ant"))
    inbox.accept(line, name)
    mine, other = left(line, f"ahead-{name}"), left(line, "ahead-zebra-0123456789abcdef")
    if fails:
        with pytest.raises(ValueError, match="expected another card"):
            arrival._onboard(line, name)
    else:
        arrival._onboard(line, name)
    assert not mine.exists()
    assert not (line.private / f"ahead-{name}").exists()
    assert other.exists(), "its submission is not dealt with"


def test_submission_that_keeps_its_place_keeps_its_clone(line, tmp_path, monkeypatch) -> None:
    def away(*_: object) -> None:
        raise workspace.WorkspaceError("expected a tracking store")

    monkeypatch.setattr(arrival, "_taken_up", away)
    name = inbox.deliver(line, makers.card(tmp_path / "card", "ant"))
    inbox.accept(line, name)
    mine = left(line, f"ahead-{name}")
    with pytest.raises(workspace.WorkspaceError):
        arrival._onboard(line, name)
    assert mine.exists()


def test_look_at_the_inbox_removes_what_a_run_left_after_its_submission(line, tmp_path) -> None:
    waiting = inbox.deliver(line, makers.card(tmp_path / "card", "ant"))
    inbox.accept(line, waiting)
    gone, held, kept = (
        left(line, "ahead-zebra-0123456789abcdef"),
        left(line, "ahead-mole-0123456789abcdef"),
        left(line, f"ahead-{waiting}"),
    )
    with recovery.free(line, held.name):
        arrival._tidy(line)
    assert not gone.exists()
    assert held.exists()
    assert kept.exists()


def test_agent_removes_the_clones_of_its_dead_alone(line) -> None:
    dead, living = left(line, "agent-0123456789ab-finetune-ant"), left(line, "agent-0123456789ab-merge-step-s01")
    with recovery.free(line, living.name):
        agents._tidy(line)
    assert not dead.exists()
    assert living.exists()


def test_later_submission_that_comes_first_trains_before_it_deals_with_the_earlier(line, tmp_path, monkeypatch) -> None:
    done = []
    monkeypatch.setattr(arrival.workspace, "open_line", lambda root: layout.Layout(root))
    monkeypatch.setattr(arrival, "_ahead", lambda _, name: done.append(("ahead", name)))
    monkeypatch.setattr(arrival, "_deal", lambda _, name: done.append(("deal", name)))
    first, second = (
        inbox.deliver(line, makers.card(tmp_path / name, name, seed=seed)) for seed, name in enumerate(("ant", "bee"))
    )
    for name in (first, second):
        inbox.accept(line, name)
    arrival.arrive.fn(str(line.root), second)
    arrival.arrive.fn(str(line.root), first)
    assert done == [("ahead", second), ("deal", second), ("deal", first)]


def test_failure_that_nobody_foresaw_is_tried_again_then_put_aside_with_its_trace_and_stops_nothing(
    line, tmp_path, monkeypatch
) -> None:
    def taken_up(_: layout.Layout, name: str) -> tuple[str, SimpleNamespace]:
        if name.startswith("ant"):
            return {}["no such thing"]
        return "s01", SimpleNamespace(step="s01")

    monkeypatch.setattr(arrival, "_taken_up", taken_up)
    monkeypatch.setattr(arrival, "get_run_logger", lambda: SimpleNamespace(error=said.append, info=said.append))
    monkeypatch.setattr(inbox, "FIRST_PAUSE", timedelta(0))
    said: list[str] = []
    odd, sound = (inbox.deliver(line, makers.card(tmp_path / name, name)) for name in ("ant", "bee"))
    for name in (odd, sound):
        inbox.accept(line, name)
    arrival._deal(line, sound)
    assert inbox.outcome(line, sound) == ("arrived", "onboarded as s01")
    assert any("received KeyError: no such thing" in text for text in said)
    for _ in range(inbox.TRIES - 1):
        with pytest.raises(arrival.Unforeseen, match="received KeyError: no such thing"):
            arrival._deal(line, odd)
    kind, reason = inbox.outcome(line, odd)
    assert (kind, inbox.waiting(line)) == ("refused", [])
    assert "its trace is in trace.txt" in reason
    folder = line.private / "refused" / odd
    assert 'return {}["no such thing"]' in (folder / "trace.txt").read_text()
    assert (folder / "card.yaml").exists()


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("colour: red\n", "card card.yaml: "),
        ("name: [\n", "expected YAML in card.yaml; received text that does not parse"),
    ],
)
def test_reason_names_files_as_they_were_submitted(tmp_path, card, said) -> None:
    found = layout.Layout(makers.line(tmp_path / "line"))
    folder = inbox.inbox(found) / "odd"
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(card)
    inbox.accept(found, "odd")
    with pytest.raises(cards.CardError):
        arrival._dealt_with(found, "odd")
    kind, reason = inbox.outcome(found, "odd")
    assert (kind, reason.startswith(said), ".otmf" in reason) == ("refused", True, False), reason


def test_folder_that_cannot_be_accepted_stops_no_other_one(line, tmp_path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(arrival, "get_run_logger", lambda: SimpleNamespace(warning=said.append))
    (inbox.inbox(line) / "a-link").symlink_to(tmp_path)
    name = inbox.deliver(line, makers.card(tmp_path / "card", "bee"))
    assert [arrival._accepted(line, one) for one in ("a-link", name)] == [False, True]
    assert "received 'a-link', which is a link" in said[0]
