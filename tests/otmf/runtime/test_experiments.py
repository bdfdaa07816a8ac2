from __future__ import annotations

import subprocess
import sys

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from otmf.runtime import experiments


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


def test_file_that_several_open_at_once_has_its_tables_made_by_one(tmp_path) -> None:
    """Unlocked, the second to come reads tables that the first has not finished."""
    code = (
        "import sys; from mlflow import MlflowClient; from otmf.runtime import experiments\n"
        "with experiments.opening(sys.argv[1]):\n"
        "    print(experiments.found_or_made(MlflowClient(tracking_uri=sys.argv[1]), 'shop', None))"
    )
    where = f"sqlite:///{tmp_path / 'mlflow.db'}"
    started = [
        subprocess.Popen([sys.executable, "-c", code, where], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(3)
    ]
    said = {one.communicate(timeout=300)[0].strip() for one in started}
    assert said == {"1"}
    assert all(one.returncode == 0 for one in started)


def test_store_behind_an_address_needs_no_lock(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with experiments.opening("http://localhost:5000"):
        assert not list(tmp_path.iterdir())
