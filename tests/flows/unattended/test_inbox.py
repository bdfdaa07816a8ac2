from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.line import workspace
from flows.unattended import inbox
from otmf.data import cards, datasets, gathering
from otmf.provenance import digests
from otmf.runtime import layout
from tests import makers, torchvision_raw


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    root = tmp_path / "line"
    (root / "data/inbox").mkdir(parents=True)
    return layout.Layout(root)


def delivered(line: layout.Layout, tmp_path: Path, name: str, *, seed: int = 1) -> str:
    return inbox.deliver(line, makers.card(tmp_path / f"{name}-{seed}", name, seed=seed))


def test_accepted_in_the_order_they_came_each_once(line, tmp_path) -> None:
    names = [delivered(line, tmp_path, name) for name in ("zebra", "ant", "mole")]
    assert [inbox.accept(line, name) for name in [*names, *names]] == [True] * 6
    assert [name for name, _ in inbox.waiting(line)] == names
    assert [place.number for _, place in inbox.waiting(line)] == [1, 2, 3]
    assert not any(inbox.inbox(line).iterdir())


def test_delivered_again_while_it_waits_keeps_one_place(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    assert delivered(line, tmp_path, "ant") == name
    assert not any(inbox.inbox(line).iterdir())


def test_other_content_under_a_name_that_waits_stays_in_the_inbox(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    shutil.copytree(line.private / "accepted" / name / "submission", inbox.inbox(line) / name)
    assert inbox.accept(line, name)
    assert not (inbox.inbox(line) / name).exists(), "the same content"
    (inbox.inbox(line) / name).mkdir()
    (inbox.inbox(line) / name / "card.yaml").write_text("name: other\n")
    assert inbox.accept(line, name)
    assert (inbox.inbox(line) / name).exists()


def test_what_is_accepted_no_longer_changes_with_its_source(line, tmp_path) -> None:
    folder = inbox.inbox(line) / "by-hand"
    makers.card(folder, "ant")
    inbox.accept(line, "by-hand")
    folder.mkdir()
    (folder / "ant.yaml").write_text("name: other\n")
    assert cards.read(inbox.card(line, "by-hand")).name == "ant"


@pytest.mark.parametrize("step", ["begun", "moved"])
def test_process_that_died_while_accepting_loses_nothing(line, tmp_path, step) -> None:
    """As it lies after the death: the place written, the content still in the inbox or moved already."""
    first, second = delivered(line, tmp_path, "ant"), delivered(line, tmp_path, "mole")
    now = datetime.now(UTC)
    part = line.private / "accepted" / f".{first}"
    part.mkdir(parents=True)
    (part / "place.json").write_text(inbox.Place(number=1, at=now, due=now).model_dump_json())
    if step == "moved":
        (inbox.inbox(line) / first).rename(part / "submission")
    assert inbox.accept(line, second)
    assert inbox.accept(line, first)
    assert sorted(name for name, _ in inbox.waiting(line)) == sorted([first, second])
    assert sorted(place.number for _, place in inbox.waiting(line)) == [1, 2]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A b", "$(touch x)", "a" * 300, None, 7, {"a": 1}, ".hidden"])
def test_name_that_is_none_is_refused(name) -> None:
    with pytest.raises(workspace.WorkspaceError, match="expected the name of a folder in the inbox"):
        inbox.check_name(name)


def test_link_in_place_of_a_folder_is_refused(line, tmp_path) -> None:
    (inbox.inbox(line) / "linked").symlink_to(tmp_path)
    with pytest.raises(workspace.WorkspaceError, match="which is a link"):
        inbox.accept(line, "linked")


def test_postponed_with_growing_pauses_and_not_for_ever(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    pauses = []
    for _ in range(inbox.TRIES - 1):
        assert inbox.postpone(line, name, "no space")
        pauses.append(inbox.place(line, name).due - datetime.now(UTC))
    assert all(later > 1.9 * earlier for earlier, later in itertools.pairwise(pauses))
    assert not inbox.postpone(line, name, "no space")
    assert inbox.place(line, name).said == "no space"


def test_outcome_is_the_latest_and_none_while_it_waits(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    assert inbox.outcome(line, name) is None
    inbox.put_aside(line, name, "refused", "too few images")
    assert inbox.outcome(line, name) == ("refused", "too few images")
    assert (line.private / "refused" / name / "images.npz").exists(), "its data are kept"
    time.sleep(0.02)
    assert delivered(line, tmp_path, "ant") == name
    assert inbox.accept(line, name)
    inbox.put_aside(line, name, "arrived", "onboarded as s01")
    assert inbox.outcome(line, name) == ("arrived", "onboarded as s01")
    assert not inbox.accept(line, name)


def test_folder_is_settled_once_nothing_changes_in_it(line) -> None:
    card = makers.card(inbox.inbox(line) / "by-hand", "ant")
    assert inbox.settled(line) == []
    old = time.time() - 60
    for path in [card.parent, *card.parent.iterdir()]:
        os.utime(path, (old, old))
    assert inbox.settled(line) == ["by-hand"]


def test_card_that_leads_out_of_its_folder_is_refused(line) -> None:
    folder = inbox.inbox(line) / "out"
    folder.mkdir()
    makers.write_yaml(folder / "card.yaml", {"name": "out", "source": "npz", "path": "../../../params.yaml"})
    inbox.accept(line, "out")
    with pytest.raises(cards.CardError, match="which leads outside"):
        inbox.card(line, "out")


@pytest.mark.parametrize("door", ["delivered", "watched"])
def test_table_and_checkpoint_in_a_folder_arrive_as_they_were(line, tmp_path, door) -> None:
    weights = {f"layer.{number}.weight": np.full((4, 4), number, np.float32) for number in range(4)}
    card = makers.text_card(tmp_path / "cards", checkpoint={"path": "expert", "missing": ["pooler.*"]})
    (card.parent / "expert").mkdir()
    for number, (key, value) in enumerate(weights.items(), start=1):
        save_file({key: value}, card.parent / f"expert/model-{number:05d}-of-00004.safetensors")
    index = {
        "weight_map": {key: f"model-{number:05d}-of-00004.safetensors" for number, key in enumerate(weights, start=1)}
    }
    (card.parent / "expert/model.safetensors.index.json").write_text(json.dumps(index))
    name = "by-hand"
    if door == "watched":
        shutil.copytree(card.parent, inbox.inbox(line) / name)
    else:
        name = inbox.deliver(line, card)
    assert inbox.accept(line, name)
    accepted = inbox.card(line, name)
    gathering.gather(cards.read(accepted), accepted.parent, tmp_path / "arrived")
    gathering.gather(cards.read(card), card.parent, tmp_path / "meant")
    assert digests.digest(tmp_path / "arrived") == digests.digest(tmp_path / "meant")
    assert len(list((tmp_path / "arrived/checkpoint").iterdir())) == 5


def test_data_that_torchvision_reads_is_brought_along(tmp_path) -> None:
    line = layout.Layout(makers.line(tmp_path / "line"))
    torchvision_raw.WRITERS["DTD"](tmp_path / "sets", makers.arrays(seed=1, train=9, test=6))
    card = {"name": "textures", "source": "torchvision", "dataset": "DTD", "path": "sets", "classes": ["a", "b/c", "d"]}
    makers.write_yaml(tmp_path / "card.yaml", card)
    name = inbox.deliver(line, tmp_path / "card.yaml")
    inbox.accept(line, name)
    found = cards.read(inbox.card(line, name))
    assert (found.source, found.folders, found.classes) == ("folder", ("0", "1", "2"), ("a", "b/c", "d"))
    gathering.gather(found, inbox.card(line, name).parent, tmp_path / "gathered")
    loaded = datasets.load(tmp_path / "gathered")
    assert (loaded.classes, len(loaded.train), len(loaded.test)) == (("a", "b/c", "d"), 9, 6)
    assert not any((line.private / "fetched").iterdir())


def test_fifo_is_no_file(line) -> None:
    folder = inbox.inbox(line) / "pipe"
    folder.mkdir()
    os.mkfifo(folder / "a.npz")
    makers.write_yaml(folder / "card.yaml", {"name": "a", "source": "npz", "path": "a.npz", "classes": ["x", "y"]})
    inbox.accept(line, "pipe")
    with pytest.raises(cards.CardError, match="received a.npz, which is none"):
        inbox.card(line, "pipe")


def test_name_that_the_submitter_keeps_of_a_file_changes_nothing(line, tmp_path) -> None:
    makers.card(tmp_path / "card", "ant")
    folder = inbox.inbox(line) / "ant"
    folder.mkdir()
    for name in ("ant.yaml", "ant.npz"):
        os.link(tmp_path / "card" / name, folder / name)
    inbox.accept(line, "ant")
    with (tmp_path / "card/ant.yaml").open("a") as stream:
        stream.write("owner: somebody else\n")
    assert cards.read(inbox.card(line, "ant")).owner == ""


def test_what_was_refused_is_told_until_it_arrives(line, tmp_path) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    inbox.put_aside(line, name, "refused", "expected another card")
    assert inbox.refused(line) == [(name, "expected another card")]
    delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    assert inbox.refused(line) == []
    (inbox.inbox(line) / "bare.yaml").write_text("name: bare")
    assert inbox.alone(line) == ["bare.yaml"]


def test_submission_that_holds_what_cannot_be_read_is_put_aside_whole(line, tmp_path) -> None:
    folder = inbox.inbox(line) / "odd"
    (folder / "trace.txt").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (tmp_path / "mine").write_text("mine")
    (folder / "reason.txt").symlink_to(tmp_path / "mine")
    inbox.accept(line, "odd")
    inbox.put_aside(line, "odd", "refused", "expected files", trace="a trace")
    aside = line.private / "refused/odd"
    assert sorted(path.name for path in aside.iterdir()) == [
        "pipe", "reason.txt", "submitted-reason.txt", "submitted-trace.txt", "trace.txt"
    ]  # fmt: skip
    assert (tmp_path / "mine").read_text() == "mine", "nothing is written through a link of theirs"
    assert inbox.outcome(line, "odd") == ("refused", "expected files")


def test_death_while_a_submission_is_put_aside_loses_nothing(line, tmp_path, monkeypatch) -> None:
    name = delivered(line, tmp_path, "ant")
    inbox.accept(line, name)
    with monkeypatch.context() as patched:
        patched.setattr(inbox, "_note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            inbox.put_aside(line, name, "refused", "expected another card")
    assert cards.read(inbox.card(line, name)).name == "ant"
    inbox.put_aside(line, name, "refused", "expected another card")
    assert (line.private / "refused" / name / "card.yaml").exists()


def test_damaged_note_of_a_place_keeps_the_submission_and_the_others(line, tmp_path) -> None:
    names = [delivered(line, tmp_path, name) for name in ("ant", "bee")]
    for name in names:
        inbox.accept(line, name)
    (line.private / "accepted" / names[0] / "place.json").write_text("{")
    assert [name for name, _ in inbox.waiting(line)] == names[::-1]
    third = delivered(line, tmp_path, "cat")
    inbox.accept(line, third)
    assert [name for name, _ in inbox.waiting(line)] == [names[1], third, names[0]]


def test_folder_under_a_name_that_is_none_is_said(line) -> None:
    (inbox.inbox(line) / "My Birds").mkdir()
    assert inbox.unnamed(line) == ["My Birds"]
    assert inbox.settled(line) == []
