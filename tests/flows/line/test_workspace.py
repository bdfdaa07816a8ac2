"""params.yaml of a line: entries are added, everything else stays as a person wrote it."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from flows.line import workspace
from flows.programs import git
from otmf import settings
from otmf.runtime import layout
from tests import makers

TASK = {"finetune": {"epochs": 3}}
STEP = {"task": "one", "previous": "s00", "merge": {"steps": 7}}


@pytest.fixture
def line(tmp_path) -> layout.Layout:
    return layout.Layout(makers.line(tmp_path / "line"))


def loaded(line: layout.Layout) -> dict:
    return YAML(typ="safe").load(line.params.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "line: small  # mine\ntasks: {}\nsteps: {}\n",
        "line: small\ntasks: {}   \n# what is merged\nsteps: {}\ngate: {largest_drop: 1}  # open\n",
        "line: small\nsteps:\n  s01: {task: zero, previous: s00}\n\ntasks:\n  zero: {}\n",
        "line: small\nsteps: {s01: {task: zero, previous: s00}}\ntasks: {zero: {}}\n",
        "line: small\n",
    ],
)
def test_entries_come_last_and_the_rest_stays(line, text) -> None:
    line.params.write_text(text)
    before = loaded(line)
    step = "s02" if before.get("steps") else "s01"
    own = STEP | {"previous": f"s{int(step[1:]) - 1:02d}"}
    workspace.add_to_params(line, {"tasks": {"one": TASK}, "steps": {step: own}})
    after = loaded(line)
    assert after["tasks"] == {**(before.get("tasks") or {}), "one": TASK}
    assert after["steps"] == {**(before.get("steps") or {}), step: own}
    assert {key: value for key, value in after.items() if key not in ("tasks", "steps")} == {
        key: value for key, value in before.items() if key not in ("tasks", "steps")
    }
    for comment in ("# mine", "# what is merged", "# open"):
        assert (comment in text) == (comment in line.params.read_text())


def test_entry_of_a_known_name_takes_its_place(line) -> None:
    workspace.add_to_params(line, {"tasks": {"one": TASK}, "steps": {"s01": STEP}})
    workspace.add_to_params(line, {"tasks": {"one": {}}, "steps": {"s01": STEP | {"merge": {}}}})
    assert loaded(line)["tasks"] == {"one": {}}
    assert loaded(line)["steps"]["s01"]["merge"] == {}


def test_what_does_not_hold_up_is_not_written(line) -> None:
    before = line.params.read_text()
    with pytest.raises(settings.SettingsError, match="epochs"):
        workspace.add_to_params(line, {"tasks": {"one": {"finetune": {"epochs": 0}}}, "steps": {"s01": STEP}})
    assert line.params.read_text() == before


def test_parameter_file_may_leave_out_what_is_the_templates(tmp_path) -> None:
    (tmp_path / "small.yaml").write_text("defaults: {merge: {method: fisher}}\ngate: {largest_drop: 0.3}\n")
    workspace.create(tmp_path / "line", params=tmp_path / "small.yaml")
    found, template = workspace.params(layout.Layout(tmp_path / "line")), workspace.template() / "params.yaml"
    assert (found.defaults.merge, found.gate.largest_drop, found.line) == ({"method": "fisher"}, 0.3, "line")
    whole = settings.check(YAML(typ="safe").load(template.read_text()))
    assert found.backbone == whole.backbone
    assert found.defaults.finetune == whole.defaults.finetune
    assert "# gently" in (tmp_path / "line/params.yaml").read_text(), "the template's comments stay"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone: {modl: 3}\n", r"^small\.yaml: backbone\.modl: expected a known key"),
        ("tasks: [1]\n", r"^small\.yaml: tasks: expected a mapping; received"),
        ("- 1\n", r"expected a mapping of sections in small\.yaml; received a list; mend the file"),
        (
            "gate:\n  largest_drop: !!float maybe\n",
            r"expected YAML in small\.yaml; .* \('maybe' on line 2, which cannot be read as !!float\)",
        ),
        (
            "line: a\nline: b\n",
            r"expected YAML in small\.yaml; .* \(found duplicate key .* on line 2, column 1\); mend the file",
        ),
        ("backbone: {model: vit-b-23}\n", r"backbone\.model in small\.yaml; received 'vit-b-23'; write ViT-B-32"),
        (
            "backbone: {model: data/backbones/no.json}\n",
            r"as backbone\.model in small\.yaml; received 'data/backbones/no\.json'",
        ),
    ],
)
def test_parameter_file_that_cannot_serve_is_refused_by_its_own_name(tmp_path, text, message) -> None:
    (tmp_path / "small.yaml").write_text(text)
    with pytest.raises(settings.SettingsError, match=message):
        workspace.create(tmp_path / "line", params=tmp_path / "small.yaml")
    assert not (tmp_path / "line").exists()


@pytest.mark.parametrize("name", ["what?", "a\nb", "a\x1b[2Jb"])
def test_path_that_databases_or_git_would_misread_is_refused_before_anything_is_written(tmp_path, name) -> None:
    for work in (workspace.create, workspace.open_line):
        with pytest.raises(
            workspace.WorkspaceError, match="expected a folder for a line whose path has no question mark"
        ):
            work(tmp_path / name / "line")
    assert list(tmp_path.iterdir()) == []


def test_commit_takes_what_belongs_to_a_line_and_nothing_else(line) -> None:
    (line.root / "again.db").write_text("of a stage")
    (line.root / "data/results").mkdir(exist_ok=True)
    (line.root / "data/results/new.json").write_text("{}\n")
    before = workspace.commit(line.root, "Change")
    assert git.run(line.root, "show", "--name-only", "--format=", "HEAD").split() == ["data/results/new.json"]
    assert workspace.commit(line.root, "Nothing") == before
