"""Peak memory of a merge step: at step 2 against step 20, and in units of the encoder's bytes.

    python -m tests.benchmarks.bench_memory [--encoder tiny|ViT-B-32]

Each figure comes from a process of its own, which merges one task with the state that many earlier ones left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

from otmf import continual, settings, task_vectors
from otmf.continual import memory
from otmf.settings import presets
from tests.benchmarks import bench_merge, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "STEP"))
    given = parser.parse_args()
    if given.child:
        print(child(given.encoder, given.child[0], int(given.child[1])))
        return
    print(
        machine.heading(
            f"Peak memory of a merge step, {given.encoder}",
            f"python -m tests.benchmarks.bench_memory --encoder {given.encoder}",
        )
    )
    base = measure(given.encoder, "loaded", 0)
    size = encoder_mib(given.encoder)
    rows = []
    for preset in ("paper", "default"):
        second, twentieth = (measure(given.encoder, preset, step) for step in (2, 20))
        activations = measure(given.encoder, f"passes-{preset}", 0) - base
        above = second - base + 3 * size
        rows.append([preset, f"{second:.0f}", f"{twentieth:.0f}", f"{100 * (twentieth / second - 1):+.2f} %",
                     f"{activations:.0f}", f"{(above - activations) / size:.1f}"])  # fmt: skip
    columns = ["preset", "step 2, MiB", "step 20, MiB", "difference", "activations, MiB", "encoder sizes beside them"]
    print(machine.table(columns, rows))
    print(f"The encoder is {size:.0f} MiB. Activations: what a plain forward and backward pass of one optimiser step's batches of 16 (`paper` "
          "one, `default` one of each side) adds to a process that holds the base and two task vectors, which the last column counts.")  # fmt: skip


def measure(encoder: str, kind: str, step: int) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--encoder", encoder, "--child", kind, str(step)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def encoder_mib(encoder: str) -> float:
    bench = bench_merge.Bench(encoder, settings.merge("paper", {}))
    return sum(value.numel() * value.element_size() for value in bench.pretrained.values()) / 2**20


def child(encoder: str, kind: str, step: int) -> float:
    """Peak MiB of this process after what `kind` says."""
    torch.set_num_threads(1)
    preset = kind if kind in presets.PRESETS else "paper"
    options = settings.merge(preset, {"steps": 4, "batch_size": 16, "memory_size": 64, "unlabelled_images": 64})
    bench = bench_merge.Bench(encoder, options)
    if kind == "loaded":
        return machine.peak_mib()
    if kind.startswith("passes"):
        sides = bench.pixels[: 1 if kind == "passes-paper" else 2]
        leaves = {key: value.requires_grad_() for key, value in task_vectors.floats(bench.pretrained).items()}
        sum(
            bench.backbone.features(leaves, bench.backbone.prepare(found[:16])).square().sum() for found in sides
        ).backward()
        return machine.peak_mib()
    pixels, kept = torch.from_numpy(bench.pixels[0]), None
    for earlier in range(1, step):
        kept = memory.admit(kept, pixels[:64], torch.randn(64, width(bench)), step=earlier, size=64,
                            only_last=preset == "paper")  # fmt: skip
    continual.advance(bench.pretrained, *bench.vectors, count=step, state=memory.to_tensors(kept), options=options,
                      encoder=bench.encoder, unlabelled=lambda: bench.pixels[1][:64])  # fmt: skip
    return machine.peak_mib()


def width(bench: bench_merge.Bench) -> int:
    return int(bench.encoder.teach(bench.pretrained, bench.pixels[0][:1]).shape[1])


if __name__ == "__main__":
    main()
