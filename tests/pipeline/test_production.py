"""Both servers on PostgreSQL, a coordinator that may not train, two agents that share nothing with it but the remotes."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from flows.line import progress, workspace
from flows.programs import git, process
from flows.versions import history
from otmf.runtime import layout
from tests import makers
from tests.pipeline import production

pytestmark = pytest.mark.pipeline


@dataclass
class Site:
    """A production set-up: addresses of the servers, the coordinator's line, its git remote, the agents' folders."""

    prefect: str
    mlflow: str
    line: layout.Layout
    bare: Path
    agents: list[Path]
    called: list[dict] = field(default_factory=list)

    def runs(self, flow: str) -> list[dict]:
        asked = {"flows": {"name": {"any_": [flow]}}}
        return httpx.post(f"{self.prefect}/flow_runs/filter", json=asked, timeout=60).json()

    def otmf(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        extra = {"PREFECT_API_URL": self.prefect, "MLFLOW_TRACKING_URI": self.mlflow, **environment}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "otmf"), *map(str, arguments), "--line", str(self.line.root)],
            env={**process.environment(), "PREFECT_HOME": str(self.line.private / "prefect"), **extra},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    root = makers.line(folder / "coordinator" / "shop")
    bare = production.remotes(root, folder)
    agents = [folder / "agent-1", folder / "agent-2"]
    with (
        production.postgres() as database,
        production.prefect_server(folder / "prefect", database) as prefect,
        production.mlflow_server(folder / "mlflow", database) as mlflow,
        webhook() as (address, called),
    ):
        servers = {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": mlflow}
        found = Site(prefect, mlflow, layout.Layout(root), bare, agents, called)
        found.otmf("deploy", "--sweep", 20, "--agents", "--notify", address)
        with (
            production.worker(folder / "coordinator" / "worker", "cpu", **servers),
            production.agent(agents[0], bare, **servers),
            production.agent(agents[1], bare, **servers),
        ):
            yield found


def webhook():
    """A server that keeps what it is sent."""
    called: list[dict] = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            called.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    @contextlib.contextmanager
    def serving():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", called
        finally:
            server.shutdown()
            server.server_close()

    return serving()


def wait_for(condition, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


def tasks(line: layout.Layout) -> list[str]:
    return list(workspace.params(line).tasks)


def test_submissions_are_trained_by_agents_and_land_in_every_remote(site, tmp_path) -> None:
    for seed, name in enumerate(("first", "second"), start=1):
        site.otmf("submit", makers.card(tmp_path, name, seed=seed))
    wait_for(lambda: len(tasks(site.line)) == 2)
    wait_for(lambda: all(run["state_type"] == "COMPLETED" for run in site.runs("arrive")))
    stages = {run["name"] for run in site.runs("stage")}
    assert stages >= {
        "pretrained",
        "finetune first",
        "merge-step s01",
        "head-tune s01",
        "finetune second",
        "merge-step s02",
    }
    assert all(run["state_type"] == "COMPLETED" for run in site.runs("stage"))
    head = git.run(site.line.root, "rev-parse", "HEAD").strip()
    assert git.run(site.bare, "rev-parse", "main").strip() == head
    assert git.run(site.bare, "tag").split() == ["model/v1", "model/v2"]
    assert git.run(site.bare, "for-each-ref", "refs/otmf").strip() == "", "no attempt is left behind"
    clone = tmp_path / "elsewhere"
    subprocess.run(["git", "clone", "--quiet", str(site.bare), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "--quiet"], check=True, cwd=clone)
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], check=True, cwd=clone, capture_output=True, text=True
    )
    assert "up to date" in status.stdout
    client = MlflowClient(tracking_uri=site.mlflow)
    runs = client.search_runs([client.get_experiment_by_name("shop").experiment_id], max_results=100)
    trained = [run.data.tags["key"] for run in runs if run.data.tags.get("stage") == "finetune"]
    assert sorted(trained) == ["first", "second"], "each trained once, wherever"
    assert client.get_model_version_by_alias("shop", "champion").tags["otmf.version"] == "2"


def test_coordinator_does_not_train(site, tmp_path) -> None:
    log = (site.line.root.parent / "worker/log").read_text()
    assert "finetune first: epoch 2/2" in log, "what its agent said"
    done = subprocess.run(
        [sys.executable, "-m", "stages", "finetune", "first"], cwd=site.line.root, capture_output=True, text=True, check=False,
        env={**process.environment(), "OTMF_REFUSES": "pretrained,finetune,merge-step,head-tune"},
    )  # fmt: skip
    assert done.returncode == 75
    assert "expected the outputs of finetune first from an agent; received none in the DVC remote" in done.stderr


def test_card_the_gate_or_the_stages_refuse_is_notified(site, tmp_path) -> None:
    data = makers.arrays(seed=3)
    data["test_y"] = data["test_y"] * 0
    site.otmf(
        "submit", makers.card(tmp_path, "flat", seed=3, data=makers.arrays(seed=3), finetune={"learning_rate": 1e20})
    )
    wait_for(lambda: any("Failed" in call["subject"] for call in site.called))
    assert "flat" not in tasks(site.line)
    bodies = " ".join(call["body"] for call in site.called)
    assert "expected" in bodies


def test_somebody_else_pushed_and_the_next_submission_goes_on_from_there(site, tmp_path) -> None:
    clone = tmp_path / "colleague"
    subprocess.run(["git", "clone", "--quiet", str(site.bare), str(clone)], check=True)
    (clone / "NOTES.md").write_text("a colleague's words\n")
    makers.commit(clone, "Say something")
    git.run(clone, "push", "--quiet", "origin", "main")
    known = len(tasks(site.line))
    site.otmf("submit", makers.card(tmp_path, "third", seed=4))
    wait_for(lambda: len(tasks(site.line)) == known + 1)
    assert (site.line.root / "NOTES.md").exists()
    wait_for(lambda: git.run(site.bare, "rev-parse", "main") == git.run(site.line.root, "rev-parse", "HEAD"))
    assert history.champion(history.decisions(site.line.root)).task == "third"


def test_stage_of_an_agent_that_dies_is_asked_of_another(site, tmp_path) -> None:
    """A machine that is gone: worker, engine, DVC and trainer end at once, and nobody starts them again.

    The fine-tuning is long enough to be met, and gentle: the gate would rightly refuse a task that left the others far behind.
    """
    known = len(tasks(site.line))
    site.otmf("submit", makers.card(tmp_path, "fourth", seed=5, finetune={"epochs": 400, "learning_rate": 1e-6}))
    dead: list[psutil.Process] = []

    def trained() -> bool:
        for agent in site.agents:
            own = [one for one in psutil.process_iter() if of_agent(one, agent)]
            if any(is_stage(one, "finetune") for one in own):
                dead.extend(own)
        return bool(dead)

    wait_for(trained)
    for one in dead:
        with contextlib.suppress(psutil.Error):
            one.kill()
    left: list[float | None] = []

    def onboarded() -> bool:
        left.extend(one.left for one in progress.running(site.line) if one.stage == "finetune@fourth")
        return len(tasks(site.line)) == known + 1

    wait_for(onboarded)
    assert any(minutes is not None for minutes in left), "otmf status knows how long the agent will take"
    states = sorted(run["state_type"] for run in site.runs("stage") if run["name"] == "finetune fourth")
    assert states == ["COMPLETED", "CRASHED"]
    wait_for(lambda: any("Crashed" in call["subject"] for call in site.called), 60)


def of_agent(process: psutil.Process, agent: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("OTMF_LINE") == str(agent / "clone")
    return False


def is_stage(process: psutil.Process, name: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:4] == ["-m", "stages", name]
    return False


def test_agent_with_other_code_is_refused_naming_both(site) -> None:
    """Both agents' copies of the code change under them."""
    for agent in site.agents:
        with (agent / "code/otmf/provenance/digests.py").open("a") as source:
            source.write("# changed\n")
    done = site.otmf("retrain", "third", code=1, OTMF_AGENTS="gpu")
    assert "expected an agent with the coordinator's code, 0.1.0+" in done.stderr
    assert "received 0.1.0+" in done.stderr
