"""A real Prefect server and a real MLflow server start with the locked packages, and an onboarding reports to both."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import httpx
import pytest
from mlflow import MlflowClient

from flows.programs import process
from tests import makers

pytestmark = pytest.mark.pipeline


def test_prefect_server_answers_with_its_version(prefect_server) -> None:
    assert httpx.get(f"{prefect_server}/health", timeout=10).json() is True
    assert httpx.get(f"{prefect_server}/admin/version", timeout=10).json().startswith("3.")


@pytest.fixture
def mlflow_server(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "mlflow"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=process.environment(), stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health", timeout=2).text == "OK":
                    break
            except httpx.HTTPError:
                assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text())
        yield url
    finally:
        process.end(server)


def test_onboarding_reports_to_both_servers(otmf, prefect_server, mlflow_server, tmp_path) -> None:
    root = makers.line(tmp_path / "small")
    otmf("onboard", makers.card(tmp_path / "cards", "first"), "--line", root, MLFLOW_TRACKING_URI=mlflow_server)
    client = MlflowClient(tracking_uri=mlflow_server)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id], max_results=100)
    assert sorted(run.data.tags.get("stage", "parent") for run in runs) == [
        "evaluate", "extract", "finetune", "head_tune", "merge_step", "parent", "pretrained"
    ]  # fmt: skip
    assert all(run.info.status == "FINISHED" for run in runs)
    merge = next(run for run in runs if run.data.tags.get("stage") == "merge_step")
    assert {artifact.path for artifact in client.list_artifacts(merge.info.run_id)} == {"saw.json", "masks.json"}
    assert not (root / ".otmf/mlflow").exists()
    found = httpx.post(
        f"{prefect_server}/flow_runs/filter", json={"flows": {"name": {"any_": ["onboard"]}}}, timeout=10
    ).json()
    assert any(run["state_type"] == "COMPLETED" and run["parameters"]["root"] == str(root) for run in found)


def test_log_of_a_stage_is_in_the_flow_run(otmf, prefect_server, tmp_path) -> None:
    root = makers.line(tmp_path / "small")
    otmf("onboard", makers.card(tmp_path / "cards", "logged"), "--line", root)
    messages: list[str] = []
    for _ in range(50):
        filters = {"logs": {"level": {"ge_": 0}}, "sort": "TIMESTAMP_DESC", "limit": 200}
        messages = [
            log["message"] for log in httpx.post(f"{prefect_server}/logs/filter", json=filters, timeout=10).json()
        ]
        if any("evaluate s01: logged" in message for message in messages):
            break
        time.sleep(0.2)
    assert any("finetune logged: epoch 2/2" in message for message in messages)
    assert any("evaluate s01: logged" in message for message in messages)
