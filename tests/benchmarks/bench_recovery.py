"""Kills processes of a running production set-up at random, and compares what comes out with an undisturbed run.

    python -m tests.benchmarks.bench_recovery [--kills N] [--seed N] [--folder DIR]

One task is submitted for each kill. While it is onboarded, a process of a kind drawn at random (flow engine, worker, dvc,
stage, Prefect server, MLflow server, PostgreSQL) gets SIGKILL at a moment drawn at random. Servers, database and worker
are started again at once, as systemd does. Printed: for each kind, the seconds until a stage of the task runs again or
the task is onboarded; whether each task is onboarded once, in order; `dvc status`; whether the bytes are those of a line
that got the same tasks by `otmf onboard` with nobody disturbing it. Needs PostgreSQL. With --folder it can be interrupted: called
again with the same arguments it goes on after the last kill it noted in kills.jsonl there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from flows.dvc import commands
from flows.line import progress, workspace
from flows.programs import process, warm
from flows.services import prefect_server
from flows.unattended import inbox
from flows.versions import history
from otmf import settings
from otmf.provenance.digests import digest
from otmf.runtime import layout
from tests import makers
from tests.benchmarks import machine
from tests.pipeline import production

KINDS = ("engine", "worker", "dvc", "stage", "prefect", "mlflow", "postgres")
WITHIN, SPAN = 120.0, 12.0


class Service:
    """A long-lived process that is started again whenever it ends."""

    def __init__(self, command: list[object], folder: Path, *, url: str | None = None, **keys: object) -> None:
        self.command, self.folder, self.url, self.keys = [str(part) for part in command], folder, url, keys
        folder.mkdir(parents=True, exist_ok=True)
        self.running: subprocess.Popen | None = None
        self.stopping, self.starts = False, 0
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()
        self.wait()

    def _keep(self) -> None:
        while not self.stopping:
            with (self.folder / "log").open("ab") as log:
                self.running = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self.keys
                )
            self.starts += 1
            self.running.wait()
            time.sleep(0.5)

    def wait(self) -> None:
        while self.running is None or (self.url and not production.answers(self.url)):
            time.sleep(0.2)

    def stop(self) -> None:
        self.stopping = True
        process.end(self.running)
        self.keeper.join(10)


@dataclass
class Site:
    """The set-up under attack."""

    services: dict[str, Service]
    line: layout.Layout
    api: str
    tracking: str

    def victims(self, kind: str) -> list[psutil.Process]:
        if kind in self.services:
            with contextlib.suppress(psutil.Error):
                return [psutil.Process(self.services[kind].running.pid)]
            return []
        worker = self.services["worker"]
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = one.cmdline()
                if one.environ().get("OTMF_SITE") == str(worker.folder) and _is(kind, words):
                    found.append(one)
        return found

    def submit(self, card: Path) -> str:
        name = inbox.deliver(self.line, card)
        inbox.accept(self.line, name)
        self.announce(name)
        return name

    def announce(self, name: str) -> None:
        event = {"event": "otmf.task.submitted", "resource": {"prefect.resource.id": "otmf.line.small"}, "id": str(uuid.uuid4()),
                 "payload": {"submission": name}, "occurred": datetime.now(UTC).isoformat()}  # fmt: skip
        httpx.post(f"{self.api}/events", json=[event], timeout=60).raise_for_status()


def _is(kind: str, words: list[str]) -> bool:
    if kind == "engine":
        return "prefect.engine" in words
    return words[1:3] == ["-m", "stages" if kind == "stage" else "stages.warm.dvc"]


@contextlib.contextmanager
def site(folder: Path, line: layout.Layout, *, sweep: int = 10, **extra: str) -> Iterator[Site]:
    """Database, both servers and a worker, each started again when it ends; `extra` in their environment.

    Args:
        folder, line: where they keep what they keep; what they work on.
        sweep: seconds between looks at the inbox.
        extra: in their environment.
    """
    bin_, database, api, tracking = production.programs(), *(production.free_port() for _ in range(3))
    home = Path(tempfile.mkdtemp(prefix="otmf-postgres-", dir="/tmp"))
    become = production.owner_of(home)
    initdb = [bin_ / "initdb", "-D", home / "data", "-U", "otmf", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=home, **become)
    address, url = f"otmf@127.0.0.1:{database}", f"http://127.0.0.1:{api}/api"
    environment = {
        **process.environment(),
        "PREFECT_HOME": str(folder / "prefect-home"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{address}/prefect",
        "PREFECT_API_URL": url,
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{tracking}",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        **production.NO_JOBS,
        "OTMF_SITE": str(folder / "worker"),
        **extra,
    }
    python, env = [sys.executable, "-m"], {"env": environment}
    services: dict[str, Service] = {}
    try:
        services["postgres"] = Service(
            [bin_ / "postgres", "-D", home / "data", "-h", "127.0.0.1", "-p", database, "-k", home],
            folder / "postgres", cwd=home, **become,
        )  # fmt: skip
        _createdb(bin_, database)
        services["prefect"] = Service(
            [*python, "prefect", "server", "start", "--host", "127.0.0.1", "--port", api],
            folder / "prefect", url=f"{url}/health", **env,
        )  # fmt: skip
        services["mlflow"] = Service(
            [*python, "mlflow", "server", "--host", "127.0.0.1", "--port", tracking, "--workers", 1,
             "--backend-store-uri", f"postgresql://{address}/mlflow", "--artifacts-destination", folder / "artifacts"],
            folder / "mlflow", url=f"http://127.0.0.1:{tracking}/health", **env,
        )  # fmt: skip
        otmf = str(Path(sys.executable).parent / "otmf")
        subprocess.run([otmf, "deploy", "--line", line.root, "--sweep", str(sweep)], check=True, **env)
        services["worker"] = Service(
            [*python, "prefect", "worker", "start", "--pool", "cpu", "--type", "process", "--limit", 3],
            folder / "worker",
            **env,
        )
        os.environ["MLFLOW_TRACKING_URI"] = environment["MLFLOW_TRACKING_URI"]
        yield Site(services, line, url, environment["MLFLOW_TRACKING_URI"])
    finally:
        for service in reversed(services.values()):
            service.stop()


def _createdb(bin_: Path, port: int) -> None:
    for name in ("prefect", "mlflow"):
        while subprocess.run(
            [bin_ / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "otmf", name],
            check=False,
            stderr=subprocess.DEVNULL,
        ).returncode:
            time.sleep(0.3)


def attack(found: Site, kind: str, card: Path, delay: float) -> tuple[float | None, bool]:
    """Submits a task and kills a process of a kind while it is onboarded; seconds until it went on, and whether there was one."""
    while not all(production.answers(one.url) for one in found.services.values() if one.url):
        time.sleep(0.5)
    name = found.submit(card)
    _until(lambda: progress.running(found.line) or inbox.place(found.line, name) is None, WITHIN)
    time.sleep(delay)
    victims: list[psutil.Process] = []
    _until(lambda: victims.extend(found.victims(kind)) or victims or inbox.place(found.line, name) is None, WITHIN)
    for victim in victims:
        with contextlib.suppress(psutil.Error):
            victim.kill()
    at, begun = time.monotonic(), datetime.now(UTC)
    went_on = _until(lambda: inbox.place(found.line, name) is None or _goes_on(found.line, begun), 2 * WITHIN)
    seconds = time.monotonic() - at if went_on else None
    _until(lambda: inbox.place(found.line, name) is None, 4 * WITHIN)
    return seconds, bool(victims)


def _goes_on(line: layout.Layout, since: datetime) -> bool:
    now = datetime.now(UTC)
    return any(now.timestamp() - 60 * one.minutes > since.timestamp() for one in progress.running(line))


def _until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def digests(line: layout.Layout) -> dict[str, str]:
    """Step -> sha256 of its model and heads together."""
    order = settings.chain(workspace.params(line).steps)
    return {step: digest(line.merged(step)) + digest(line.heads(step)) for step in order}


def lenient(folder: Path) -> layout.Layout:
    """A small line whose gate lets everything through: its tasks are too small to judge."""
    line = layout.Layout(makers.line(folder))
    document = workspace.read_params(line)
    document["gate"] = {"least_of_finetuned": 0, "largest_drop": 1, "largest_average_drop": 1}
    workspace.write_params(line, document)
    workspace.commit(line.root, "Let everything through")
    return line


def undisturbed(folder: Path, cards: list[Path]) -> layout.Layout:
    """A line that got the same tasks in the same order by the command."""
    line = lenient(folder / "small")
    otmf = str(Path(sys.executable).parent / "otmf")
    with warm.interpreter() as stages, prefect_server.own(folder / "prefect") as url:
        env = {**process.environment(), **stages, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        env.pop("MLFLOW_TRACKING_URI", None)
        for card in cards:
            subprocess.run([otmf, "onboard", card, "--line", line.root], check=True, env=env, stdout=subprocess.DEVNULL)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="otmf-recovery-"))
    rng = random.Random(given.seed)
    notes = folder / "kills.jsonl"
    done = [json.loads(text) for text in notes.read_text(encoding="utf-8").splitlines()] if notes.exists() else []
    line = layout.Layout(folder / "small") if done else lenient(folder / "small")
    cards = [
        makers.card(folder / "cards", f"task_{number:02d}", seed=number, merge={"steps": 300})
        for number in range(1, given.kills + 1)
    ]
    kinds = [KINDS[number % len(KINDS)] for number in range(given.kills)]
    rng.shuffle(kinds)
    delays = [rng.uniform(0, SPAN) for _ in kinds]
    with warm.interpreter() as stages, site(folder, line, **stages) as found:
        for number, (card, kind) in enumerate(zip(cards, kinds, strict=True), start=1):
            if number <= len(done):
                continue
            seconds, killed = attack(found, kind, card, delays[number - 1])
            left = commands.stale(line.root)
            done.append({"kind": kind, "seconds": seconds, "killed": killed, "stale": left})
            with notes.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
            said = "not within four minutes" if seconds is None else f"{seconds:.1f} s"
            print(
                f"{number}: {kind} {'killed' if killed else 'came too late'}, went on after {said}, stale: {left or 'nothing'}",
                flush=True,
            )
        _until(lambda: not inbox.waiting(line), WITHIN)
        orphans = found.victims("stage")
    order = [entry.task for entry in history.decisions(line.root)]
    expected = [card.stem for card in cards]
    same = digests(undisturbed(folder / "undisturbed", cards)) == digests(line)
    command = f"python -m tests.benchmarks.bench_recovery --kills {given.kills} --seed {given.seed}"
    print(machine.heading("Recovery from SIGKILL", command))
    rows = []
    for kind in KINDS:
        all_ = [one["seconds"] for one in done if one["kind"] == kind]
        known = [seconds for seconds in all_ if seconds is not None]
        middle = [f"{statistics.median(known):.1f}", f"{max(known):.1f}"] if known else ["-", "-"]
        rows.append([kind, len(all_), sum(seconds <= WITHIN for seconds in known), *middle])
    print(machine.table(["killed", "times", "went on within 120 s", "median, s", "greatest, s"], rows))
    print(
        f"Tasks onboarded: {len(order)} of {len(expected)}, each once and in the order accepted: {order == expected}."
    )
    clean, missed = sum(not one["stale"] for one in done), sum(not one["killed"] for one in done)
    print(f"`dvc status` empty after each: {clean} of {given.kills}. Kills that found no such process: {missed}.")
    print(f"Trainers left running: {len(orphans)}. Bytes of every step equal to the undisturbed line's: {same}.")
    if not (order == expected and same and clean == given.kills and not orphans):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
