from __future__ import annotations

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from otmf import experiments


@pytest.fixture
def client(tmp_path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_experiment_is_made_once(client, tmp_path) -> None:
    made = experiments.found_or_made(client, "shop", (tmp_path / "artifacts").as_uri())
    assert experiments.found_or_made(client, "shop", None) == made
    assert client.get_experiment(made).artifact_location == (tmp_path / "artifacts").as_uri()


def test_experiment_that_another_makes_meanwhile_is_taken(client, monkeypatch) -> None:
    """Between the question and the making, another process makes it."""
    create, others = client.create_experiment, []

    def late(name: str, **settings: object) -> str:
        others.append(create(name, **settings))
        return create(name, **settings)

    monkeypatch.setattr(client, "create_experiment", late)
    assert experiments.found_or_made(client, "shop", None) == others[0]


def test_what_the_store_refuses_otherwise_is_said(client) -> None:
    with pytest.raises(MlflowException, match="name"):
        experiments.found_or_made(client, "", None)
