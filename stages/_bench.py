"""Methods run over task orders on the experts of a line, scored with the heads asked for."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from otmf import continual, heads, low_rank, metrics, rows, settings, task_vectors
from stages import _encoder, _files, _params
from stages._run import say


@dataclass
class _Scores:
    """Accuracies under one kind of heads, and the heads as they stand.

    Attributes:
        tune: which heads are tuned, and how.
        heads: task -> head.
        rows: step, task, accuracy.
    """

    tune: settings.HeadTune
    heads: dict[str, heads.Head]
    rows: list[dict] = field(default_factory=list)

    def due(self, order: list[str], count: int) -> list[str]:
        """The tasks whose heads are tuned after the step of that number."""
        return {"frozen": [], "previous": order[:count][-2:-1], "all": order[:count]}[self.tune.heads]


HELD = 16 * 2**30  # bytes of test inputs of all tasks


class Bench:
    """Everything of a line's tasks that a merge or its scoring reads, loaded once."""

    def __init__(self, line: _params.Line, tasks: list[str]) -> None:
        self.line, self.tasks, self.where = line, tasks, _encoder.device(line)
        self.backbone = _encoder.open_backbone(line)
        self.encoder = continual.Encoder(self.backbone.features, lambda found: self.backbone.prepare(found, self.where))
        self.pretrained = _encoder.to(_files.load_pretrained(line), self.where)
        self.vectors = {task: self._vector(task) for task in tasks}
        self.heads = {task: _files.load_head(line.finetuned(task) / "head.safetensors")[1] for task in tasks}
        self.tests = {task: self._test(task) for task in tasks}
        self.unlabelled: dict[str, np.ndarray] = {}

    def run(self, name: str, options: settings.Merge, head_tune: list[settings.HeadTune], seed: int) -> list[dict]:
        """One method over one order, scored with each kind of heads: after each task's own step and at the end."""
        order = list(self.tasks)
        random.Random(seed).shuffle(order)
        merged, state, seconds = None, {}, 0.0
        scores = [_Scores(tuned, dict(self.heads)) for tuned in head_tune]
        for count, task in enumerate(order, start=1):
            begun = time.perf_counter()
            done = continual.advance(self.pretrained, merged, self.vectors[task], count=count, state=state, options=options,
                                     encoder=self.encoder, unlabelled=lambda task=task: self._unlabelled(task, options),
                                     head=self.heads[task])  # fmt: skip
            seconds += time.perf_counter() - begun
            merged, state = done.vector, done.state
            self._score(scores, task_vectors.add(self.pretrained, merged), order, count)
        return [self._row(name, found, seed, order, done.saw["declared"], seconds) for found in scores]

    def _score(self, scores: list[_Scores], state: task_vectors.State, order: list[str], count: int) -> None:
        for found in scores:
            for task in found.due(order, count):
                found.heads[task] = self._tuned(found.heads[task], state, task, found.tune)
        for task in order if count == len(order) else order[count - 1 : count]:
            features, labels = self.encoder.teach(state, self.tests[task][0]).cpu(), self.tests[task][1]
            for found in scores:
                accuracy = heads.accuracy(found.heads[task], features, labels)
                found.rows.append({"step": f"s{count:02d}", "task": task, "accuracy": accuracy})

    def _row(self, name: str, found: _Scores, seed: int, order: list[str], sees: str, seconds: float) -> dict:
        matrix = metrics.accuracy_matrix(found.rows)
        acc, bwt = metrics.average_accuracy(matrix), metrics.backward_transfer(matrix) if len(order) > 1 else None
        final = {row["task"]: row["accuracy"] for row in found.rows if row["step"] == f"s{len(order):02d}"}
        say(
            f"compare: {name}, heads {found.tune.heads}, order {seed}: ACC {acc:.3f}"
            + ("" if bwt is None else f", BWT {bwt:+.3f}")
        )
        return {"method": name, "heads": found.tune.heads, "seed": seed, "order": order, "sees": sees, "acc": acc, "bwt": bwt,
                "seconds": seconds, "final": final}  # fmt: skip

    def references(self) -> dict[str, dict[str, float]]:
        """Accuracies of the base and of each task's expert under the frozen heads."""
        return {
            task: {
                "base": self.accuracy(self.pretrained, task, self.heads[task]),
                "finetuned": self.accuracy(
                    task_vectors.add(self.pretrained, self.vectors[task]), task, self.heads[task]
                ),
            }
            for task in self.tasks
        }

    def accuracy(self, state: task_vectors.State, task: str, head: heads.Head) -> float:
        """Accuracy of a state on the test inputs of a task under a head."""
        inputs, labels = self.tests[task]
        return heads.accuracy(head, self.encoder.teach(state, inputs).cpu(), labels)

    def _tuned(self, head: heads.Head, state: task_vectors.State, task: str, options: settings.HeadTune) -> heads.Head:
        given = _encoder.labelled(self.line, task, options)
        if given is None:
            return head
        inputs, labels = given
        return heads.tune(head, self.encoder.teach(state, inputs).cpu(), labels, options=options)

    def _vector(self, task: str) -> task_vectors.Vector:
        return _encoder.to(
            low_rank.load_vector(self.line.task_vector(task) / "vector.safetensors", self.pretrained), self.where
        )

    def _test(self, task: str) -> tuple[rows.Rows, Tensor]:
        loaded, split = self.line.load(task)
        found = rows.Rows(self.backbone, loaded.test, split.test, largest=HELD // len(self.tasks))
        return found, torch.from_numpy(loaded.test.labels[split.test])

    def _unlabelled(self, task: str, options: settings.Merge) -> np.ndarray:
        if task not in self.unlabelled:
            self.unlabelled[task] = _encoder.unlabelled(self.line, task, options)
        return self.unlabelled[task]
