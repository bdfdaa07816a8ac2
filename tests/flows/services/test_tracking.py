from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time

import pytest
from mlflow.entities import Metric

from flows.line import workspace
from flows.programs import git
from flows.programs.failures import WorkspaceError
from flows.services import tracking
from otmf.runtime import layout


@pytest.fixture
def line(tmp_path, monkeypatch) -> layout.Layout:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return layout.Layout(tmp_path)


def ran(store: tracking.Store, stage: str, key: str, seconds: float, start: int) -> None:
    run = store.client.create_run(store.experiment, start_time=start, tags={"stage": stage, "key": key}).info.run_id
    store.client.log_batch(run, metrics=[Metric("seconds", seconds, start, 0)])


def test_seconds_are_those_of_each_stages_last_run(line, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "PAGE", 2)  # several pages
    store = tracking.prepare(line, "small")
    tracking.begin(store, "onboard", "birds", {})
    for start, seconds in ((1, 5.0), (3, 7.0), (2, 6.0)):
        ran(store, "merge_step", "s01", seconds, start)
    ran(store, "pretrained", "", 9.0, 4)
    asked = ["pretrained", "merge-step@s01", "evaluate@s01"]
    assert tracking.seconds(store, asked) == {"pretrained": 9.0, "merge-step@s01": 7.0}


def test_end_of_a_parent_run_is_told_when_the_store_is_back(line) -> None:
    store = tracking.prepare(line, "small")
    parent = tracking.begin(store, "onboard", "birds", {})
    assert not tracking.catch_up(line, store)
    git.run(line.root, "init", "--quiet", "--initial-branch", "main")
    (line.root / "file").touch()
    landed = workspace.commit(line.root, "Landed")
    tracking.finish_later(line, parent, metrics={"acc": 0.5}, tags={"version": "v1"}, commit=landed)
    assert tracking.catch_up(line, store)
    run = store.client.get_run(parent)
    assert (run.info.status, run.data.metrics["acc"], run.data.tags["version"]) == ("FINISHED", 0.5, "v1")
    assert not tracking.catch_up(line, store)


def test_parent_run_whose_process_died_before_it_landed_is_ended_as_failed(line) -> None:
    store = tracking.prepare(line, "small")
    parent = tracking.begin(store, "onboard", "birds", {})
    tracking.finish_later(line, parent, metrics={"acc": 0.5}, tags={"version": "v1"}, commit="1" * 40)
    assert tracking.catch_up(line, store)
    run = store.client.get_run(parent)
    assert (run.info.status, "version" in run.data.tags) == ("FAILED", False)


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_damaged_store_is_one_sentence(line, tmp_path, content) -> None:
    damaged = layout.Layout(tmp_path / "damaged")
    damaged.tracking.mkdir(parents=True)
    (damaged.tracking / "mlflow.db").write_bytes(content)
    if not content:
        (damaged.tracking / "mlflow.db").unlink()
        (damaged.tracking / "mlflow.db").mkdir()
    with pytest.raises(WorkspaceError, match="expected a tracking store at sqlite:.*; received no answer"):
        tracking.prepare(damaged, "small")


def test_store_of_another_version_of_mlflow_is_refused_naming_both(line, tmp_path) -> None:
    tracking.prepare(line, "small")
    other = layout.Layout(tmp_path / "other")  # MLflow keeps what it knows of a file under its path
    shutil.copytree(line.tracking, other.tracking)
    with contextlib.closing(sqlite3.connect(other.tracking / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()
    with pytest.raises(
        WorkspaceError, match=r"received another \(.*found version ffffffffffff, but expected [0-9a-f]{12}"
    ) as caught:
        tracking.prepare(other, "small")
    assert "mlflow db upgrade" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "[{}]", "null", '{"parent": 1}'])
def test_damaged_note_of_a_run_is_a_sentence_that_names_it(line, content) -> None:
    store = tracking.prepare(line, "small")
    note = tracking.unsent(line) / "aaaa.parent"
    note.parent.mkdir(parents=True)
    note.write_text(content)
    with pytest.raises(WorkspaceError, match=r"expected a note of how a run ends in .*/aaaa\.parent; received another"):
        tracking.catch_up(line, store)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("sqlite:///mine.db", "sqlite:///{here}/mine.db"),
        ("sqlite+pysqlite:///mine.db", "sqlite+pysqlite:///{here}/mine.db"),
        ("sqlite:////var/mine.db", "sqlite:////var/mine.db"),
        ("mlruns", "{here}/mlruns"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x"),
        ("postgresql://ada@127.0.0.1/x", "postgresql://ada@127.0.0.1/x"),
    ],
)
def test_relative_store_is_one_from_where_the_command_is_called(line, tmp_path, monkeypatch, given, wanted) -> None:
    """Stages work in folders of their own: theirs was another, and came into the line's history."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking.uri(line) == wanted.format(here=tmp_path)


@pytest.mark.parametrize(
    "where", ["postgresql://nobody@127.0.0.1:9/x", "postgresql+psycopg2://nobody@127.0.0.1:9/x", "nothing://x"]
)
def test_database_that_is_away_is_said_at_once(line, monkeypatch, where) -> None:
    """MLflow asks one again for minutes, in an incident too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    begun = time.monotonic()
    with pytest.raises(
        WorkspaceError, match=r"expected a tracking store at .*; received no answer \(.*\); start it"
    ) as caught:
        tracking.prepare(line, "small")
    assert time.monotonic() - begun < 20
    assert "Background on this error" not in str(caught.value)
