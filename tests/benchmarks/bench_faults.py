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
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from flows import git, keyring, process, registry, server, tracking, versions, warm
from otmf import layout, ledger
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
    again = otmf(*arguments)
    if again.code != 0 and not again.said.rstrip().rpartition("\n")[2].startswith("otmf: expected"):
        found.append(f"{name} again: {again.said[-300:]}")
    following = otmf("rollback", "--reason", "next")
    if following.code != 0:
        found.append(f"next change: {following.said[-300:]}")
    found += _unsound(line, before)
    last = otmf("verify")
    if last.code != 0:
        found.append(f"verify after the next change: {[text for text in last.said.splitlines() if 'BAD' in text][:3]}")
    return found


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
    made = {versions.tag(number) for number in registry.wanted(line, records).versions}
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
    shutil.rmtree(line.root, ignore_errors=True)
    subprocess.run(["cp", "--archive", str(pristine), str(line.root)], check=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--points", type=int, default=200)
    asked.add_argument("--command", nargs="*", default=list(WEIGHTS))
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    rng, begun = random.Random(given.seed), time.monotonic()
    tried, bad, counted = collections.Counter(), [], {}
    with (
        tempfile.TemporaryDirectory(prefix="otmf-faults-") as name,
        warm.interpreter() as stages,
        server.own(Path(name) / "prefect") as url,
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
        pristine = folder / "pristine"
        shutil.copytree(line.root, pristine, symlinks=True)
        before = git.run(line.root, "rev-parse", "HEAD").strip()
        known, total = commands(folder / "cards"), sum(WEIGHTS[one] for one in given.command)
        for command in given.command:
            arguments = known[command]
            share = max(len(faulty.KINDS), round(given.points * WEIGHTS[command] / total))
            for place, kind in enumerate(faulty.KINDS):
                number = share // len(faulty.KINDS) + (place < share % len(faulty.KINDS))
                restore(pristine, line)
                clean = faulty.run(
                    line.root,
                    [*arguments, "--line", str(line.root)],
                    environment=environment,
                    kind="git-" if kind.startswith("git-") else "",
                )
                if clean.code != 0:
                    raise SystemExit(f"{command} fails without a fault: {clean.said}")
                counted[command, kind] = clean.points
                for point in sorted(rng.sample(range(1, clean.points + 1), min(number, clean.points))):
                    restore(pristine, line)
                    done = faulty.run(
                        line.root,
                        [*arguments, "--line", str(line.root)],
                        environment=environment,
                        kind=kind,
                        point=point,
                    )
                    wrong = troubles(line, before, command, arguments, environment)
                    if "Traceback" in done.said:
                        wrong.append(f"a trace in the command itself: {done.said[-600:]}")
                    tried[command, kind] += 1
                    bad += [(command, kind, point, said) for said in wrong]
                    for said in wrong:
                        print(f"BAD {command} {kind} {point}: {said}", flush=True)
    command = f"python -m tests.benchmarks.bench_faults --points {given.points} --seed {given.seed}"
    print(machine.heading("Kills, full disks and failures of git", command))
    print(f"{(time.monotonic() - begun) / 60:.0f} minutes.\n")
    print(
        "| command | "
        + " | ".join(faulty.KINDS)
        + " | points there are |\n| --- | "
        + "--: | " * (len(faulty.KINDS) + 1)
    )
    for command in given.command:
        cells = [str(tried[command, kind]) for kind in faulty.KINDS]
        print(
            f"| `{' '.join(known[command][:1])}` | {' | '.join(cells)} | {counted[command, 'kill']} and {counted[command, 'git-dies']} of git |"
        )
    whole = sum(tried.values()) - len({one[:3] for one in bad})
    print(
        f"\n{whole} of {sum(tried.values())} points left the line whole, and decision and registry agreeing after the next command."
    )
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
