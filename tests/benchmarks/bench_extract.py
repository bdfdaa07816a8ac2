"""The task vector of a large sharded checkpoint: seconds, and memory at its peak.

    python -m tests.benchmarks.bench_extract [--gb G] [--shard-gb S] [--tensor-mb M] [--folder DIR]

A base in one safetensors file and an expert in shards with an index, random and float32, G GB each; then `otmf.checkpoints.extraction.extract` from file
to file in a process of its own, whose memory is what the kernel says was resident at most, pages of mapped files included, with and
without what importing alone takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from otmf import checkpoints
from otmf.checkpoints.deferred import Deferred
from otmf.formats import sharded
from tests.benchmarks import machine

EXTRACT = """
import json, resource, sys, time
from pathlib import Path
from otmf import checkpoints
from otmf.checkpoints import extraction
from otmf.formats import sharded
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
imported, begun, folder = peak(), time.perf_counter(), Path(sys.argv[1])
found = extraction.extract(sharded.load_deferred(folder / sharded.INDEX), checkpoints.load_deferred(folder / "base"), folder / "vector", name="x")
print(json.dumps([time.perf_counter() - begun, peak(), imported, found.norm / found.base_norm]))
"""


def model(names: list[str], size: int, seed: int) -> dict[str, Deferred]:
    """Random tensors of a size in bytes, made when they are written."""
    shape = (size // 4096, 1024)

    def make(number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        base = torch.randn(shape, generator=generator)
        return base if seed == 0 else base.add_(torch.randn(shape, generator=generator), alpha=0.01)

    return {key: Deferred(torch.empty(shape, device="meta"), partial(make, number)) for number, key in enumerate(names)}


def written(folder: Path, total: float, shard: float, tensor: float) -> None:
    """A base, and an expert in shards with an index."""
    names = [f"blocks.{number:05d}.weight" for number in range(max(1, int(total * 1e9 / (tensor * 1e6))))]
    checkpoints.save(model(names, int(tensor * 1e6), 0), folder / "base")
    expert, each = model(names, int(tensor * 1e6), 1), max(1, int(shard * 1e9 / (tensor * 1e6)))
    parts = [names[begin : begin + each] for begin in range(0, len(names), each)]
    files = {f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(parts, start=1)}
    for name, keys in files.items():
        checkpoints.save({key: expert[key] for key in keys}, folder / name)
    index = {"weight_map": {key: name for name, keys in files.items() for key in keys}}
    (folder / sharded.INDEX).write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--shard-gb", type=float, default=2)
    parser.add_argument("--tensor-mb", type=float, default=100)
    parser.add_argument("--folder", type=Path, help="where there is room for three times as much")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        written(folder, given.gb, given.shard_gb, given.tensor_mb)
        done = subprocess.run([sys.executable, "-c", EXTRACT, name], check=True, capture_output=True, text=True)
        seconds, peak, imported, relative = json.loads(done.stdout)
        size = (folder / "vector").stat().st_size / 1e9
        shards = len(list(folder.glob("model-*")))
    options = f"--gb {given.gb:g} --shard-gb {given.shard_gb:g} --tensor-mb {given.tensor_mb:g}"
    print(machine.heading("A large checkpoint's task vector", f"python -m tests.benchmarks.bench_extract {options}"))
    columns = [
        "GB of each model",
        "shards",
        "GB written",
        "seconds",
        "peak, GiB",
        "of it after importing, GiB",
        "relative norm",
    ]
    row = [
        f"{given.gb:g}",
        shards,
        f"{size:.1f}",
        f"{seconds:.0f}",
        f"{peak:.2f}",
        f"{peak - imported:.2f}",
        f"{relative:.4f}",
    ]
    print(machine.table(columns, [row]))
    if peak > 2:
        raise SystemExit("expected at most 2 GiB")


if __name__ == "__main__":
    main()
