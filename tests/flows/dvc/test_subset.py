"""A clone cut to what some stages need: DVC sees that alone, and everything is put back, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.dvc import subset
from flows.programs import process
from tests import makers

PARAMS = """# ours
line: small
tasks:
  one: {split: 1}   # a comment
  two: {split: 2}
steps:
  s01: {task: one, previous: s00}
  s02: {task: two, previous: s01}
"""
LOCK = "schema: '2.0'\nstages:\n" + "".join(
    f"  {name}:\n    cmd: python -m stages\n" for name in ("pretrained", "finetune@one", "merge-step@s02")
)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / ".dvcignore").write_text("# mine\n/scratch")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_only_what_the_stages_need_is_there_and_all_of_it_comes_back(folder) -> None:
    before = contents(folder)
    with subset.cut(folder, ["pretrained", "merge-step@s02"], ["new"]):
        now = contents(folder)
        assert "s02" in now["params.yaml"]
        assert "s01:" not in now["params.yaml"]
        assert "split" not in now["params.yaml"]
        assert "finetune@one" not in now["dvc.lock"]
        assert now["dvc.lock"].startswith("schema: '2.0'\nstages:\n  pretrained:\n")
        assert now[".dvcignore"].splitlines() == [
            "# mine", "/scratch", "/data/raw/*", "!/data/raw/new", "!/data/raw/new.dvc", "!/data/raw/pretrained",
            "!/data/raw/pretrained.dvc", "!/data/raw/two", "!/data/raw/two.dvc",
        ]  # fmt: skip
    assert contents(folder) == before


def test_failure_inside_puts_everything_back(folder) -> None:
    (folder / ".dvcignore").unlink()
    before = contents(folder)
    with pytest.raises(KeyError), subset.cut(folder, ["finetune@one"]):
        raise KeyError
    assert contents(folder) == before


def test_link_is_left_as_it_is_and_all_data_may_be_seen(folder, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "ignored"
    elsewhere.write_text("# theirs\n")
    (folder / ".dvcignore").unlink()
    (folder / ".dvcignore").symlink_to(elsewhere)
    with subset.cut(folder, ["pretrained"]):
        assert elsewhere.read_text() == "# theirs\n"
    assert (folder / ".dvcignore").is_symlink()
    (folder / ".dvcignore").unlink()
    with subset.cut(folder, ["pretrained"], None):
        assert not (folder / ".dvcignore").exists()


def test_lock_of_another_form_is_left_as_it_is(folder) -> None:
    (folder / "dvc.lock").write_text("schema: '3.0'\n")
    before = contents(folder)
    with subset.cut(folder, ["pretrained"]):
        assert contents(folder) == before


def test_dvc_sees_no_other_data(tmp_path) -> None:
    root = makers.line(tmp_path / "line")

    def dvc(*arguments: str) -> str:
        return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env=process.environment(),
                              capture_output=True, text=True, check=True).stdout  # fmt: skip

    for name in ("one", "two"):
        (root / "data/raw" / name).mkdir()
        (root / "data/raw" / name / "x").write_text(name)
        dvc("add", "--quiet", f"data/raw/{name}")
    for name in ("one", "two"):
        (root / "data/raw" / name / "x").write_text("changed")
    (root / "data/raw/one/dvc.yaml").write_text("stages: [")  # DVC would read it, were the folder seen
    with subset.cut(root, ["pretrained"], ["two"]):
        assert "data/raw/two" in dvc("status")
        assert "data/raw/one" not in dvc("status")
    (root / "data/raw/one/dvc.yaml").unlink()
    assert "data/raw/one" in dvc("status")
