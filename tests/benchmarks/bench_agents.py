"""Fine-tunings of several tasks on one agent and on more: wall time, and how much of it the agents were at work.

    python -m tests.benchmarks.bench_agents --agents 1 2 --tasks 6 [--epochs N]     real fine-tunings
    python -m tests.benchmarks.bench_agents --agents 2 4 8 16 --sleep S [S ...]     one sleeping one for each agent

For each number of agents: a line with a base and one task, its git remote and DVC remote, a coordinator that may not train,
agents with clones and code of their own that take one stage at a time, both servers on PostgreSQL, all real. All tasks are
submitted at once. Wall time is from the first submission to the end of the last fine-tuning by the server's record, hand-over
included; efficiency is the fine-tunings' own seconds over wall time times agents.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
from mlflow import MlflowClient

from flows.line import workspace
from flows.programs import process
from tests import makers
from tests.benchmarks import bench_recovery, machine, sleeping
from tests.pipeline import production

PATIENCE = 3 * 3600.0
OTMF = str(Path(sys.executable).parent / "otmf")


def measure(folder: Path, agents: int, tasks: int, epochs: int, sleep: float) -> list[object]:
    """One row: agents, tasks, wall seconds, the fine-tunings' own seconds (median), efficiency."""
    line = bench_recovery.lenient(folder / "coordinator" / "small")
    if sleep:
        sleeping.into(line)
        workspace.commit(line.root, "Sleep in place of computing")
    bare = production.remotes(line.root, folder)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        database = enter(production.postgres())
        prefect = enter(production.prefect_server(folder / "prefect", database))
        tracking = enter(production.mlflow_server(folder / "mlflow", database))
        given = {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": tracking, "OTMF_SLEEP": str(sleep)}
        own = {
            **process.environment(),
            "PYTHONPATH": str(production.CODE),
            "PREFECT_HOME": str(folder / "home"),
            **given,
        }
        base = makers.card(folder / "cards", "base_task", seed=100)
        subprocess.run(
            [OTMF, "onboard", base, "--line", line.root], check=True, stdout=subprocess.DEVNULL, env={**own, "OTMF_SLEEP": "0"}
        )  # fmt: skip
        subprocess.run([OTMF, "deploy", "--line", line.root, "--sweep", "600", "--agents"], check=True,
                       stdout=subprocess.DEVNULL, env=own)  # fmt: skip
        path = {"PYTHONPATH": str(production.CODE)}
        enter(production.worker(folder / "coordinator" / "worker", "cpu", "--limit", agents + 1, **given, **path))
        for number in range(agents):
            enter(production.agent(folder / f"agent-{number}", bare, "--limit", 1, **given))
        _until(lambda: _online(prefect) == agents)
        cards = [
            makers.card(folder / "cards" / name, name, seed=number, data=makers.arrays(seed=number, train=480),
                        finetune={"epochs": epochs})
            for number, name in ((number, f"task_{number:02d}") for number in range(1, tasks + 1))
        ]  # fmt: skip
        site = bench_recovery.Site({}, line, prefect, tracking)
        begun = datetime.now(UTC)
        for card in cards:
            site.submit(card)
        _until(lambda: len(_done(prefect, cards)) == tasks)
        ended = max(datetime.fromisoformat(run["end_time"]) for run in _done(prefect, cards))
        seconds = [sleep] * tasks if sleep else _seconds(tracking, cards)
    wall = (ended - begun).total_seconds()
    middle = sorted(seconds)[len(seconds) // 2]
    return [agents, tasks, f"{wall:.0f}", f"{middle:.0f}", f"{sum(seconds) / (agents * wall):.2f}"]


def _online(api: str) -> int:
    asked = httpx.post(
        f"{api}/work_pools/gpu/workers/filter", json={"workers": {"status": {"any_": ["ONLINE"]}}}, timeout=60
    )
    return len(asked.raise_for_status().json())


def _done(api: str, cards: list[Path]) -> list[dict]:
    """The ended runs of the cards' fine-tunings."""
    names = [f"finetune {card.stem}" for card in cards]
    asked = {"flow_runs": {"name": {"any_": names}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    return httpx.post(f"{api}/flow_runs/filter", json=asked, timeout=60).raise_for_status().json()


def _seconds(tracking: str, cards: list[Path]) -> list[float]:
    """The fine-tunings' own seconds, as tracked."""
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], filter_string="tags.stage = 'finetune'", max_results=1000)
    wanted = {card.stem for card in cards}
    return [run.data.metrics["seconds"] for run in runs if run.data.tags["key"] in wanted]


def _until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not done after {PATIENCE:.0f} s")
        time.sleep(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tasks", type=int, help="as many as agents otherwise")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--sleep", type=float, nargs="+", default=[0.0], help="for each number of agents, or one for all"
    )
    given = parser.parse_args()
    sleeps = given.sleep * len(given.agents) if len(given.sleep) == 1 else given.sleep
    rows = []
    for agents, sleep in zip(given.agents, sleeps, strict=True):
        with tempfile.TemporaryDirectory(prefix="otmf-agents-", ignore_cleanup_errors=True) as name:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            rows.append(measure(Path(name), agents, given.tasks or agents, given.epochs, sleep))
        print(rows[-1], flush=True)
    command = f"python -m tests.benchmarks.bench_agents {' '.join(sys.argv[1:])}"
    title = (
        "Sleeping fine-tunings on more and more agents" if any(sleeps) else "Real fine-tunings on one agent and more"
    )
    print(machine.heading(title, command))
    print(machine.table(["agents", "fine-tunings", "wall, s", "one alone, s (median)", "efficiency"], rows))


if __name__ == "__main__":
    main()
