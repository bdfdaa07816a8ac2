"""How gently to fine-tune, and from how many images to make a head: regimes compared without any test image.

    python -m tests.benchmarks.bench_regimes LINE [--base-only] '{"head": {"images_per_class": 4}, "finetune": {"epochs": 8}}' ...

LINE is a finished line of models (make demo). For each regime every task gets a new head and expert from its labelled train
images less every fifth of them; the methods merge the experts over three orders and are scored on those fifths. With
--base-only only the base is scored. The line stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from otmf import finetuning, heads, settings, task_vectors
from otmf.data import datasets
from otmf.evaluation import metrics
from stages import finetune
from stages.bench import line_bench
from stages.context import current_line, run, shared_files
from stages.context import encoder as stage_encoder
from tests.benchmarks import machine

EVERY = 5
SEEDS = (42, 43, 44)
FROZEN, PREVIOUS = settings.HeadTune(), settings.HeadTune(heads="previous")
JOBS = {
    "running_average": ("default", {"method": "running_average"}, [FROZEN, PREVIOUS]),
    "otmf_paper": ("paper", {}, [FROZEN, PREVIOUS]),
    "otmf_default": ("default", {}, [FROZEN]),
}


class Regime(line_bench.Bench):
    """The bench of a line whose heads and experts are made anew, in memory, and scored on labelled train images set aside."""

    def __init__(self, line: current_line.Line, head: settings.Head, training: dict, *, experts: bool) -> None:
        self.line, self.tasks = line, list(line.params_checked.tasks)
        self.where, self.unlabelled, self.kept = torch.device("cpu"), {}, None
        self.options = head, training
        self.pretrained = shared_files.load_pretrained(line)
        self.heads = {task: self._head(task) for task in self.tasks}
        self.held = {task: self._expert(task) for task in self.tasks} if experts else {}
        self.tests = {task: self._inputs_and_labels(task, aside=True) for task in self.tasks}

    @cached_property
    def backbone(self):
        return stage_encoder.open_backbone(self.line)

    @cached_property
    def encoder(self):
        return line_bench.continual.Encoder(self.backbone.features, self.backbone.prepare)

    def _positions(self, name: str, *, aside: bool) -> tuple[datasets.Task, np.ndarray]:
        task, split = self.line.load(name)
        chosen = np.arange(len(split.labelled)) % EVERY == 0
        return task, split.labelled[chosen if aside else ~chosen]

    def _inputs_and_labels(self, name: str, *, aside: bool) -> tuple[np.ndarray, Tensor]:
        task, positions = self._positions(name, aside=aside)
        return self.backbone.read(task.train, positions), torch.from_numpy(task.train.labels[positions])

    def _head(self, name: str) -> heads.Head:
        options, _ = self.options
        task, positions = self._positions(name, aside=False)
        few = finetune.few(positions, task.train.labels, options.images_per_class)
        found = self.encoder.teach(self.pretrained, self.backbone.read(task.train, few))
        labels = torch.from_numpy(task.train.labels[few])
        return heads.prototype(found, labels, classes=len(task.classes), scale=options.scale, centre=options.centre)

    def _expert(self, name: str) -> task_vectors.Vector:
        inputs, labels = self._inputs_and_labels(name, aside=False)
        own = self.line.task(name).finetune.model_dump()
        state = finetuning.train(
            self.pretrained,
            labels=labels,
            inputs=self.backbone.prepare(inputs),
            options=settings.section(settings.Finetune, own | self.options[1]),
            report=lambda epoch, loss: None,
            vary=self.backbone.vary,
            mirror=torch.ones(len(labels), dtype=torch.bool) if own["mirror"] else None,
            logits=lambda current, batch: self.heads[name].logits(self.backbone.features(current, batch)),
        )
        return task_vectors.subtract(state, self.pretrained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", type=Path)
    parser.add_argument("regime", nargs="+", type=json.loads)
    parser.add_argument("--base-only", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(given.line)
    line = current_line.read(Path.cwd())
    columns = ["regime", "base"]
    if not given.base_only:
        columns += ["fine-tuned", *(f"{name}, {kind.heads}" for name, (_, _, kinds) in JOBS.items() for kind in kinds)]
    with run.imports_frozen():
        rows = [row(line, regime, base_only=given.base_only) for regime in given.regime]
    print(machine.heading("Regimes of fine-tuning and heads, scored on labelled train images set aside",
                          "python -m tests.benchmarks.bench_regimes LINE REGIME ..."))  # fmt: skip
    print(machine.table(columns, rows))
    print("Accuracy in per cent; for the methods mean and, in brackets, each of three orders.")


def row(line: current_line.Line, regime: dict, *, base_only: bool) -> list[object]:
    head = settings.section(settings.Head, regime.get("head", {}))
    bench = Regime(line, head, regime.get("finetune", {}), experts=not base_only)
    base = mean(bench.accuracy(bench.pretrained, task, bench.heads[task]) for task in bench.tasks)
    cells = [json.dumps(regime), f"{100 * base:.1f}"]
    if base_only:
        return cells
    cells.append(f"{100 * mean(found['finetuned'] for found in bench.references().values()):.1f}")
    for preset, values, kinds in JOBS.values():
        found = [
            bench.run(settings.merge(preset, values, heads=kinds[0].heads), kinds, shuffled(bench.tasks, seed))
            for seed in SEEDS
        ]
        for kind in kinds:
            accuracies = [100 * final(rows, kind) for rows in found]
            cells.append(f"{mean(accuracies):.1f} [{', '.join(f'{value:.1f}' for value in accuracies)}]")
    return cells


def shuffled(tasks: list[str], seed: int) -> list[str]:
    order = list(tasks)
    random.Random(seed).shuffle(order)
    return order


def final(rows: list[dict], kind: settings.HeadTune) -> float:
    """ACC after the last step under a kind of heads."""
    return metrics.average_accuracy(metrics.accuracy_matrix(row for row in rows if row["heads"] == kind.heads))


if __name__ == "__main__":
    main()
