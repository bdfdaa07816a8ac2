"""Versions and people's decisions on them, on a line whose models are single files."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.changes import decisions
from flows.line import clones, landing, refused_attempts, workspace
from flows.programs import git
from flows.services import tracking
from flows.studies import status
from flows.versions import history, keyring, records, registry
from otmf.provenance import ledger, statements
from otmf.runtime import layout
from tests import makers


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A line with two versions, to be copied."""
    line = workspace.open_line(makers.line(tmp_path_factory.mktemp("made") / "line"))
    for task in ("one", "two"):
        accept(line, task)
    return line.root


@pytest.fixture
def line(two, tmp_path, monkeypatch) -> layout.Layout:
    monkeypatch.setenv("OTMF_ACTOR", "ada")
    shutil.copytree(two, tmp_path / "line", symlinks=True)
    return workspace.open_line(tmp_path / "line")


def attempt(line: layout.Layout, task: str) -> layout.Layout:
    """A clone with one more task and a model of its own, as an onboarding leaves it."""
    clone = clones.begin(line, task)
    document = workspace.read_params(clone)
    number = len(document["steps"]) + 1
    document["tasks"][task] = {}
    document["steps"][f"s{number:02d}"] = {"task": task, "previous": f"s{number - 1:02d}"}
    workspace.write_params(clone, document)
    model = clone.merged(f"s{number:02d}") / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_text(task, encoding="utf-8")
    return clone


def merged(clone: layout.Layout, task: str, subject: str) -> tuple[str, records.Made]:
    """Locks and commits what an attempt made: its last step, and how that came about."""
    step = f"s{len(workspace.params(clone).steps):02d}"
    name, path = f"merge-step@{step}", f"data/models/merged/{step}"
    stage = {"cmd": "merge", "outs": [{"path": path, "md5": "0" * 32 + ".dir", "hash": "md5"}]}
    makers.write_yaml(clone.root / "dvc.lock", {"schema": "2.0", "stages": {name: stage}})
    workspace.commit(clone.root, subject)
    return step, records.Made({name: "ran"}, {name: path}, [task], datetime.now(UTC), "", None, "")


def accept(line: layout.Layout, task: str) -> statements.Decision:
    clone = attempt(line, task)
    step, made = merged(clone, task, f"Onboard {task}")
    entry = history.accepted(clone, action="accepted", step=step, task=task, by="gate", reason="all rules hold")
    records.write(line, clone, entry, lambda place: records.of_model(clone, made, entry, place))
    landing.land(line, clone, tag=history.tag(entry.version), outputs=False)
    return entry


def refuse(line: layout.Layout, task: str) -> None:
    clone = attempt(line, task)
    step, made = merged(clone, task, f"Refuse {task}\n\nexpected more; received less")
    decision = history.accepted(
        clone, action="refused", step=step, task=task, by="gate", reason="expected more; received less", version=False
    )
    recorded = clones.begin(line, "record", outputs=False)
    records.write(line, recorded, decision, lambda place: records.of_model(clone, made, decision, place))
    refused_attempts.keep(line, clone, "rejected")
    landing.land(line, recorded, outputs=False)


def aliases(line: layout.Layout) -> dict[str, str]:
    store = tracking.prepare(line, "small")
    found = store.client.get_registered_model("line").aliases
    return {
        alias: store.client.get_model_version("line", version).tags["otmf.version"] for alias, version in found.items()
    }


def test_versions_count_up_and_each_commit_has_its_tag(line) -> None:
    assert git.run(line.root, "rev-parse", "model/v2^{commit}") == git.run(line.root, "rev-parse", "HEAD")
    entries = history.decisions(line.root)
    assert history.champion(entries).task == "two"
    assert history.previous(entries).task == "one"


def test_rollback_is_one_more_entry_and_sets_the_aliases(line) -> None:
    before = [record.content for record in ledger.read(line.root)]
    entry = decisions.roll_back(line, None, by=None, reason="worse on photos", log=print)
    assert (entry.action, entry.version, entry.by, entry.reason) == ("rolled_back", 1, "ada", "worse on photos")
    assert [record.content for record in ledger.read(line.root)][:-1] == before
    assert aliases(line) == {"champion": "1", "previous": "2"}
    assert git.run(line.root, "status", "--porcelain") == ""
    decisions.roll_back(line, "v2", by="grace", reason="it was the camera", log=print)
    assert aliases(line) == {"champion": "2", "previous": "1"}
    assert [found.version for found in history.decisions(line.root)] == [1, 2, 1, 2]


def test_predictions_come_from_the_version_that_serves(line) -> None:
    assert decisions.serving(line) == line
    decisions.roll_back(line, None, by=None, reason="back", log=print)
    serving = decisions.serving(line)
    assert serving.root != line.root
    assert list(workspace.params(serving).steps) == ["s01"]
    assert decisions.serving(line) == serving


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("v7", "expected a version of this line .v1, v2.; received v7"),
        ("v2", "expected another version than the one that serves; received v2"),
        ("../v1", "expected a version such as v3; received '../v1'"),
        ("0", "expected a version such as v3"),
    ],
)
def test_rollback_to_what_cannot_be_changes_nothing(line, version, message) -> None:
    head = git.run(line.root, "rev-parse", "HEAD")
    with pytest.raises(workspace.WorkspaceError, match=message):
        decisions.roll_back(line, version, by=None, reason="why not", log=print)
    assert git.run(line.root, "rev-parse", "HEAD") == head


def test_there_is_no_version_before_the_first(line) -> None:
    assert history.previous(history.decisions(line.root)[:1]) is None
    assert history.champion([]) is None


def test_rollback_needs_a_reason(line) -> None:
    with pytest.raises(workspace.WorkspaceError, match="expected a reason; received an empty one"):
        decisions.roll_back(line, None, by=None, reason=" \n", log=print)


def test_refused_attempt_can_be_accepted_by_a_person_with_a_reason(line, monkeypatch) -> None:
    monkeypatch.setattr(history.digests, "digest", lambda path: "0" * 64)  # DVC knows no model of these attempts
    refuse(line, "three")
    assert git.run(line.root, "status", "--porcelain") == ""
    assert refused_attempts.branches(line) == {"three": "rejected/three"}
    assert any("Refused: three: expected more; received less" in found for found in status.sentences(line))
    entry = decisions.promote(line, "three", by="grace", reason="wanted\nall the same", log=print)
    assert (entry.action, entry.by, entry.reason, entry.version) == ("overridden", "grace", "wanted all the same", 3)
    assert list(workspace.params(line).steps) == ["s01", "s02", "s03"]
    assert refused_attempts.branches(line) == {}
    assert aliases(line) == {"champion": "3", "previous": "2"}


def test_refused_attempt_is_not_accepted_once_the_line_has_moved_on(line) -> None:
    refuse(line, "three")
    accept(line, "four")
    with pytest.raises(
        workspace.WorkspaceError, match="expected the line to stand where three was refused; .*--override"
    ):
        decisions.promote(line, "three", by=None, reason="wanted", log=print)
    with pytest.raises(workspace.WorkspaceError, match=r"expected a refused attempt \(three\); received 'five'"):
        decisions.promote(line, "five", by=None, reason="wanted", log=print)
    with pytest.raises(workspace.WorkspaceError, match="expected a refused attempt"):
        decisions.promote(line, "../two", by=None, reason="wanted", log=print)


def test_status_names_settings_that_stand_in_the_way(line) -> None:
    refuse(line, "three")
    document = workspace.read_params(line)
    document["gate"] = {"least_of_finetuned": 0.2}
    workspace.write_params(line, document)
    assert "Not committed: params.yaml; commit or undo it with git before the next change" in status.sentences(line)
    assert any(said.endswith("or otmf promote three --reason ...") for said in status.sentences(line))
    workspace.commit(line.root, "Lower the gate")
    way = "or accept it with otmf onboard CARD --override REASON, as the line has changed since (params.yaml)"
    assert any(said.endswith(way) for said in status.sentences(line))
    with pytest.raises(workspace.WorkspaceError, match=r"received one that has moved on since \(params\.yaml\)"):
        decisions.promote(line, "three", by=None, reason="wanted", log=print)


def test_decision_stands_while_the_tracking_store_is_away_and_is_written_later(line, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    decisions.roll_back(line, None, by=None, reason="back", log=said.append)
    assert any("decided, but not yet in the tracking store" in text for text in said)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry.catch_up(line)  # as the next look at the inbox does
    assert aliases(line) == {"champion": "1", "previous": "2"}
    assert not list(tracking.unsent(line).iterdir())
    decisions.roll_back(line, "v2", by=None, reason="forth", log=said.append)
    assert aliases(line) == {"champion": "2", "previous": "1"}


def test_history_that_was_meddled_with_is_refused(line) -> None:
    path = line.root / ledger.FOLDER / ledger.name(2)
    path.write_bytes(path.read_bytes().replace(b'"payload": "e', b'"payload": "f'))
    with pytest.raises(ledger.LedgerError, match=r"000002\.json"):
        history.decisions(line.root)


def test_refusal_changes_nothing_of_the_line_but_the_ledger(line) -> None:
    before = git.run(line.root, "rev-parse", "HEAD").strip()
    refuse(line, "three")
    assert git.run(line.root, "diff", "--name-only", before, "HEAD").split() == ["data/lineage/000003.json"]
    assert ledger.read(line.root)[-1].statement.decision.version is None
    assert [found.version for found in history.decisions(line.root)] == [1, 2]


def test_record_is_written_while_the_tracking_store_is_away(line, monkeypatch) -> None:
    store = tracking.prepare(line, "line")

    def away(*_: object) -> None:
        raise workspace.WorkspaceError("expected a tracking store")

    monkeypatch.setattr(tracking, "made", away)
    clone = attempt(line, "three")
    step, made = merged(clone, "three", "Onboard three")
    decision = history.accepted(clone, action="accepted", step=step, task="three", by="gate", reason="all rules hold")
    told = replace(made, store=store)
    records.write(line, clone, decision, lambda place: records.of_model(clone, told, decision, place))
    last = ledger.read(clone.root)[-1].statement
    assert last.predicate.buildDefinition.otmf_stages[f"merge-step@{step}"].run is None
    assert last.decision == decision


def test_new_key_stays_where_the_line_could_not_be_moved(line, monkeypatch) -> None:
    def refuse_to_land(*_: object, **__: object) -> str:
        raise workspace.WorkspaceError("expected the git remote to take it")

    monkeypatch.setattr(landing, "land", refuse_to_land)
    with pytest.raises(workspace.WorkspaceError, match="expected the git remote to take it"):
        keyring.new(line, by="ada", reason="first", log=print)
    assert len(list(keyring.folder(line).glob("*.pem"))) == 1, "the remote may know it already"
    assert keyring.trusted(line, []) == [], "no record names it"
    with pytest.raises(workspace.WorkspaceError, match="expected a reason; received an empty one"):
        keyring.new(line, by="ada", reason=" ", log=print)


def test_key_that_no_record_could_name_leaves_nothing(line, monkeypatch) -> None:
    """A full disk left a public half, which verification then trusted."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger, "append", full)
    with pytest.raises(OSError, match="No space left"):
        keyring.new(line, by="ada", reason="first", log=print)
    assert list(keyring.folder(line).iterdir()) == []


def test_kept_attempt_that_was_altered_is_not_promoted(line) -> None:
    refuse(line, "three")
    branch = refused_attempts.branches(line)["three"]
    attempted = line.root.parent / "altered"
    git.run(line.root, "clone", "--quiet", "--branch", branch, str(line.root), str(attempted))
    (attempted / "prefect.yaml").write_text("altered\n", encoding="utf-8")
    git.run(attempted, "commit", "--quiet", "--all", "--amend", "--no-edit")
    git.run(line.root, "fetch", "--quiet", str(attempted), f"+HEAD:refs/heads/{branch}")
    with pytest.raises(
        workspace.WorkspaceError, match=r"expected the attempt of three as the record of its refusal names it"
    ):
        decisions.promote(line, "three", by="ada", reason="wanted", log=print)
