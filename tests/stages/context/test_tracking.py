from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from otmf import settings
from stages.context import current_line, tracking
from stages.context.run import Facts
from stages.jobs import send_tracking


@pytest.fixture
def line(tmp_path, monkeypatch) -> current_line.Line:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return current_line.Line(tmp_path, settings.check({"line": "small", "backbone": {"model": "ViT-B-32"}}))


def facts(line: current_line.Line) -> Facts:
    output = line.root / "model"
    output.write_bytes(b"weights")
    return Facts([], [output], {"a": {"b": 1}}, {"seconds": 2.0}, {"loss": [(1, 0.5), (2, 0.25)]}, {"more": {"x": 1}})


def runs(line: current_line.Line) -> list:
    client, experiment = tracking.connect(line)
    return client.search_runs([experiment])


def test_record_of_a_store_that_went_away_is_sent_when_it_is_back(line, monkeypatch, capsys) -> None:
    store = tracking.connect(line)
    create = MlflowClient.create_run

    def away(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(MlflowClient, "create_run", away)
    tracking.log(store, line, "finetune", ["birds"], facts(line))
    assert "its record is kept to be sent later" in capsys.readouterr().out
    assert len(list((line.root / ".otmf/unsent").glob("*.json"))) == 1
    with pytest.raises(ConnectionError, match="expected a tracking store"):
        send_tracking.main(line)
    monkeypatch.setattr(MlflowClient, "create_run", create)
    send_tracking.main(line)
    assert "unsent: 1 records sent" in capsys.readouterr().out
    assert not list((line.root / ".otmf/unsent").iterdir())
    (found,) = runs(line)
    assert found.data.params == {"a.b": "1"}
    assert found.data.metrics == {"seconds": 2.0, "loss": 0.25}
    assert found.data.tags["key"] == "birds"
    assert found.data.tags["output.model"]
    assert found.info.status == "FINISHED"


def test_record_kept_is_what_would_have_been_sent(line, monkeypatch) -> None:
    store = tracking.connect(line)
    tracking.log(store, line, "finetune", ["birds"], facts(line))
    monkeypatch.setenv("OTMF_UNSENT", str(line.root / "aside"))
    monkeypatch.setattr(tracking, "_send", fails_once(tracking._send))
    tracking.log(store, line, "finetune", ["birds"], facts(line))
    assert Path(line.root / "aside").is_dir()
    tracking.deliver(store, line)
    first, second = (found.data for found in runs(line))
    assert (first.params, first.metrics) == (second.params, second.metrics)
    tags = [
        {key: value for key, value in found.tags.items() if not key.startswith("mlflow")} for found in (first, second)
    ]
    assert tags[0] == tags[1]


def fails_once(send):
    calls = []

    def wrapped(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("away")
        send(*arguments)

    return wrapped
