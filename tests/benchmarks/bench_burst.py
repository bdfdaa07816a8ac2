"""A burst of submissions through every door at once, and what unattended onboarding adds to the stages themselves.

    python -m tests.benchmarks.bench_burst [--cards N] [--times N] [--single N]

First the burst: each of N cards is submitted several times within seconds, by the inbox with an event, by an event alone and
as a folder somebody copies into the inbox. Printed: what was onboarded, how often, whether the line is one chain without a gap.
Then single submissions, one after the other: seconds from the submission to the line's new version, less the seconds of its
stages. PostgreSQL, both servers and one worker are real.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from mlflow import MlflowClient

from flows.dvc import commands
from flows.line import workspace
from flows.programs import git, warm
from flows.unattended import inbox
from flows.versions import history
from otmf import settings
from otmf.runtime import layout
from tests import makers
from tests.benchmarks import bench_recovery, machine

PATIENCE = 1800.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, default=10)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--single", type=int, default=10)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="otmf-burst-"))
    line = bench_recovery.lenient(folder / "small")
    cards = [
        makers.card(folder / "cards" / f"task_{number:02d}", f"task_{number:02d}", seed=number)
        for number in range(1, given.cards + given.single + 1)
    ]
    with warm.interpreter() as stages, bench_recovery.site(folder, line, sweep=60, **stages) as site:
        seconds, doors = burst(site, cards[: given.cards], given.times)
        print(f"burst over after {seconds:.0f} s", flush=True)
        while _arriving(site):
            time.sleep(1)
        entries = history.decisions(line.root)
        chain = git.run(line.root, "log", "--format=%s").splitlines()
        added = [single(site, card) for card in cards[given.cards :]]
    onboarded = [entry.task for entry in entries]
    params = workspace.params(line)
    gapless = settings.chain(params.steps) == [f"s{number:02d}" for number in range(1, len(params.steps) + 1)]
    command = (
        f"python -m tests.benchmarks.bench_burst --cards {given.cards} --times {given.times} --single {given.single}"
    )
    print(machine.heading("A burst of submissions, and the latency of single ones", command))
    print(
        f"{given.cards * given.times} submissions ({', '.join(f'{count} by {door}' for door, count in doors.items())}) of {given.cards} cards: "
    )
    print(
        f"{len(onboarded)} onboarded, {len(set(onboarded))} different, versions {[entry.version for entry in entries]}, "
        f"{sum(subject.startswith('Onboard') for subject in chain)} commits, steps without a gap: {gapless}; "
        f"left waiting {len(inbox.waiting(line))}, refused {_count(line, 'refused')}; all done {seconds:.0f} s after the first submission."
    )
    print(f"`dvc status`: {commands.stale(line.root) or 'nothing stale'}.")
    table = [[name, f"{statistics.median(values):.1f}", f"{max(values):.1f}"] for name, values in zip(
        ("submission to new version", "its stages' own seconds", "added by events, Prefect, DVC, git"), zip(*added, strict=True), strict=True
    )]  # fmt: skip
    print(machine.table([f"{given.single} single submissions, one after the other", "median, s", "worst, s"], table))
    if sorted(onboarded) != sorted(card.stem for card in cards[: given.cards]) or not gapless:
        raise SystemExit(1)


def burst(site: bench_recovery.Site, cards: list[Path], times: int) -> tuple[float, dict[str, int]]:
    """Submits every card several times in random order and through random doors; seconds until all is done, doors used."""
    rng = random.Random(0)
    doors = {"submission with event": 0, "event alone": 0, "copied folder": 0}
    wanted = [card for card in cards for _ in range(times)]
    rng.shuffle(wanted)
    begun, named = time.monotonic(), {}
    for number, card in enumerate(wanted):
        able = [door for door in doors if door != "event alone" or card in named]
        door = rng.choice(able)
        doors[door] += 1
        if door == "submission with event":
            named[card] = site.submit(card)
        elif door == "event alone":
            site.announce(named[card])
        else:
            part = inbox.inbox(site.line) / f".copy-{number}"
            shutil.copytree(card.parent, part)
            part.rename(part.with_name(f"copy-{number}"))
    end = time.monotonic() + PATIENCE
    while any(inbox.inbox(site.line).iterdir()) or inbox.waiting(site.line):
        if time.monotonic() > end:
            raise SystemExit(f"not done after {PATIENCE:.0f} s: {inbox.waiting(site.line)}")
        time.sleep(0.5)
    return time.monotonic() - begun, doors


def single(site: bench_recovery.Site, card: Path) -> tuple[float, float, float]:
    """Seconds from a submission to the new version, of its stages, and the difference."""
    begun, known = time.monotonic(), len(history.decisions(site.line.root))
    site.submit(card)
    while len(history.decisions(site.line.root)) == known:
        time.sleep(0.05)
    whole = time.monotonic() - begun
    while inbox.waiting(site.line):
        time.sleep(0.2)
    client = MlflowClient(tracking_uri=site.tracking)
    experiment = client.get_experiment_by_name("small").experiment_id
    step = list(workspace.params(site.line).steps)[-1]
    stages = [
        run.data.metrics["seconds"]
        for key in (card.stem, step)
        for run in client.search_runs([experiment], filter_string=f"tags.key = '{key}'")
    ]
    return whole, sum(stages), whole - sum(stages)


def _arriving(site: bench_recovery.Site) -> int:
    """Runs that events started and that are not over; in a burst, most find their submission dealt with."""
    asked = {
        "flows": {"name": {"any_": ["arrive"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}},
    }
    return httpx.post(f"{site.api}/flow_runs/count", json=asked, timeout=60).raise_for_status().json()


def _count(line: layout.Layout, kind: str) -> int:
    folder = line.private / kind
    return len(list(folder.iterdir())) if folder.is_dir() else 0


if __name__ == "__main__":
    main()
