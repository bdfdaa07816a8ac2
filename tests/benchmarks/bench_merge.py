"""The cost of a merge step against the bare cost of its forward and backward passes.

    python -m tests.benchmarks.bench_merge [--encoder tiny|ViT-B-32] [--steps N] [--batch N] [--repeat N] [--preset NAME]

Bare: the same number of batches of the same size through a plain module, forward and backward, no masks, no transport,
plus one forward pass of each teacher over its images. Both are timed in turn in one process, in seconds of processor time (so with one thread only); the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower

from otmf import backbones, continual, settings, task_vectors
from otmf.backbones import vision
from otmf.merging import mask_training
from otmf.objectives import losses
from otmf.settings import presets
from stages.context import run
from tests.benchmarks import machine

TINY = Path(__file__).resolve().parents[2] / "data/backbones/vit_tiny_32.json"
POOL = 96
CLOCK = time.process_time  # seconds of this process on a core: what else the machine does counts less


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--preset", nargs="+", default=["paper", "default"], choices=list(presets.PRESETS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with run.imports_frozen():
        rows = [
            row(given.encoder, preset, batch, given.steps, given.repeat)
            for batch in given.batch
            for preset in given.preset
        ]
    columns = [
        "encoder",
        "preset",
        "batch",
        "steps",
        "merge step, s",
        "bare + teachers, s",
        "ratio",
        "transport, of merge step",
    ]
    command = (f"python -m tests.benchmarks.bench_merge --encoder {given.encoder} --steps {given.steps} --batch "
               f"{' '.join(map(str, given.batch))} --repeat {given.repeat} --preset {' '.join(given.preset)}")  # fmt: skip
    print(machine.heading(f"Cost of a merge step, {given.encoder}, one thread", command))
    print(machine.table(columns, rows))
    print(f"Medians of {given.repeat} pairs run in turn; in brackets least and greatest.")


def row(encoder: str, preset: str, batch: int, steps: int, repeat: int) -> list[object]:
    bench = Bench(encoder, settings.merge(preset, {"steps": steps, "batch_size": batch}))
    bench.merge(min(steps, 3))
    pairs = [(bench.merge(steps), bench.bare(steps)) for _ in range(repeat)]
    merges, bares = [pair[0][0] for pair in pairs], [pair[1] for pair in pairs]
    ratios = [merge / bare for merge, bare in zip(merges, bares, strict=True)]
    shares = [pair[0][1] / pair[0][0] for pair in pairs]
    return [encoder, preset, batch, steps, f"{statistics.median(merges):.2f}", f"{statistics.median(bares):.2f}",
            spread(ratios, "{:.2f}"), spread([100 * share for share in shares], "{:.1f} %")]  # fmt: skip


def spread(values: list[float], form: str) -> str:
    return f"{form.format(statistics.median(values))} [{form.format(min(values))}, {form.format(max(values))}]"


class Bench:
    """An encoder with random weights, two small task vectors and random images, as a merge at step 2 has them."""

    def __init__(self, encoder: str, options: settings.Otmf) -> None:
        config = json.loads(TINY.read_text(encoding="utf-8")) if encoder == "tiny" else {"model": encoder}
        self.options, self.backbone = options, backbones.build(config)
        self.pretrained = self.backbone.initial_state(seed=0)
        self.vectors = [self._vector(seed) for seed in (1, 2)]
        size, generator = self.backbone.fit.size, torch.Generator().manual_seed(3)
        pixels = [
            torch.randint(256, (POOL, size, size, 3), generator=generator, dtype=torch.uint8).numpy() for _ in range(2)
        ]
        self.pixels, self.encoder = pixels, continual.Encoder(self.backbone.features, self.backbone.prepare)

    def _vector(self, seed: int) -> task_vectors.Vector:
        generator = torch.Generator().manual_seed(seed)
        return {key: 0.01 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
                for key, value in task_vectors.floats(self.pretrained).items()}  # fmt: skip

    def merge(self, steps: int) -> tuple[float, float]:
        """Seconds of one merge step, teachers included, and of its transport."""
        spent = [0.0]
        plain = losses.ON_FEATURES[self.options.objective]

        def timed(*arguments: object, **options: object) -> torch.Tensor:
            begun = CLOCK()
            value = plain(*arguments, **options)
            spent[0] += CLOCK() - begun
            return value

        losses.ON_FEATURES[self.options.objective] = timed
        begun = CLOCK()
        try:
            sides = [mask_training.Side(self.backbone.prepare(pixels), self._teach(vector, pixels))
                     for vector, pixels in zip(self.vectors, self.pixels, strict=True)]  # fmt: skip
            mask_training.merge_step(self.pretrained, *self.vectors, features=self.backbone.features, pre=sides[0], post=sides[1],
                              options=self.options.model_copy(update={"steps": steps}))  # fmt: skip
        finally:
            losses.ON_FEATURES[self.options.objective] = plain
        return CLOCK() - begun, spent[0]

    def bare(self, steps: int) -> float:
        """Seconds of the same passes through a plain module, and of both teachers' forward passes."""
        config = self.backbone.config
        full = config if "vision_cfg" in config else vision.open_clip.get_model_config(config["model"])
        module = _build_vision_tower(full["embed_dim"], CLIPVisionCfg(**full["vision_cfg"])).eval()
        inputs = [self.backbone.prepare(pixels) for pixels in self.pixels]
        size = self.options.batch_size
        begun = CLOCK()
        for vector, pixels in zip(self.vectors, self.pixels, strict=True):
            self._teach(vector, pixels)
        for step in range(steps):
            module.zero_grad(set_to_none=True)
            first = (step * size) % (POOL - size + 1)
            for side in (step % 2,) if self.options.alternate else (0, 1):
                module(inputs[side][first : first + size]).square().sum().backward()
        return CLOCK() - begun

    def _teach(self, vector: task_vectors.Vector, pixels) -> torch.Tensor:
        return self.encoder.teach(task_vectors.add(self.pretrained, vector), pixels)


if __name__ == "__main__":
    main()
