"""How gently to fine-tune, and from how many images to make a head: regimes compared without any test image.

    python -m tests.benchmarks.bench_regimes LINE '{"head": {"images_per_class": 4}, "finetune": {"epochs": 8}}' ...

LINE is a finished line of models (make demo). For each regime every task gets a new head and expert from its train images
less a fifth, held back; the methods merge them over three orders and are scored on that fifth. The line stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from otmf import finetuning, heads, settings, task_vectors
from stages import _bench, _encoder, _files, _params, _run, finetune
from tests.benchmarks import machine

HELD_BACK = 0.2
SEEDS = (42, 43, 44)
FROZEN, PREVIOUS = settings.HeadTune(), settings.HeadTune(heads="previous")
JOBS = {
    "running_average": ("default", {"method": "running_average"}, [FROZEN, PREVIOUS]),
    "otmf_paper": ("paper", {}, [FROZEN, PREVIOUS]),
    "otmf_default": ("default", {}, [FROZEN]),
}


class Regime(_bench.Bench):
    """The bench of a line whose experts are made anew, in memory, and scored on held-back train images."""

    def __init__(self, line: _params.Line, head: settings.Head, training: settings.Finetune) -> None:
        tasks = {
            name: task.model_copy(update={"split": settings.Split(held_back=HELD_BACK, seed=task.split.seed)})
            for name, task in line.params_checked.tasks.items()
        }
        self.line = _params.Line(line.root, line.params_checked.model_copy(update={"tasks": tasks}))
        self.tasks, self.where, self.unlabelled = list(tasks), torch.device("cpu"), {}
        self.options = head, training
        self.pretrained = _files.load_pretrained(line)
        made = {task: self._expert(task) for task in self.tasks}
        self.heads = {task: head for task, (head, _) in made.items()}
        self.vectors = {task: vector for task, (_, vector) in made.items()}
        self.tests = {task: self._held_back(task) for task in self.tasks}

    @cached_property
    def backbone(self):
        return _encoder.open_backbone(self.line)

    @cached_property
    def encoder(self):
        return _bench.continual.Encoder(self.backbone.features, self.backbone.prepare)

    def _expert(self, name: str) -> tuple[heads.Head, task_vectors.Vector]:
        options, training = self.options
        task, split = self.line.load(name)
        few = finetune.few(split.labelled, task.train.labels, options.images_per_class)
        found = self.encoder.teach(self.pretrained, _encoder.pixels(task.train, few, self.backbone))
        labels = torch.from_numpy(task.train.labels[few])
        head = heads.prototype(found, labels, classes=len(task.classes), scale=options.scale, centre=options.centre)
        state = finetuning.train(
            self.pretrained,
            labels=torch.from_numpy(task.train.labels[split.labelled]),
            inputs=self.backbone.prepare(_encoder.pixels(task.train, split.labelled, self.backbone)),
            options=training,
            report=lambda epoch, loss: None,
            mirror=None,
            logits=lambda current, batch: head.logits(self.backbone.features(current, batch)),
        )
        return head, task_vectors.subtract(state, self.pretrained)

    def _held_back(self, name: str) -> tuple[np.ndarray, Tensor]:
        task, split = self.line.load(name)
        return _encoder.pixels(task.train, split.held_back, self.backbone), torch.from_numpy(
            task.train.labels[split.held_back]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", type=Path)
    parser.add_argument("regime", nargs="+", type=json.loads)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(given.line)
    line = _params.read(Path.cwd())
    columns = ["regime", "base", "fine-tuned"]
    columns += [f"{name}, {kind.heads}" for name, (_, _, kinds) in JOBS.items() for kind in kinds]
    with _run.imports_frozen():
        rows = [row(line, regime) for regime in given.regime]
    print(machine.heading("Regimes of fine-tuning and heads, scored on held-back train images",
                          "python -m tests.benchmarks.bench_regimes LINE REGIME ..."))  # fmt: skip
    print(machine.table(columns, rows))
    print("Accuracy in per cent; for the methods mean and, in brackets, each of three orders.")


def row(line: _params.Line, regime: dict) -> list[object]:
    bench = Regime(
        line, settings.section(settings.Head, regime.get("head", {})), settings.section(settings.Finetune, regime.get("finetune", {}))
    )  # fmt: skip
    references = bench.references()
    cells = [json.dumps(regime), *(f"{100 * mean(found[key] for found in references.values()):.1f}" for key in ("base", "finetuned"))]  # fmt: skip
    for name, (preset, values, kinds) in JOBS.items():
        found = [bench.run(name, settings.merge(preset, values), kinds, seed) for seed in SEEDS]
        for place in range(len(kinds)):
            accuracies = [100 * rows[place]["acc"] for rows in found]
            cells.append(f"{mean(accuracies):.1f} [{', '.join(f'{value:.1f}' for value in accuracies)}]")
    return cells


if __name__ == "__main__":
    main()
