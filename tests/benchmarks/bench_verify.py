"""Verification of long histories: time as it grows with steps and bytes, against sha256 of the same bytes alone.

    python -m tests.benchmarks.bench_verify [--steps N [N ...]] [--mib M] [--folder DIR] [--line LINE]

For each number of steps: a line whose dvc.yaml, lock, cache, commits, tags and signed records are of the form that onboarding
gives them, with M MiB of random bytes a step in place of models; then `otmf verify` of the whole, in a process of its own,
and sha256 of every file of DVC's cache, likewise; the page cache is emptied before each where that is allowed. What
verification read from the disk is what the kernel counted: nothing is hashed twice if that is no more than what is there.
With --line, a line that an earlier run had made is measured, and nothing is made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from flows.dvc import commands as dvc_commands
from flows.line import workspace
from flows.programs import git
from flows.versions import history, keyring, records
from tests import makers
from tests.benchmarks import bench_recovery, machine

OTMF = str(Path(sys.executable).parent / "otmf")
HASH = """
import hashlib, sys
from pathlib import Path
for path in Path(sys.argv[1]).rglob("*"):
    if path.is_file():
        with path.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
"""


class Grown:
    """A line that gets longer without computing: what its stages would write is written by hand, and recorded."""

    def __init__(self, folder: Path, mib: float) -> None:
        self.line = bench_recovery.lenient(folder / "small")
        self.size, self.rng = int(mib * 2**20), np.random.default_rng(0)
        self.lock: dict[str, object] = {"schema": "2.0", "stages": {}}
        keyring.new(self.line, by="ada", reason="a line to verify", log=lambda _: None)
        self.raw = {"data/raw/pretrained": _tracked(self.line.root / "data/raw/pretrained.dvc")}
        for path in (self.line.pretrained, self.line.merged("s00"), self.line.heads("s00")):
            self.write(self.relative(path), 100)
        self.write("data/results/steps/s00.json", 100)
        self.stage("pretrained", ["data/raw/pretrained"], ["data/models/pretrained", "data/models/merged/s00", "data/models/heads/s00", "data/results/steps/s00.json"])  # fmt: skip
        self.outcomes = {"pretrained": "ran"}

    def relative(self, path: Path) -> str:
        return path.relative_to(self.line.root).as_posix()

    def write(self, path: str, size: int) -> None:
        """Random bytes as the output at a path: a folder with one file, or a file of results that git holds."""
        there = self.line.root / path
        if there.suffix != ".json":
            there = there / "model.safetensors"
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        there.write_bytes(self.rng.bytes(size))

    def keep(self, path: str) -> str:
        """Puts an output into DVC's cache, by a hard link; returns its md5 as DVC gives it."""
        there = self.line.root / path
        files = [there] if there.is_file() else sorted(there.iterdir())
        named = [{"md5": _md5(one), "relpath": one.name} for one in files]
        if there.is_file():
            return named[0]["md5"]
        for one, entry in zip(files, named, strict=True):
            _link(one, self.place(entry["md5"]))
        listing = json.dumps(named)
        md5 = hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
        self.place(md5).parent.mkdir(parents=True, exist_ok=True)
        self.place(md5).write_text(listing, encoding="utf-8")
        return md5

    def place(self, md5: str) -> Path:
        return dvc_commands.cache(self.line.root) / "files/md5" / md5[:2] / md5[2:]

    def track(self, path: str) -> None:
        """A .dvc file, as `dvc add` writes it."""
        self.raw[path] = self.keep(path)
        entry = {"outs": [{"md5": self.raw[path], "hash": "md5", "path": Path(path).name}]}
        makers.write_yaml(self.line.root / f"{path}.dvc", entry)

    def stage(self, name: str, deps: list[str], outs: list[str]) -> None:
        stages = self.lock["stages"]
        known = {out["path"]: out for entry in stages.values() for out in entry["outs"]}
        read = [known.get(path) or {"path": path, "hash": "md5", "md5": self.raw[path]} for path in deps]
        made = [{"path": path, "hash": "md5", "md5": self.keep(path)} for path in outs]
        stages[name] = {"cmd": f"python -m stages {name.replace('@', ' ')}", "deps": read, "outs": made}

    def step(self, number: int) -> None:
        """A task's five stages, committed, recorded, tagged."""
        line, task, step, before = self.line, f"task_{number:03d}", f"s{number:02d}", f"s{number - 1:02d}"
        large = [
            self.relative(path)
            for path in (line.finetuned(task), line.task_vector(task), line.merged(step), line.masks(step))
        ]
        for path in large:
            self.write(path, self.size // len(large))
        small = [f"data/raw/{task}", self.relative(line.heads(step)),
                 *(self.relative(path) for path in (line.manifest(task), line.trace(step), line.evaluation(step)))]  # fmt: skip
        for path in small:
            self.write(path, 1000)
        raw, heads, manifest, trace, result = small
        expert, vector, merged, masks = large
        base, previous = "data/models/pretrained", self.relative(line.heads(before))
        self.track(raw)
        made = [
            (f"finetune@{task}", [raw, base], [expert]),
            (f"extract@{task}", [raw, base, expert], [vector, manifest]),
            (f"merge-step@{step}", [raw, base, vector, self.relative(line.merged(before))], [merged, masks, trace]),
            (f"head-tune@{step}", [raw, base, expert, merged, previous], [heads]),
            (f"evaluate@{step}", [raw, base, expert, merged, heads, f"data/results/steps/{before}.json"], [result]),
        ]
        for name, deps, outs in made:
            self.stage(name, deps, outs)
        makers.write_yaml(
            line.root / "dvc.lock", json.loads(json.dumps(self.lock))
        )  # as DVC: nothing refers to anything
        outcomes = {**self.outcomes, **{name: "ran" for name, _, _ in made}}
        self.outcomes = {}
        workspace.commit(line.root, f"Onboard {task} as {step}")
        known = {name: self.lock["stages"][name]["outs"][0]["path"] for name in outcomes}
        decision = history.accepted(line, action="accepted", step=step, task=task, by="gate", reason="all rules hold")
        told = records.Made(outcomes, known, [task], datetime.now(UTC), "", None, "")
        records.write(line, line, decision, lambda place: records.of_model(line, told, decision, place))
        git.run(line.root, "tag", history.tag(number))


def _tracked(path: Path) -> str:
    """The md5 in a .dvc file."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))["outs"][0]["md5"]


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        os.link(path, place)


def timed(command: list[str]) -> tuple[float, float, int]:
    """Seconds of a command, GiB that it had the disk read, and how many lines it printed."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="utf-8")
    except OSError:
        print("the page cache could not be emptied", flush=True)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock, time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, blocks = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return seconds, blocks * 512 / 2**30, done.stdout.count("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--mib", type=float, default=250)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--line", type=Path)
    given = parser.parse_args()
    command = f"python -m tests.benchmarks.bench_verify --steps {' '.join(map(str, given.steps))} --mib {given.mib:g}"
    if given.line is not None:
        steps = git.run(given.line, "tag", "--list", "model/*").count("model/")
        table("python -m tests.benchmarks.bench_verify --line LINE", [measured(given.line, steps)])
        return
    folder = Path(tempfile.mkdtemp(prefix="otmf-verify-", dir=given.folder))
    grown, done, rows = Grown(folder, given.mib), 0, []
    try:
        for steps in sorted(given.steps):
            for number in range(done + 1, steps + 1):
                grown.step(number)
            done = steps
            rows.append(measured(grown.line.root, steps))
            print(rows[-1], flush=True)
    finally:
        shutil.rmtree(folder)
    table(command, rows)


def measured(root: Path, steps: int) -> list[object]:
    """A row of the table: `otmf verify` of a line, and sha256 of its cache alone, twice each, in both orders: means."""
    cache = dvc_commands.cache(root) / "files"
    commands = {
        "verify": [OTMF, "verify", "--line", str(root), "--without-registry"],
        "hash": [sys.executable, "-c", HASH, str(cache)],
    }
    runs = {name: [] for name in commands}
    for name in ("hash", "verify", "verify", "hash"):
        runs[name].append(timed(commands[name]))
    verified, hashed = (sum(run[0] for run in runs[name]) / 2 for name in ("verify", "hash"))
    _, read, lines = runs["verify"][-1]
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 2**30
    return [steps, f"{size:.1f}", f"{read:.1f}", lines, *(" and ".join(f"{run[0]:.1f}" for run in runs[name]) for name in ("verify", "hash")),
            f"{verified / hashed:.2f}", f"{1000 * (verified - hashed) / steps:.0f}"]  # fmt: skip


def table(command: str, rows: list[list[object]]) -> None:
    print(machine.heading("Verification of long histories", command))
    columns = [
        "steps",
        "GiB there",
        "GiB read by verify",
        "lines",
        "otmf verify, s",
        "sha256 alone, s",
        "ratio",
        "beside hashing, ms a step",
    ]
    print(machine.table(columns, rows))


if __name__ == "__main__":
    main()
