"""dvc.lock cut to one stage and put together again: nothing lost, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dvc import lockfile
from flows.programs.failures import WorkspaceError

ENTRY = "  {}:\n    cmd: python -m stages {}\n    outs:\n    - path: data/{}\n      md5: {}\n"
HEAD = "schema: '2.0'\nstages:\n"


def entry(name: str, md5: str = "0") -> str:
    return ENTRY.format(name, name, name, md5)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.lock").write_text(HEAD + entry("pretrained") + entry("finetune@one") + entry("merge-step@s01"))
    return tmp_path


def test_only_the_stage_stands_there_and_the_others_come_back(folder) -> None:
    path = folder / "dvc.lock"
    before = path.read_text()
    with lockfile.cut(folder, "finetune@one"):
        assert path.read_text() == HEAD + entry("finetune@one")
    assert path.read_text() == before
    assert not (folder / ".dvc/tmp/dvc.lock").exists()


def test_changed_entry_keeps_its_place_and_a_new_one_comes_last(folder) -> None:
    path = folder / "dvc.lock"
    with lockfile.cut(folder, "finetune@one"):
        path.write_text(HEAD + entry("finetune@one", "1"))
    with lockfile.cut(folder, "finetune@two"):
        assert not path.exists()
        path.write_text(HEAD + entry("finetune@two"))
    assert path.read_text() == HEAD + entry("pretrained") + entry("finetune@one", "1") + entry(
        "merge-step@s01"
    ) + entry("finetune@two")


def test_stage_that_fails_loses_nothing(folder) -> None:
    before = (folder / "dvc.lock").read_text()
    with pytest.raises(RuntimeError), lockfile.cut(folder, "finetune@two"):
        raise RuntimeError
    assert (folder / "dvc.lock").read_text() == before


def test_death_in_between_loses_nothing(folder) -> None:
    before = (folder / "dvc.lock").read_text()
    (folder / ".dvc/tmp").mkdir()
    (folder / "dvc.lock").rename(folder / ".dvc/tmp/dvc.lock")
    (folder / "dvc.lock").write_text(HEAD + entry("finetune@one", "1"))
    with lockfile.cut(folder, "pretrained"):
        assert (folder / "dvc.lock").read_text() == HEAD + entry("pretrained")
    assert (folder / "dvc.lock").read_text() == before.replace(entry("finetune@one"), entry("finetune@one", "1"))


def test_stage_that_is_interrupted_while_dvc_writes_says_why_and_loses_nothing(folder) -> None:
    before = (folder / "dvc.lock").read_text()

    def interrupted() -> None:
        with lockfile.cut(folder, "finetune@one"):
            (folder / "dvc.lock").write_text(HEAD + "  finetune@one:\n    cm")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "dvc.lock").read_text() == before


@pytest.mark.parametrize(
    "text",
    ["", "schema: '3.0'\nstages:\n", "stages: {}\n", HEAD + "  a: {}\n  a: {}\n", HEAD + entry("a") + entry("a"), "# mine\n" + HEAD + entry("a")],
)  # fmt: skip
def test_other_forms_are_left_alone(folder, text) -> None:
    (folder / "dvc.lock").write_text(text)
    with lockfile.cut(folder, "finetune@one"):
        assert (folder / "dvc.lock").read_text() == text
    assert (folder / "dvc.lock").read_text() == text


def test_form_that_dvc_does_not_write_is_not_put_together(folder) -> None:
    before = (folder / "dvc.lock").read_text()
    with (
        pytest.raises(WorkspaceError, match=r"expected dvc\.lock as DVC writes it"),
        lockfile.cut(folder, "finetune@one"),
    ):
        (folder / "dvc.lock").write_text("stages: [")
    assert (folder / ".dvc/tmp/dvc.lock").read_text() == before


@given(st.lists(st.sampled_from(["pretrained", "finetune@one", "merge-step@s01", "extract@x-y_2"]), unique=True))
def test_parts_make_up_the_whole(names) -> None:
    text = HEAD + "".join(map(entry, names))
    assert lockfile.parse(text) == {name: entry(name) for name in names}


def test_entries_are_read_as_the_whole_would_be() -> None:
    whole = HEAD + entry("pretrained") + entry("finetune@one", "a1")
    assert lockfile.read(whole, ["finetune@one", "none"]) == {
        "finetune@one": {"cmd": "python -m stages finetune@one", "outs": [{"path": "data/finetune@one", "md5": "a1"}]}
    }
    assert lockfile.read("stages: {b: {cmd: x}, c: {cmd: y}}\n", ["c"]) == {"c": {"cmd": "y"}}
    assert lockfile.read("", ["c"]) == lockfile.read(whole, []) == {}
