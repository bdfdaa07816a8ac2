"""What the chain costs on encoders at full size: extract, a merge step with each kind of mask, head tuning; and AdaMerging beside it.

    python -m tests.benchmarks.bench_backbones [--encoder NAME ...] [--steps N] [--batch N] [--threads N] [--tasks T ...]

Encoders: ViT-B-32, ViT-B-16, ViT-L-14 of open_clip and flan-t5-base of transformers, with random weights, small random task vectors and random
inputs. Each figure comes from a process of its own: seconds of wall time, and the process's peak memory, which holds libraries, base and
activations as well. A merge step is given with what it costs before its first optimiser step (teachers, start) and per step. Runs unchanged where
a GPU is at hand: tensors go to it, and its peak is added.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from otmf import backbones, checkpoints, continual, heads, settings, task_vectors
from otmf.continual import memory
from tests import makers
from tests.benchmarks import adamerging, machine

VISION = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
T5 = "flan-t5-base"
T5_CONFIG = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12,
    "num_decoder_layers": 12, "num_heads": 12, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "is_gated_act": True,
    "dense_act_fn": "gelu_new", "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    "is_encoder_decoder": True, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
}  # fmt: skip
LENGTH, CLASSES, POOL = 64, 50, 32
GRANULARITIES = ("element", "row", "column", "tensor")


def opened(name: str, folder: Path) -> backbones.Backbone:
    if name != T5:
        return backbones.build({"model": name})
    makers.tokeniser(folder)
    config = {"transformers": T5_CONFIG, "tokenizer": "tokenizer.json", "length": LENGTH, "pooling": "first"}
    return backbones.build(config, folder)


def inputs(backbone: backbones.Backbone, count: int, seed: int):
    blank = backbone.blank()
    generator = torch.Generator().manual_seed(seed)
    if backbone.reads == "texts":
        return torch.randint(3, 20, (count, blank.shape[1]), generator=generator, dtype=torch.int32).numpy()
    return torch.randint(256, (count, *blank.shape[1:]), generator=generator, dtype=torch.uint8).numpy()


def vector(state: dict[str, torch.Tensor], seed: int) -> task_vectors.Vector:
    generator = torch.Generator().manual_seed(seed)
    return {key: (0.01 * value.float().std(correction=0) * torch.randn(value.shape, generator=generator)).to(value.device)
            for key, value in task_vectors.floats(state).items()}  # fmt: skip


class Bench:
    """An encoder at full size on the device at hand."""

    def __init__(self, name: str, folder: Path) -> None:
        self.where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone = opened(name, folder)
        self.state = {key: value.to(self.where) for key, value in self.backbone.initial_state(seed=0).items()}
        self.encoder = continual.Encoder(
            self.backbone.features, lambda found: self.backbone.prepare(found).to(self.where)
        )

    def extract(self, folder: Path) -> dict[str, float]:
        base = {key: value.cpu() for key, value in self.state.items()}
        checkpoints.save(base, folder / "base")
        checkpoints.save(task_vectors.add(base, vector(base, 1)), folder / "expert")
        del base
        command = [sys.executable, "-c", EXTRACT, str(folder)]
        seconds, peak = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return {"seconds": seconds, "peak": peak}

    def merge(self, granularity: str, steps: int, batch: int, count: int) -> dict[str, float]:
        """Step number `count` of the preset `default`."""
        options = settings.merge("default", {"granularity": granularity, "batch_size": batch, "memory_size": POOL, "unlabelled_images": POOL, "steps": steps})  # fmt: skip
        vectors = [vector(self.state, seed) for seed in (1, 2)]
        old, new = (inputs(self.backbone, POOL, seed) for seed in (3, 4))
        features = self.encoder.teach(self.state, old).cpu()
        kept = memory.admit(None, torch.from_numpy(old), features, step=1, size=POOL, only_last=False)
        ticks = [time.perf_counter()]
        continual.advance(self.state, *vectors, count=count, state=memory.to_tensors(kept), options=options, encoder=self.encoder,
                          unlabelled=lambda: new, report=lambda *_: ticks.append(time.perf_counter()))  # fmt: skip
        per_step = _per_step(ticks[1:])
        return {"seconds": time.perf_counter() - ticks[0] - steps * per_step, "per_step": per_step}

    def tune(self) -> dict[str, float]:
        begun = time.perf_counter()
        features = self.encoder.teach(self.state, inputs(self.backbone, POOL, 5)).cpu()
        forward = time.perf_counter() - begun
        head = heads.Head(torch.zeros(CLASSES, features.shape[1]), torch.zeros(CLASSES))
        begun = time.perf_counter()
        heads.tune(head, features, torch.arange(POOL) % CLASSES, options=settings.HeadTune())
        return {"seconds": time.perf_counter() - begun, "per_step": forward / POOL}

    def adamerging(self, tasks: int, layer_wise: bool, steps: int, batch: int) -> dict[str, float]:
        vectors = [vector(self.state, seed) for seed in range(tasks)]
        width = int(self.encoder.teach(self.state, self.backbone.blank()).shape[1])
        generator = torch.Generator().manual_seed(6)
        head = torch.randn(CLASSES, width, generator=generator).to(self.where)
        batches = [self.encoder.prepare(inputs(self.backbone, batch, seed)) for seed in range(tasks)]
        logits = [lambda state, found=found: self.backbone.features(state, found) @ head.T for found in batches]
        ticks: list[float] = []
        adamerging.merge(self.state, vectors, logits=logits, layer_wise=layer_wise, steps=steps,
                         report=lambda: ticks.append(time.perf_counter()))  # fmt: skip
        return {"per_step": _per_step(ticks)}


def _per_step(ends: list[float]) -> float:
    """Mean seconds of the steps after the first, of the times at which steps ended: the first also asks for memory."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


EXTRACT = """
import json, sys, time
from pathlib import Path
from otmf import checkpoints
from otmf.checkpoints import extraction
from tests.benchmarks import machine
folder, begun = Path(sys.argv[1]), time.perf_counter()
extraction.extract(checkpoints.load_deferred(folder / "expert"), checkpoints.load_deferred(folder / "base"), folder / "vector", name="x")
print(json.dumps([time.perf_counter() - begun, machine.peak_mib()]))
"""


def child(job: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(job["threads"])
    if not torch.cuda.is_available():  # ends in a refusal instead of taking the machine along
        resource.setrlimit(resource.RLIMIT_DATA, (int(machine.memory_gib() * 2**30),) * 2)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(job["encoder"], Path(name))
        if job["what"] == "size":
            return {"mib": sum(value.numel() * value.element_size() for value in bench.state.values()) / 2**20}
        arguments = {key: value for key, value in job.items() if key not in ("encoder", "what", "threads")}
        if job["what"] == "extract":
            return bench.extract(Path(name))
        found = getattr(bench, job["what"])(**arguments)
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return {**found, "peak": machine.peak_mib() + device}


def measured(**job: Any) -> dict[str, float] | None:
    """Figures of a job in a process of its own; None if it ended for want of memory."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_backbones", "--child", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode in (-9, 137) or "not enough memory" in done.stderr or "out of memory" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def rows(encoder: str, given: argparse.Namespace) -> list[list[str]]:
    common = {"encoder": encoder, "threads": given.threads}
    size = measured(**common, what="size")["mib"]

    def row(what: str, found: dict[str, float] | None) -> list[str]:
        cells = [f"{encoder} ({size:.0f} MiB)", what]
        if found is None:
            return [*cells, "", "", f"more than {machine.memory_gib():.0f} GiB"]
        print(encoder, what, found, file=sys.stderr, flush=True)
        return [
            *cells,
            *(f"{found[key]:.2f}" if key in found else "" for key in ("seconds", "per_step")),
            f"{found['peak']:.0f}",
        ]

    shown = [row("extract, file to file", measured(**common, what="extract"))]
    for granularity in GRANULARITIES:
        found = measured(**common, what="merge", granularity=granularity, steps=given.steps, batch=given.batch, count=2)
        shown.append(row(f"merge step, one mask value per {granularity}", found))
    for count in given.tasks:
        found = measured(
            **common, what="merge", granularity="element", steps=given.steps, batch=given.batch, count=count
        )
        shown.append(row(f"merge step, step {count} of the line", found))
    shown.append(row(f"head tuning, {POOL} inputs, {CLASSES} classes", measured(**common, what="tune")))
    for layer_wise in (False, True):
        for tasks in given.tasks:
            found = measured(
                **common, what="adamerging", tasks=tasks, layer_wise=layer_wise, steps=given.steps, batch=given.batch
            )
            shown.append(row(f"AdaMerging, {'layer' if layer_wise else 'task'}-wise, T = {tasks}", found))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=[*VISION, T5])
    parser.add_argument("--steps", type=int, default=3, help="of the optimiser; at least two")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8, 20])
    parser.add_argument("--child", type=json.loads)
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("the first step is not timed: --steps 2 or more")
    if given.child:
        print(json.dumps(child(given.child)))
        return
    found = [row for encoder in given.encoder for row in rows(encoder, given)]
    command = f"python -m tests.benchmarks.bench_backbones {' '.join(sys.argv[1:])}"
    print(machine.heading(f"Encoders at full size, {given.threads} threads, batches of {given.batch}", command))
    columns = ["encoder", "what", "once, s", "per step (head tuning: per input), s", "peak, MiB"]
    print(machine.table(columns, found))


if __name__ == "__main__":
    main()
