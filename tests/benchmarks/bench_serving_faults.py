"""Whether `otmf serve` loses an answer, or grows, while it is disturbed.

    python -m tests.benchmarks.bench_serving_faults [--requests N] [--clients N] [--restarts N] [--rollbacks N] [--output FILE]

A line of two tasks is served. Clients ask for predictions one after the other, on connections that are kept. Meanwhile the
champion is switched, the server gets SIGTERM and is started again as systemd does, and a flood of connections sends half a head each,
again and again. A client counts a request as answered, refused in a sentence, or not accepted (the listener was closed, or the
connection ended before a byte of an answer); the last two it sends again until they are answered. Then every answered id is looked for in
the log of predictions and in the ledger. Prints Markdown; exit code 1 if an answer was lost or the server's memory grew.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from flows.programs import process
from flows.serving import serve
from otmf.provenance import ledger
from otmf.runtime import layout
from tests.benchmarks import bench_serving, machine
from tests.pipeline import production
from tests.pipeline.serving import PNG, picture

OTMF = bench_serving.OTMF
FLOOD, LARGEST_GROWTH = 300, 1.05
WARM = 5.0  # seconds after a start that say nothing about growth
OPTIONS = ("--linger", "1", "--grace", "20", "--head-seconds", "2")


@dataclasses.dataclass
class Seen:
    """What clients saw: ids answered and outcomes of attempts; `lost` holds what is none of the outcomes that are allowed."""

    ids: list[str] = dataclasses.field(default_factory=list)
    outcomes: Counter = dataclasses.field(default_factory=Counter)
    versions: Counter = dataclasses.field(default_factory=Counter)
    lost: list[str] = dataclasses.field(default_factory=list)
    longest: float = 0.0


class Server:
    """The server under attack, started again whenever it ends; how it ended and how large it was."""

    def __init__(self, line: layout.Layout, port: int, log: Path) -> None:
        self.command = [OTMF, "serve", "--line", str(line.root), "--port", str(port), *OPTIONS]
        self.url, self.log, self.port = f"http://127.0.0.1:{port}", log, port
        self.codes: list[int] = []
        self.sizes: list[tuple[int, float, float]] = []  # start, seconds since it was ready, MiB
        self.starts = 0
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command, env=process.environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        self.starts += 1
        production.until(lambda: production.answers(f"{self.url}/ready"), 90)
        self.since = time.monotonic()

    def restart(self) -> float:
        """Seconds from SIGTERM to its end."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.codes.append(self.process.wait(60))
        taken = time.monotonic() - begun
        self.start()
        return taken

    def measure(self) -> None:
        with contextlib.suppress(psutil.Error, ValueError):
            (model,) = psutil.Process(self.process.pid).children()
            size = model.memory_info().rss / 2**20
            self.sizes.append((self.starts, time.monotonic() - self.since, size))


class Clients:
    """Threads that ask until as many requests as wanted have been answered."""

    def __init__(self, url: str, wanted: int, count: int) -> None:
        self.url, self.wanted, self.seen, self.lock = url, wanted, Seen(), threading.Lock()
        self.content = picture()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    @property
    def done(self) -> int:
        return len(self.seen.ids)

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while self.done < self.wanted:
                begun = time.monotonic()
                while not self._answered(client):
                    time.sleep(0.05)
                with self.lock:
                    self.seen.longest = max(self.seen.longest, time.monotonic() - begun)

    def _answered(self, client: httpx.Client) -> bool:
        try:
            found = client.post(f"{self.url}/predict/task_1", content=self.content, headers=PNG)
        except httpx.ConnectError:
            return self._note("listener closed")
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            whole = "without sending a response" in str(error) or not isinstance(error, httpx.RemoteProtocolError)
            return (
                self._note("connection ended before an answer") if whole else self._lose(f"part of an answer: {error}")
            )
        except httpx.HTTPError as error:
            return self._lose(repr(error))
        if found.status_code == 200:
            answer = found.json()
            with self.lock:
                self.seen.ids.append(answer["prediction_id"])
                self.seen.versions[answer["version"]] += 1
            return True
        if found.status_code in (408, 503) and found.json()["detail"].startswith("expected "):
            return self._note(f"refused with {found.status_code} in a sentence")
        return self._lose(f"{found.status_code}: {found.text[:200]}")

    def _note(self, outcome: str) -> bool:
        with self.lock:
            self.seen.outcomes[outcome] += 1
        return False

    def _lose(self, what: str) -> bool:
        with self.lock:
            self.seen.lost.append(what)
        return False


class Flood:
    """Connections that each send half a head, as many at a time as the server lets be, again and again until stopped."""

    def __init__(self, port: int) -> None:
        self.port, self.stopping, self.sent = port, threading.Event(), 0
        self.health: Counter = Counter()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            with contextlib.ExitStack() as stack:
                for _ in range(FLOOD):
                    with contextlib.suppress(OSError):
                        one = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=5))
                        one.sendall(b"POST /predict/task_1 HTTP/1.1\r\nHost: localhost\r\nContent-")
                        self.sent += 1
                with contextlib.suppress(httpx.TransportError):  # between two servers
                    self.health[httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=10).status_code] += 1
                self.stopping.wait(1)

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(30)


def disturb(server: Server, line: layout.Layout, clients: Clients, *, restarts: int, rollbacks: int) -> list[float]:
    """Restarts and rollbacks spread over the requests; seconds that each SIGTERM took to its end."""
    events = sorted([((n + 1) / (restarts + 2), "restart") for n in range(restarts)]
                    + [((n + 0.6) / (rollbacks + 1), "rollback") for n in range(rollbacks)])  # fmt: skip
    took, switched = [], 0
    while clients.done < clients.wanted and any(thread.is_alive() for thread in clients.threads):
        server.measure()
        if events and clients.done >= events[0][0] * clients.wanted:
            _, kind = events.pop(0)
            if kind == "restart":
                took.append(server.restart())
            else:
                version = 1 + switched % 2
                command = [OTMF, "rollback", f"v{version}", "--reason", "switch", "--line", str(line.root)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=process.environment())
                switched += 1
        time.sleep(0.25)
    return took


def growth(sizes: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Median MiB in the first and in the last quarter of the longest run of one server, the first seconds left out."""
    runs = [
        [size for start, since, size in sizes if start == run and since > WARM]
        for run in {start for start, _, _ in sizes}
    ]
    longest = max(runs, key=len)
    quarter = max(1, len(longest) // 4)
    return statistics.median(longest[:quarter]), statistics.median(longest[-quarter:])


def traced(line: layout.Layout, ids: list[str]) -> tuple[int, int]:
    """How many answered ids lead to the ledger's record of their version, and how many entries nobody got an answer for."""
    known = {record.name: record.sha256 for record in ledger.read(line.root)}
    entries = {one["prediction_id"]: one for one in serve.predictions(line)}
    held = sum(known.get(entries[one]["record"]) == entries[one]["record_sha256"] for one in ids if one in entries)
    return held, len(entries.keys() - set(ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--rollbacks", type=int, default=6)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="otmf-serving-faults-") as name:
        folder = Path(name)
        line = bench_serving.line_of(folder, None)
        server = Server(line, production.free_port(), folder / "log")
        try:
            flood = Flood(server.port)
            clients = Clients(server.url, given.requests, given.clients)
            took = disturb(server, line, clients, restarts=given.restarts, rollbacks=given.rollbacks)
            for thread in clients.threads:
                thread.join(120)
            flood.stop()
        finally:
            process.end(server.process)
        seen = clients.seen
        held, unanswered = traced(line, seen.ids)
        first, last = growth(server.sizes)
        tracebacks = (folder / "log").read_text(errors="replace").count("Traceback")
    rows = [
        ["requests answered, of as many different ids", f"{len(seen.ids)}, {len(set(seen.ids))}"],
        ["of them by v1, by v2", f"{seen.versions[1]}, {seen.versions[2]}"],
        *([f"attempts: {outcome}; sent again", count] for outcome, count in sorted(seen.outcomes.items())),
        ["answers lost", len(seen.lost)],
        ["answered ids that `otmf trace` leads from to the record of their version", held],
        ["entries in the log that no client got an answer for", unanswered],
        ["longest time from a request to its answer, retries included, s", f"{seen.longest:.1f}"],
        ["SIGTERM under load: times, exit codes", f"{len(server.codes)}, {sorted(set(server.codes))}"],
        ["seconds from SIGTERM to the end: median, longest", f"{statistics.median(took):.1f}, {max(took):.1f}"],
        ["switches of version", given.rollbacks],
        ["half-open connections", flood.sent],
        ["/health under the flood: answers by status", ", ".join(f"{code}: {count}" for code, count in sorted(flood.health.items()))],
        ["MiB of the process with the model, first and last quarter of the longest run", f"{first:.0f}, {last:.0f}"],
        ["tracebacks in the server's log", tracebacks],
        ["minutes for all of this", f"{(time.monotonic() - begun) / 60:.1f}"],
    ]  # fmt: skip
    command = f"python -m tests.benchmarks.bench_serving_faults {' '.join(sys.argv[1:])}".strip()
    page = (
        machine.heading("Serving under faults", command)
        + f"\n{__doc__.split(chr(10) * 2)[2].strip()}\n\n"
        + machine.table(["", ""], rows)
    )
    print(page, flush=True)
    if given.output:
        given.output.write_text(page, encoding="utf-8")
    for said in seen.lost[:5]:
        print(f"lost: {said}", file=sys.stderr)
    kept = held == len(seen.ids) == len(set(seen.ids)) >= given.requests and not seen.lost
    if (
        not kept
        or last > LARGEST_GROWTH * first
        or set(server.codes) != {0}
        or tracebacks
        or set(flood.health) != {200}
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
