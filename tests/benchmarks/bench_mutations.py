"""Whether `otmf verify` finds every alteration of a history, and calls no clean one bad.

    python -m tests.benchmarks.bench_mutations [--mutations N] [--clean N] [--seed N] [--workers N] [--minutes N]

A line of five steps, signed, with a refusal, a person's override and a rollback. Each mutation alters one file of it at random
(any record, model, mask, head, picture archive, object of DVC's cache, card, parameter file, result or git reference): a flipped bit, a
cut, bytes put in, a file taken away, put in, swapped with another or replaced by another; or does one of what `mutation_kinds` lists, to commits,
references, links, git's index and settings, rows of MLflow's registry. Each is verified, all of the line, and undone. Then clean histories:
the line with decisions of people on top (rollbacks there and back, new keys, edits that are committed).
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flows.changes import decisions
from flows.line import workspace
from flows.programs import process, warm
from flows.services import prefect_server
from flows.verify import checks, verify
from flows.versions import history as version_history
from flows.versions import keyring
from otmf.runtime import layout
from tests import makers
from tests.benchmarks import bench_recovery, machine, mutation_kinds

FILES = ("flip", "cut", "put in", "delete", "add", "swap", "substitute")


def history(folder: Path) -> layout.Layout:
    """A signed line of five steps, one of them accepted against the gate, and a rollback there and back."""
    line = bench_recovery.lenient(folder / "small")
    otmf = str(Path(sys.executable).parent / "otmf")
    keyring.new(line, by="bench", reason="from the start", log=print)
    with warm.interpreter() as stages, prefect_server.own(folder / "prefect") as url:
        env = {**process.environment(), **stages, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        for number in range(1, 6):
            if number == 4:
                gate(line, {"least_of_finetuned": 9.0})
            card = makers.card(folder / "cards", f"task_{number}", seed=number)
            done = subprocess.run(
                [otmf, "onboard", card, "--line", line.root], check=False, env=env, capture_output=True
            )
            if done.returncode != (number == 4):
                raise SystemExit(done.stderr.decode())
            if number == 4:
                decisions.promote(line, "task_4", by="bench", reason="wanted", log=print)
                gate(line, {"least_of_finetuned": 0, "largest_drop": 1, "largest_average_drop": 1})
    decisions.roll_back(line, None, by="bench", reason="there", log=print)
    decisions.roll_back(line, "v5", by="bench", reason="and back", log=print)
    return line


def gate(line: layout.Layout, rules: dict) -> None:
    document = workspace.read_params(line)
    document["gate"] = rules
    workspace.write_params(line, document)
    workspace.commit(line.root, "Other rules")


def troubles(line: layout.Layout) -> list[checks.Check]:
    keys = keyring.trusted(line, [])
    return [check for check in verify.verify(line, [], keys) if check.trouble]


def told(line: layout.Layout) -> list[checks.Check]:
    """What verification says does not hold, or is not covered."""
    return [check for check in verify.verify(line, [], keyring.trusted(line, [])) if check.trouble or check.uncovered]


def targets(line: layout.Layout) -> dict[str, list[Path]]:
    """Kind -> the files that the ledger, the report or a version speaks of."""
    root = line.root
    tracked = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout.split()
    kinds = {
        "record": root.glob("data/lineage/*"),
        "model": root.glob("data/models/**/*"),
        "raw data": root.glob("data/raw/*/**/*"),
        "cache": (root / ".dvc/cache/files/md5").glob("*/*"),
        "card, parameters, result": (root / name for name in tracked if not name.startswith("data/lineage")),
        "git reference": [
            *(root / ".git/refs/tags").rglob("*"),
            *(root / ".git/refs/heads").rglob("*"),
            root / ".git/HEAD",
        ],
        "git object": [
            root / ".git/objects" / name[:2] / name[2:]
            for name in mutation_kinds.git(root, "rev-list", "--objects", "--no-object-names", "HEAD").split()
        ],
        "registered model": (root / ".otmf/mlflow/artifacts").glob("*/artifacts/model/v*/data/*"),
    }
    return {kind: sorted(path for path in found if path.is_file()) for kind, found in kinds.items()}


def mutate(root: Path, rng: random.Random, kind: str, path: Path, others: list[Path]) -> Callable[[], None] | None:
    """Alters a file of a line; what undoes it, or None if nothing would change."""
    content = path.read_bytes()
    stands_for = _commit(root, path)
    place = rng.randrange(len(content)) if content else 0
    other = rng.choice(others)
    theirs = other.read_bytes()

    def back() -> None:
        path.write_bytes(content)
        if kind == "swap":
            other.write_bytes(theirs)

    if kind == "delete" and _spare(path):
        return None
    path.chmod(path.stat().st_mode | 0o200)  # git's objects and DVC's are read-only
    if kind == "add":
        added = path.with_name(f"{path.stem}_2{path.suffix}")
        if added.exists() or "data" not in path.parts:  # what lies elsewhere in a line belongs to its owner
            return None
        added.write_bytes(content)
        return added.unlink
    if kind in ("swap", "substitute") and (theirs == content or other == path):
        return None
    if kind == "flip" and content:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
    elif kind == "cut" and content:
        path.write_bytes(content[:place])
    elif kind == "put in":
        path.write_bytes(content[:place] + rng.randbytes(rng.randint(1, 16)) + content[place:])
    elif kind == "delete":
        path.unlink()
    elif kind in ("swap", "substitute"):
        path.write_bytes(theirs)
        if kind == "swap":
            other.write_bytes(content)
    else:
        return None
    if stands_for and stands_for == _commit(root, path):  # git reads A as a, and not beyond the end of a line
        back()
        return None
    return back


def _commit(root: Path, reference: Path) -> str:
    """What a reference of git stands for; empty if for nothing, or if it is none."""
    if not reference.is_relative_to(root / ".git"):
        return ""
    name = reference.relative_to(root / ".git").as_posix()
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", name], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout


def _spare(path: Path) -> bool:
    """Whether this is DVC's own copy of a result that git holds: a clone has none, so its absence alters nothing."""
    if ".dvc" not in path.parts:
        return False
    results = path.parents[path.parts[::-1].index(".dvc")] / "data/results"
    return any(path.read_bytes() == one.read_bytes() for one in results.rglob("*.json"))


def mutations(line: layout.Layout, wanted: int, seed: int, minutes: float) -> tuple[collections.Counter, list[str]]:
    """Kinds of file and alteration -> number caught; what was missed."""
    rng, caught, missed, end = random.Random(seed), collections.Counter(), [], time.monotonic() + 60 * minutes
    before = set(told(line))
    while sum(caught.values()) + len(missed) < wanted and time.monotonic() < end:
        of, kind, undo = _altered(line, rng)
        if undo is None:
            continue
        said = told(line)
        undo()
        if any(check.trouble for check in said):
            caught[(of, kind)] += 1
        elif set(said) != before:
            print(f"named, not failed: {kind}: {of}: {set(said) - before}", flush=True)
            caught[(of, kind)] += 1
        else:
            missed.append(f"{kind}: {of}")
            print(f"MISSED {missed[-1]}", flush=True)
        if sum(caught.values()) % 50 == 0:
            print(f"{sum(caught.values())} caught", flush=True)
    return caught, missed


def _altered(line: layout.Layout, rng: random.Random) -> tuple[str, str, Callable[[], object] | None]:
    """Alters a line at random: what, how, and what undoes it; None in its place where nothing changed."""
    if rng.random() < 0.5:
        of = rng.choice(list(mutation_kinds.KINDS))
        return of, "", mutation_kinds.KINDS[of](line.root, rng)
    found = targets(line)
    of = rng.choice(list(found))
    kind, path = rng.choice(FILES), rng.choice(found[of])
    return of, kind, mutate(line.root, rng, kind, path, found[of])


def spread(
    line: layout.Layout, wanted: int, seed: int, workers: int, minutes: float
) -> tuple[collections.Counter, list[str]]:
    """The same over copies of the line, each altered and verified by a process of its own."""
    copies = []
    for number in range(workers):
        copy = line.root.with_name(f"altered-{number}")
        subprocess.run(["cp", "-a", str(line.root), str(copy)], check=True)
        mutation_kinds.moved(copy, line.root)
        if said := troubles(layout.Layout(copy)):
            raise SystemExit(f"expected a copy that verifies; received {said[:3]}")
        copies.append(layout.Layout(copy))
    shares = [wanted // workers + (number < wanted % workers) for number in range(workers)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        seeds = [seed * workers + number for number in range(workers)]
        done = list(pool.map(mutations, copies, shares, seeds, [minutes] * workers))
    left = [f"after all were undone: {check}" for copy in copies for check in troubles(copy)]
    return sum((caught for caught, _ in done), collections.Counter()), [
        one for _, missed in done for one in missed
    ] + left


def clean(line: layout.Layout, wanted: int, seed: int, folder: Path) -> list[str]:
    """What verification said of clean histories; empty if nothing."""
    rng, said = random.Random(seed), []
    for number in range(wanted):
        copy = folder / f"copy-{number}"
        shutil.copytree(line.root, copy, symlinks=True)
        found = layout.Layout(copy)
        for _ in range(rng.randint(1, 4)):
            step(rng, found)
        said += [f"history {number}: {check}" for check in troubles(found)]
        shutil.rmtree(copy)
    return said


def step(rng: random.Random, line: layout.Layout) -> None:
    """Something people do to a line."""
    kind = rng.choice(("rollback", "rollback", "key", "edit"))
    if kind == "rollback":
        entries = version_history.decisions(line.root)
        others = sorted({entry.version for entry in entries} - {entries[-1].version})
        decisions.roll_back(line, f"v{rng.choice(others)}", by="bench", reason=f"reason {rng.random()}", log=print)
    elif kind == "key":
        keyring.new(line, by="bench", reason="a new one", log=print)
    else:
        gate(line, {"largest_drop": round(rng.uniform(0.1, 1), 3)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="after which no more alterations are begun")
    given = parser.parse_args()
    os.environ["OTMF_ACTOR"] = "bench"
    with tempfile.TemporaryDirectory(prefix="otmf-mutations-") as name:
        folder = Path(name)
        line = history(folder)
        before = troubles(line)
        begun = time.perf_counter()
        troubles(line)
        seconds = time.perf_counter() - begun
        caught, missed = spread(line, given.mutations, given.seed, given.workers, given.minutes)
        after = troubles(line)
        false = clean(line, given.clean, given.seed, folder)
    print(
        machine.heading(
            "Alterations of a history", f"python -m tests.benchmarks.bench_mutations {' '.join(sys.argv[1:])}".strip()
        )
    )
    rows = [[of, *(caught[(of, kind)] for kind in FILES)] for of in sorted({of for of, kind in caught if kind})]
    print(machine.table(["file altered", *FILES], rows))
    print()
    print(
        machine.table(
            ["other alterations", "caught"], [[of, number] for (of, kind), number in sorted(caught.items()) if not kind]
        )
    )
    print(
        f"{sum(caught.values())} of {sum(caught.values()) + len(missed)} caught, {len(missed)} missed: {missed or 'none'}."
    )
    print(f"Called bad before and after all were undone: {len(before)} and {len(after)} checks.")
    print(
        f"Clean histories called bad: {len(false)} checks in {given.clean} histories: {false[:3] or 'none'}. One verification: {seconds:.1f} s."
    )
    if missed or before or after or false:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
