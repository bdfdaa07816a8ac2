"""Whether a line is whole after kills, full disks and failures of git at every point of every command that changes it.

    python -m tests.benchmarks.bench_faults [--points N] [--command NAME ...] [--seed N]

A signed line of light stages (tests/light.py: real git, DVC, Prefect and MLflow) with two tasks and one refused is copied for each point. A point
is one of the writes, process starts and git calls of a command; there it is killed, meets a full disk from then on, or git fails or dies.
Afterwards `otmf status` completes what is open, and these are looked at: branch, files and tags; the registry against the ledger; `otmf verify`;
the same command once more; a rollback and `otmf verify` again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flows.programs import git, process, warm
from flows.services import prefect_server, tracking
from flows.versions import history, keyring, registry
from otmf.provenance import ledger
from otmf.runtime import layout
from tests import faulty, light, makers
from tests.benchmarks import machine

WEIGHTS = {"onboard": 4, "rollback": 3, "promote": 3, "retire": 2, "retrain": 2, "keys": 2, "deploy": 1}


def commands(cards: Path) -> dict[str, list[str]]:
    """Name -> arguments of each command that changes a line."""
    return {
        "onboard": ["onboard", str(cards / "three.yaml"), "--replace"],
        "rollback": ["rollback", "--reason", "an incident"],
        "promote": ["promote", light.REFUSED, "--reason", "wanted"],
        "retire": ["retire", "one", "--reason", "no longer"],
        "retrain": ["retrain", "two"],
        "keys": ["keys", "new", "--reason", "another key"],
        "deploy": ["deploy"],
    }


def line_of(folder: Path, environment: Mapping[str, str]) -> layout.Layout:
    """A signed light line with two tasks accepted and one refused; cards of these and of a third beside it."""
    found = light.line(folder / "small")
    keyring.new(found, by="bench", reason="from the start", log=print)
    for seed, name in enumerate(("one", "two", light.REFUSED, "three"), start=1):
        card = makers.card(folder / "cards", name, seed=seed)
        if name != "three":
            done = faulty.run(found.root, ["onboard", str(card), "--line", str(found.root)], environment=environment)
            if done.code != (name == light.REFUSED):
                raise SystemExit(done.said)
    return found


def troubles(
    line: layout.Layout, before: str, name: str, arguments: list[str], environment: Mapping[str, str]
) -> list[str]:
    """What is not as it has to be after a command that met a fault."""
    found = []

    def otmf(*words: str) -> faulty.Done:
        done = faulty.run(line.root, [*words, "--line", str(line.root)], environment=environment)
        if "Traceback" in done.said:
            found.append(f"{' '.join(words)}: a trace: {done.said[-600:]}")
        return done

    status = otmf("status")
    if status.code != 0:
        found.append(f"status: {status.said[-300:]}")
    found += _unsound(line, before)
    verified = otmf("verify")
    if verified.code != 0:
        found.append(f"verify: {[text for text in verified.said.splitlines() if 'BAD' in text or 'otmf:' in text][:3]}")
    following = otmf(*arguments)
    if following.code != 0:  # it had landed: there is nothing more of it to do
        if not following.said.rstrip().rpartition("\n")[2].startswith("otmf: expected"):
            found.append(f"{name} again: {following.said[-300:]}")
        following = otmf("rollback", "--reason", "next")
    if following.code != 0:
        found.append(f"next change: {following.said[-300:]}")
    return found + _unsound(line, before)


def _unsound(line: layout.Layout, before: str) -> list[str]:
    """What does not fit of branch, files, tags, notes and registry."""
    found, root = [], line.root
    if dirty := git.run(root, "status", "--porcelain"):
        found.append(f"files that git does not have so: {dirty.strip()[:200]}")
    if git.run(root, "symbolic-ref", "HEAD").strip() != "refs/heads/main":
        found.append("HEAD is elsewhere")
    if git.run(root, "merge-base", before, "HEAD").strip() != before:
        found.append("the history was rewritten")
    records = ledger.read(root)
    made = {history.tag(number) for number in registry.wanted(line, records).versions}
    if set(git.run(root, "tag", "--list").split()) != made:
        found.append(f"tags {git.run(root, 'tag', '--list').split()} for versions {sorted(made)}")
    left = [path.name for path in (line.private / "moving.json", line.private / "landing") if path.exists()]
    left += [path.name for path in tracking.unsent(line).glob("*")]
    if left:
        found.append(f"left open: {', '.join(left)}")
    said = _aliases(line)
    wanted = sorted(f"{alias} {number}" for alias, number in registry.wanted(line, records).aliases.items())
    if sorted(said) != wanted:
        found.append(f"registry {said}, ledger {wanted}")
    return found


def _aliases(line: layout.Layout) -> list[str]:
    """Each alias of the registry, with our version that it is of; read from its database, as nothing here is to change it."""
    asked = (
        "select a.alias || ' ' || t.value from registered_model_aliases a join model_version_tags t on t.name = a.name and "
        "t.version = a.version where t.key = 'otmf.version'"
    )
    with sqlite3.connect(f"file:{line.tracking / 'mlflow.db'}?mode=ro", uri=True) as database:
        return [row[0] for row in database.execute(asked)]


def restore(pristine: Path, line: layout.Layout) -> None:
    """A copy of the line, whose tracking store keeps its artifacts within the copy."""
    shutil.rmtree(line.root, ignore_errors=True)
    subprocess.run(["cp", "--archive", str(pristine), str(line.root)], check=True)
    database = line.tracking / "mlflow.db"
    before = f"file://{pristine.with_name('small')}/"
    with contextlib.closing(sqlite3.connect(database)) as found:
        for column, name in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            found.execute(f"update {column} set {name} = replace({name}, ?, ?)", (before, f"file://{line.root}/"))
        found.commit()


@dataclass(frozen=True)
class Tried:
    """One point of a command: what happens there, and what was not as it has to be afterwards."""

    command: str
    kind: str
    point: int
    wrong: tuple[str, ...] = ()


def chosen(line: layout.Layout, pristine: Path, known: Mapping[str, list[str]], points: int, names: list[str], seed: int,
           environment: Mapping[str, str]) -> tuple[list[Tried], dict[tuple[str, str], int]]:  # fmt: skip
    """Points to try, and how many each command has of each kind."""
    rng, total = random.Random(seed), sum(WEIGHTS[one] for one in names)
    found, counted = [], {}
    for command in names:
        share = max(len(faulty.KINDS), round(points * WEIGHTS[command] / total))
        for place, kind in enumerate(faulty.KINDS):
            restore(pristine, line)
            counting = "git-" if kind.startswith("git-") else ""
            words = [*known[command], "--line", str(line.root)]
            clean = faulty.run(line.root, words, environment=environment, kind=counting)
            if clean.code != 0:
                raise SystemExit(f"{command} fails without a fault: {clean.said}")
            counted[command, kind] = clean.points
            number = share // len(faulty.KINDS) + (place < share % len(faulty.KINDS))
            picked = rng.sample(range(1, clean.points + 1), min(number, clean.points))
            found += [Tried(command, kind, point) for point in picked]
    rng.shuffle(found)
    return found, counted


def attempted(
    one: Tried, line: layout.Layout, pristine: Path, arguments: list[str], environment: Mapping[str, str]
) -> Tried:
    """A point, tried on a copy of the line."""
    restore(pristine, line)
    before = git.run(line.root, "rev-parse", "HEAD").strip()
    words = [*arguments, "--line", str(line.root)]
    done = faulty.run(line.root, words, environment=environment, kind=one.kind, point=one.point)
    wrong = [f"a trace in the command itself: {done.said[-600:]}"] if "Traceback" in done.said else []
    wrong += troubles(line, before, one.command, arguments, environment)
    for said in wrong:
        print(f"BAD {one.command} {one.kind} {one.point}: {said}", flush=True)
    return replace(one, wrong=tuple(wrong))


def at_once(asked: list[Tried], work: Callable[[Tried, int], Tried], jobs: int, folder: Path) -> list[Tried]:
    """All points, tried by some processes at a time."""
    for job in range(jobs):
        if os.fork() == 0:
            try:
                done = [asdict(work(one, job)) for one in asked[job::jobs]]
                (folder / f"{job}.json").write_text(json.dumps(done), encoding="utf-8")
            finally:
                os._exit(0)
    for _ in range(jobs):
        os.wait()
    rows = [row for job in range(jobs) for row in json.loads((folder / f"{job}.json").read_text(encoding="utf-8"))]
    return [Tried(**{**row, "wrong": tuple(row["wrong"])}) for row in rows]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--points", type=int, default=200)
    asked.add_argument("--command", nargs="*", default=list(WEIGHTS))
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=2)
    asked.add_argument("--output", type=Path, help="page of evidence to write")
    given = asked.parse_args()
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="otmf-faults-") as name,
        warm.interpreter() as stages,
        prefect_server.own(Path(name) / "prefect") as url,
    ):
        folder = Path(name)
        environment = {
            **process.environment(),
            **stages,
            "PREFECT_API_URL": url,
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "COLUMNS": "200",
        }
        faulty.prepare(environment)
        line = line_of(folder, environment)
        pristine, known = folder / "pristine", commands(folder / "cards")
        shutil.copytree(line.root, pristine, symlinks=True)
        points, counted = chosen(line, pristine, known, given.points, given.command, given.seed, environment)
        restore(pristine, line)  # what MLflow holds of the copies lies there

        def work(one: Tried, job: int) -> Tried:
            copy = layout.Layout(folder / f"copy-{job}" / "small")
            copy.root.parent.mkdir(exist_ok=True)
            return attempted(one, copy, pristine, known[one.command], environment)

        rows = at_once(points, work, given.jobs, folder)
    command = f"python -m tests.benchmarks.bench_faults --points {given.points} --seed {given.seed}"
    page = (
        machine.heading("Kills, full disks and failures of git", command)
        + "\n"
        + table(rows, counted, given.command, begun)
    )
    print(page)
    if given.output:
        given.output.write_text(page, encoding="utf-8")
    raise SystemExit(any(row.wrong for row in rows))


def table(rows: list[Tried], counted: Mapping[tuple[str, str], int], names: list[str], begun: float) -> str:
    """What came of it, as Markdown."""
    tried = collections.Counter((row.command, row.kind) for row in rows)
    lines = ["| command | " + " | ".join(faulty.KINDS) + " | writes and starts it has | calls of git it has |"]
    lines.append("| --- |" + " --: |" * (len(faulty.KINDS) + 2))
    for name in names:
        cells = [str(tried[name, kind]) for kind in faulty.KINDS] + [
            str(counted[name, kind]) for kind in ("kill", "git-dies")
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    whole = sum(not row.wrong for row in rows)
    lines += ["", f"{whole} of {len(rows)} points left the line whole, with decision and registry agreeing after the next command "
              f"({(time.monotonic() - begun) / 60:.0f} minutes)."]  # fmt: skip
    lines += [f"- {row.command}, {row.kind} at {row.point}: {said}" for row in rows for said in row.wrong]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
