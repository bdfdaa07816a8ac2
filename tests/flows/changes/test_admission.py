"""Admission: a card that cannot be used changes nothing in the line; a good one is prepared in a clone alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.changes import admission
from flows.cli import main
from flows.line import workspace
from flows.programs import git
from otmf import settings
from otmf.data import cards
from tests import makers


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return makers.line(tmp_path_factory.mktemp("lines") / "line")


def state(root: Path) -> dict[str, bytes]:
    """Everything of a line that must not change: its commit, its tracked files, what git sees."""
    tracked = git.run(root, "ls-files").split()
    return {
        "commit": git.run(root, "rev-parse", "HEAD").encode(),
        "status": git.run(root, "status", "--porcelain").encode(),
        **{name: (root / name).read_bytes() for name in tracked},
    }


def admit(root: Path, card: Path):
    line, read = admission.open_all(root, card)
    return admission.prepare(line, read, card)


def test_good_card_is_prepared_in_a_clone_and_the_line_stays(root, tmp_path) -> None:
    before = state(root)
    attempt, said = admit(root, makers.card(tmp_path, "good", finetune={"epochs": 3}))
    assert state(root) == before
    params = workspace.params(attempt)
    assert params.tasks["good"].finetune.epochs == 3
    assert params.steps["s01"].previous == "s00"
    assert said == ["36 labelled, 18 test, 12 unlabelled"]
    assert not list(root.glob(".otmf/incoming/*"))


def test_what_a_person_may_not_have_meant_is_said(root, tmp_path) -> None:
    data = makers.arrays(seed=1)
    data["test_y"] = np.minimum(data["test_y"], 1)
    data["test_x"][0] = data["train_x"][0]
    _, said = admit(root, makers.card(tmp_path, "odd", data=data))
    assert said[1:] == [
        "1 train images left out, as they occur in test",
        "no test images of blue (1 of 3 classes): its accuracy says nothing of them",
    ]


def test_card_that_changes_after_it_was_read_counts_as_it_was_read(root, tmp_path) -> None:
    card = makers.card(tmp_path, "fickle", finetune={"epochs": 3})
    line, read = admission.open_all(root, card)
    makers.card(tmp_path, "fickle", finetune={"epochs": 4})
    attempt, _ = admission.prepare(line, read, card)
    assert workspace.params(attempt).tasks["fickle"].finetune.epochs == 3
    assert cards.read(attempt.card("fickle")).finetune == {"epochs": 3}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"finetune": {"epoch": 3}}, "card bad: epoch: expected a known key"),
        ({"finetune": {"learning_rate": -1}}, "card bad: learning_rate: .*expected a number above 0; received -1"),
        ({"merge": {"alpha": 2}}, "card bad: alpha: .*expected a number up to 1; received 2"),
        ({"merge": {"epsilon": 0}}, "card bad: epsilon: .*expected a number above 0"),
        ({"head": {"kind": "magic"}}, "card bad: kind: "),
        ({"path": "none.npz"}, "expected the data of task bad at `path`; received 'none.npz'"),
        ({"checkpoint": {"path": "none.pt"}}, "expected a file at checkpoint.path; received 'none.pt'"),
        ({"data": {**makers.arrays(seed=1), "train_y": np.full(48, 9)}}, "expected train labels from 0 to 2"),
    ],
)
def test_bad_card_is_refused_in_one_sentence_and_the_line_stays(root, tmp_path, keys, message) -> None:
    before = state(root)
    with pytest.raises((cards.CardError, settings.SettingsError), match=message) as caught:
        admit(root, makers.card(tmp_path, "bad", **keys))
    assert "\n" not in str(caught.value)
    assert state(root) == before
    assert not list(root.glob(".otmf/incoming/*"))


def test_card_that_its_lines_heads_do_not_fit_is_refused_by_its_name(tmp_path) -> None:
    defaults = settings.Defaults(head_tune={"heads": "frozen"})
    card = cards.read(makers.card(tmp_path, "bad", merge={"head_ridge": 0.3}))
    with pytest.raises(settings.SettingsError, match=r"card bad: expected head_tune\.heads other than frozen"):
        admission.entries(defaults, card)
    _, entry = admission.entries(defaults, cards.read(makers.card(tmp_path, "good", merge={"steps": 3})))
    assert (entry["merge"]["head_ridge"], entry["head_tune"]["heads"]) == (None, "frozen")


def test_line_with_uncommitted_changes_is_refused(root, tmp_path) -> None:
    params = root / "params.yaml"
    before = params.read_bytes()
    params.write_bytes(before + b"# changed\n")
    try:
        with pytest.raises(
            workspace.WorkspaceError, match=r"expected a line without uncommitted changes; received params\.yaml"
        ):
            admission.require_ready(*admission.open_all(root, makers.card(tmp_path, "good")))
    finally:
        params.write_bytes(before)


def test_line_held_by_another_process_is_refused(root) -> None:
    line = workspace.open_line(root)
    with (
        workspace.locked(line),
        pytest.raises(
            workspace.WorkspaceError,
            match=r"expected line to be free; received a line that another change holds .*, process \d+.; wait",
        ),
        workspace.locked(workspace.open_line(root)),
    ):
        pass


def test_onboarding_a_held_line_is_refused_before_anything_is_started(root, tmp_path) -> None:
    with workspace.locked(workspace.open_line(root)):
        done = CliRunner().invoke(main.app, ["onboard", str(makers.card(tmp_path, "good")), "--line", str(root)])
    assert done.exit_code == 1
    assert "received a line that another change holds" in done.stderr
    assert not (root / ".otmf/prefect").exists()


def test_folder_without_a_line_is_refused(tmp_path) -> None:
    with pytest.raises(
        workspace.WorkspaceError, match="expected a line of models in .*; received a folder without one"
    ):
        workspace.open_line(tmp_path)


def test_line_is_not_made_in_a_folder_with_content_nor_left_half_made(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x", encoding="utf-8")
    with pytest.raises(
        workspace.WorkspaceError, match="expected a new or empty folder; received .*full, which has content"
    ):
        workspace.create(tmp_path / "full")
    base = makers.base_card(tmp_path / "materials")
    (tmp_path / "materials/mixture.npz").write_bytes(b"")
    with pytest.raises(cards.CardError):
        workspace.create(tmp_path / "new", base=base)
    assert not (tmp_path / "new").exists()


def test_card_with_the_name_of_a_known_task_takes_its_step() -> None:
    params = settings.check({"line": "x", "tasks": {"a": {}}, "steps": {"s01": {"task": "a", "previous": "s00"}}})
    assert admission.place(params, cards.Card(name="a", source="embedded", path="dice")) == ("s01", True)
    assert admission.place(params, cards.Card(name="b", source="embedded", path="dice")) == ("s02", False)


def test_file_where_the_card_will_be_kept_is_refused_before_any_work(root, tmp_path) -> None:
    place = root / "data/cards/good.yaml"
    place.write_text("mine", encoding="utf-8")
    try:
        with pytest.raises(
            workspace.WorkspaceError, match=r"expected nothing at data/cards/good\.yaml; received a file or folder"
        ):
            admission.require_ready(*admission.open_all(root, makers.card(tmp_path, "good")))
        assert place.read_text(encoding="utf-8") == "mine"
    finally:
        place.unlink()


@pytest.mark.parametrize("text", ["", "- a\n", "tasks: ["])
def test_line_is_not_made_from_parameters_that_are_none(tmp_path, text) -> None:
    base = makers.base_card(tmp_path / "materials")
    params = tmp_path / "params.yaml"
    params.write_text(text, encoding="utf-8")
    with pytest.raises(settings.SettingsError, match="expected"):
        workspace.create(tmp_path / "new", base=base, params=params)
    assert not (tmp_path / "new").exists()


def test_git_of_a_hook_does_not_lead_ours_elsewhere(root, tmp_path, monkeypatch) -> None:
    expected = git.run(root, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git.run(root, "rev-parse", "HEAD") == expected


def of_pictures(folder: Path, *names: str) -> Path:
    """A card of the classes red and green, with a picture for each part in folders of some names."""
    for part in ("train", "test"):
        for name in names:
            place = folder / "pictures" / part / name
            place.mkdir(parents=True)
            Image.fromarray(makers.pictures(1, seed=1)[0][0]).save(place / "a.png")
    path = folder / "card.yaml"
    makers.write_yaml(path, {"name": "wrong", "source": "folder", "path": "pictures", "classes": ["red", "green"]})
    return path


def test_class_folder_with_a_wrong_name_is_refused_once_and_before_anything_starts(root, tmp_path) -> None:
    """It took a minute, as a Prefect server was started first, and the sentence came three times."""
    card = of_pictures(tmp_path, "red", "gren")
    done = CliRunner().invoke(main.app, ["onboard", str(card), "--line", str(root)])
    assert done.exit_code == 1
    assert (done.stdout + done.stderr).count("expected folders named after the classes") == 1, done.stdout + done.stderr
    assert "received the folder 'gren', while the class 'green' has no folder" in done.stderr
    assert str(root / ".otmf") not in done.stderr, "the user's own path, not that of our copy"
    assert not (root / ".otmf/prefect").exists()
    assert not list(root.glob(".otmf/incoming/*"))


def test_picture_that_does_not_decode_is_named_as_the_card_names_it(root, tmp_path) -> None:
    card = of_pictures(tmp_path, "red", "green")
    (tmp_path / "pictures/train/red/b.png").write_bytes(b"no picture")
    done = CliRunner().invoke(main.app, ["onboard", str(card), "--line", str(root)])
    assert "expected an image that decodes; received pictures/train/red/b.png (in none of the formats" in done.stderr


def test_clone_without_the_contents_that_dvc_holds_is_refused_before_anything_starts(root, tmp_path) -> None:
    clone = tmp_path / "clone"
    git.run(root, "clone", "--quiet", str(root), str(clone))
    card_path = makers.card(tmp_path / "cards", "third")
    line, card = admission.open_all(clone, card_path)
    wanted = r"in DVC's cache; received no data/raw/pretrained.*; fetch it with `dvc pull`"
    with pytest.raises(workspace.WorkspaceError, match=wanted), admission.gathered(line, card, card_path):
        pass
