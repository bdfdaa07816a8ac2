"""Tasks arriving unattended: a command, an event by HTTP, a watched folder, bad ones; a real server and a real worker."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from flows.line import workspace
from flows.programs import git, process
from flows.unattended import inbox
from flows.versions import history as version_history
from otmf.runtime import layout
from tests import makers

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def root(otmf, tmp_path_factory) -> Path:
    root = makers.line(tmp_path_factory.mktemp("arrivals") / "watched")
    said = otmf("deploy", "--line", root, "--sweep", "20").stdout
    assert "Registered: arrive/watched, sweep/watched, retrain/watched" in " ".join(said.split())
    return root


@pytest.fixture(scope="module")
def worker(root, prefect_server, warm_interpreter, tmp_path_factory) -> Iterator[subprocess.Popen]:
    folder = tmp_path_factory.mktemp("worker")
    extra = {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(folder),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        **warm_interpreter,
    }
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"],
            env=process.environment(extra), cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield started
    process.end(started)


def runs(url: str, deployment: str) -> list[dict]:
    found = httpx.post(f"{url}/deployments/filter", json={}, timeout=60).json()
    ids = [one["id"] for one in found if one["path"] is None and one["entrypoint"].endswith(f".{deployment}")]
    asked = {"flow_runs": {"deployment_id": {"any_": ids}}}
    return httpx.post(f"{url}/flow_runs/filter", json=asked, timeout=60).json()


def wait_for(condition, seconds: float = 600) -> None:
    """Until the condition holds. A question that the server leaves unanswered, as on a machine that stands still, is asked again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TimeoutException):
            if condition():
                return
        time.sleep(0.5)
    raise AssertionError("it did not happen in time")


def tasks(root: Path) -> list[str]:
    return list(workspace.params(layout.Layout(root)).tasks)


def emit(url: str, payload: dict) -> None:
    """The plain HTTP call of docs/operations.md."""
    event = {"event": "otmf.task.submitted", "resource": {"prefect.resource.id": "otmf.line.watched"}, "payload": payload,
             "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "id": str(uuid.uuid4())}  # fmt: skip
    httpx.post(f"{url}/events", json=[event], timeout=60).raise_for_status()


def test_one_card_through_every_door_is_onboarded_once(otmf, root, worker, prefect_server, tmp_path) -> None:
    card = makers.card(tmp_path / "cards", "first")
    said = [otmf("submit", card, "--line", root).stdout.split()[2] for _ in range(2)]
    assert said[0] == said[1]
    name = said[0].rstrip(";")
    assert name.startswith("first-")
    emit(prefect_server, {"submission": name})
    watched = root / "data/inbox/by-hand"
    shutil.copytree(tmp_path / "cards", watched)
    wait_for(lambda: tasks(root) == ["first"] and not any((root / "data/inbox").iterdir()))
    wait_for(lambda: all(run["state_type"] == "COMPLETED" for run in runs(prefect_server, "arrive")))
    subjects = git.run(root, "log", "--format=%s").splitlines()
    assert [subject for subject in subjects if subject.startswith(("Onboard", "Retrain"))] == ["Onboard first as s01"]
    assert (root / ".otmf/arrived" / name / "reason.txt").read_text() == "onboarded as s01\n"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"submission": "../../$(touch x)"}, "expected the name of a folder in the inbox; received '../../$(touch x)'"),
        ({"submission": "nothing-there"}, "expected a folder in the inbox; received 'nothing-there', which is not there"),
        ({"submission": "a" * 5000}, "expected the name of a folder in the inbox"),
        ({}, "expected the name of a folder in the inbox; received ''"),
        ({"submission": "no-such", "command": "rm -r ."}, "expected a folder in the inbox; received 'no-such'"),
    ],
)  # fmt: skip
def test_event_that_names_nothing_of_ours_fails_with_a_sentence(root, worker, prefect_server, payload, message) -> None:
    before = {run["id"] for run in runs(prefect_server, "arrive")}
    emit(prefect_server, payload)

    def ended() -> list[dict]:
        return [
            run for run in runs(prefect_server, "arrive") if run["id"] not in before and run["state_type"] == "FAILED"
        ]

    wait_for(ended)
    assert message in ended()[0]["state"]["message"]
    assert not (root / "x").exists()


@pytest.mark.parametrize("payload", [{"submission": "huge", "more": "x" * 5_000_000}, {"submission": ["first"]}])
def test_event_that_prefect_refuses_starts_nothing(root, worker, prefect_server, payload) -> None:
    before = {run["id"] for run in runs(prefect_server, "arrive")}
    emit(prefect_server, payload)
    emit(prefect_server, {"submission": "after-it"})
    wait_for(lambda: {run["id"] for run in runs(prefect_server, "arrive")} - before)
    time.sleep(5)
    new = [run for run in runs(prefect_server, "arrive") if run["id"] not in before]
    assert [run["parameters"]["submission"] for run in new] == ["after-it"]


def test_burst_is_merged_in_the_order_accepted_and_trained_side_by_side(otmf, root, worker, tmp_path) -> None:
    """The first is long enough in its merge for the others to be trained meanwhile."""
    known = len(tasks(root))
    makers.card(tmp_path / "zebra", "zebra", seed=5, merge={"steps": 1500, "objective": "sinkhorn_divergence"})
    for seed, name in enumerate(("ant", "mole"), start=6):
        makers.card(tmp_path / name, name, seed=seed)
    for name in ("zebra", "ant", "mole", "ant", "zebra"):
        otmf("submit", tmp_path / name / f"{name}.yaml", "--line", root)
    wait_for(lambda: len(tasks(root)) == known + 3 and not inbox.waiting(layout.Layout(root)))
    order = ["zebra", "ant", "mole"]
    assert tasks(root)[known:] == order
    assert [entry.task for entry in version_history.decisions(root)][-3:] == order
    client = MlflowClient(tracking_uri=f"sqlite:///{root / '.otmf/mlflow/mlflow.db'}")
    experiment = client.get_experiment_by_name("watched").experiment_id
    parents = client.search_runs([experiment], filter_string="tags.kind = 'onboard'")
    restored = {
        run.data.tags["task"] for run in parents if any(tag.startswith("restored.finetune") for tag in run.data.tags)
    }
    assert restored >= set(order[1:]), "trained before their turn came"


def test_rollback_while_a_worker_onboards_is_done_at_once_and_both_land(otmf, root, worker, tmp_path) -> None:
    for seed in range(len(tasks(root)), 2):  # the first has nothing to be merged with
        otmf("onboard", makers.card(tmp_path, f"early{seed}", seed=20 + seed), "--line", root)
    known = tasks(root)
    slow = {"steps": 1200, "objective": "sinkhorn_divergence"}
    otmf("submit", makers.card(tmp_path, "finch", seed=11, merge=slow), "--line", root)
    attempt = root / ".otmf/attempts/finch"
    wait_for(lambda: any(is_stage(one, "merge_step") for one in working(psutil.process_iter(), attempt)))
    otmf("rollback", "v1", "--reason", "at night", "--line", root)
    assert "finch" not in tasks(root), "the onboarding goes on"
    assert version_history.decisions(root)[-1].action == "rolled_back"
    wait_for(lambda: tasks(root) == [*known, "finch"] and not inbox.waiting(layout.Layout(root)))
    history = [(entry.action, entry.version) for entry in version_history.decisions(root)]
    assert history[-2:] == [("rolled_back", 1), ("accepted", len(known) + 1)]
    assert re.search(r"\d+ checks hold, 0 do not", otmf("verify", "--unsigned", "--line", root).stdout)


def test_run_whose_engine_is_killed_is_taken_up_again(root, otmf, worker, prefect_server, tmp_path) -> None:
    known = tasks(root)
    otmf(
        "submit",
        makers.card(tmp_path, "owl", seed=9, merge={"steps": 1200, "objective": "sinkhorn_divergence"}),
        "--line",
        root,
    )

    attempt = root / ".otmf/attempts/owl"

    def merging() -> list[psutil.Process]:
        return [one for one in working(psutil.process_iter(), attempt) if is_stage(one, "merge_step")]

    wait_for(merging)
    stage = merging()[0]
    asking, *_ = working(psutil.Process(worker.pid).children(recursive=True), attempt)
    engine = next(one for one in asking.parents() if "prefect.engine" in " ".join(one.cmdline()))
    engine.kill()
    wait_for(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE, 60)
    wait_for(merging)
    wait_for(lambda: tasks(root) == [*known, "owl"] and not inbox.waiting(layout.Layout(root)))
    of_either = lambda: runs(prefect_server, "arrive") + runs(prefect_server, "sweep")  # noqa: E731
    wait_for(lambda: "CRASHED" in {run["state_type"] for run in of_either()}, 120)
    subjects = git.run(root, "log", "--format=%s").splitlines()
    assert sum(subject.startswith("Onboard owl") for subject in subjects) == 1


def working(processes: Iterable[psutil.Process], folder: Path) -> list[psutil.Process]:
    """Those whose current folder is one."""
    found = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            if Path(one.cwd()) == folder:
                found.append(one)
    return found


def is_stage(process: psutil.Process, name: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[1:4] == ["-m", "stages", name]
    return False


def test_submission_waits_for_an_environment_that_fails_and_is_tried_again(root, otmf, worker, tmp_path) -> None:
    incoming = root / ".otmf/incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.write_text("in the way")
    name = otmf("submit", makers.card(tmp_path, "toad", seed=10), "--line", root).stdout.split()[2].rstrip(";")
    line = layout.Layout(root)
    wait_for(lambda: inbox.place(line, name) is not None and inbox.place(line, name).failures)
    assert "expected to read and write the line's files" in inbox.place(line, name).said
    incoming.unlink()
    wait_for(lambda: inbox.outcome(line, name) is not None)
    assert inbox.outcome(line, name)[0] == "arrived"


def test_submission_that_cannot_be_used_is_put_aside_with_the_reason(root, worker, tmp_path) -> None:
    folder = root / "data/inbox/leads-out"
    folder.mkdir(parents=True)
    makers.write_yaml(folder / "card.yaml", {"name": "out", "source": "npz", "path": "../../../params.yaml"})
    linked = root / "data/inbox/linked"
    linked.mkdir()
    makers.card(linked, "linked")
    (linked / "more.npz").symlink_to(tmp_path)
    wait_for(lambda: all(inbox.outcome(layout.Layout(root), name) for name in ("leads-out", "linked")))
    reasons = {path.parent.name: path.read_text() for path in (root / ".otmf/refused").glob("*/reason.txt")}
    assert "which leads outside; put the data beside the card" in reasons["leads-out"]
    assert "received the link more.npz" in reasons["linked"]
    assert "out" not in tasks(root)


def test_submitting_without_a_server_says_what_to_do(otmf, root, tmp_path) -> None:
    said = otmf("submit", makers.card(tmp_path, "lost"), "--line", root, code=1, PREFECT_API_URL="").stderr
    assert "expected the address of a Prefect server in PREFECT_API_URL; received none" in said
