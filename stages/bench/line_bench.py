"""Methods run over task orders on the experts of a line, scored with the heads asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otmf import continual, heads, methods, settings, task_vectors
from otmf.backbones import task_inputs
from otmf.checkpoints import low_rank
from otmf.continual import alignment, memory
from otmf.data import datasets
from otmf.merging import masks
from stages.bench import expert_cache, measurement
from stages.context import current_line, encoder, shared_files


@dataclass
class _Scores:
    """Accuracies under one kind of heads, and the heads as they stand.

    Attributes:
        tune: which heads are tuned, and how.
        heads: task -> head.
        rows: step, task, accuracy, and what the step was.
        read: how many inputs of the new task heads were aligned on, or labelled ones of all tasks tuned on, after the last merge.
    """

    tune: settings.HeadTune
    heads: dict[str, heads.Head]
    rows: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0

    def due(self, order: Sequence[str], count: int) -> Sequence[str]:
        """The tasks whose heads are tuned on labels after the step of that number."""
        return {"previous": order[:count][-2:-1], "all": order[:count]}.get(self.tune.heads, ())


HELD = 16 * 2**30  # bytes of test inputs of all tasks


class Bench:
    """Everything of a line's tasks that a merge or its scoring reads.

    Task vectors are loaded once where `hold` is set, else each when it arrives, so that memory does not grow with them. With
    `held_out`, the inputs scored are unlabelled ones after so many drawn for merges, with the labels that no merge reads. What is measured of an arriving
    task alone, its expert's features and its curvature, is kept in the folder `kept`; a step's seconds and memory are those it would have taken without.
    """

    def __init__(
        self,
        line: current_line.Line,
        tasks: Sequence[str],
        *,
        hold: bool = True,
        held_out: int | None = None,
        seed: int = 0,
        kept: Path | None = None,
    ) -> None:
        self.line, self.tasks, self.where = line, list(tasks), encoder.device(line)
        self.backbone = encoder.open_backbone(line)
        self.encoder = continual.Encoder(self.backbone.features, lambda found: self.backbone.prepare(found, self.where))
        self.pretrained = encoder.to(shared_files.load_pretrained(line), self.where)
        self.held = {task: self._loaded(task) for task in tasks} if hold else {}
        self.heads = {task: shared_files.load_head(line.finetuned(task) / "head.safetensors")[1] for task in tasks}
        self.tests = {task: self._scored(task, held_out, seed) for task in tasks}
        self.unlabelled: dict[tuple[Callable[..., np.ndarray], str, int, int], np.ndarray] = {}
        self.kept = None if kept is None else expert_cache.Kept(kept)

    def vector(self, task: str) -> task_vectors.Vector:
        """tau of a task, on the device."""
        return self.held[task] if task in self.held else self._loaded(task)

    def run(
        self,
        options: settings.Merge,
        head_tune: Sequence[settings.HeadTune],
        order: Sequence[str],
        *,
        every_step: bool = False,
    ) -> list[dict[str, Any]]:
        """One method over one order: a row for each kind of heads, step and task scored at that step.

        Scored are each task after its own step and all after the last one; with `every_step`, all seen so far after every step.
        """
        merged, state = None, {}
        scores = [_Scores(tuned, dict(self.heads)) for tuned in head_tune]
        for count, task in enumerate(order, start=1):
            tau = self.vector(task)
            with measurement.measured(self.where) as cost:
                done = continual.advance(self.pretrained, merged, tau, count=count, state=state, options=options,
                                         encoder=self.encoder, unlabelled=lambda task=task: self._once(encoder.unlabelled, task, options),
                                         head=self.heads[task].to(self.where), targets=self._taught(tau), recall=self._recalled(task, tau, options))  # fmt: skip
            self._count_kept(cost)
            merged, state = done.vector, done.state
            self._align(scores, merged, order[:count], tau, state)
            scored = order[:count] if every_step or count == len(order) else order[count - 1 : count]
            self._score(scores, merged, order, count, scored, _facts(done, cost))
        return [row for found in scores for row in found.rows]

    def run_joint(self, options: settings.Merge) -> list[dict[str, Any]]:
        """The merge of all tasks at once, scored under the frozen heads: rows of the last step alone."""
        method = methods.METHODS[options.method]
        vectors = [self.vector(task) for task in self.tasks]
        for task, found in zip(self.tasks, vectors, strict=True):
            task_vectors.check(found, self.pretrained, what=f"a task vector of {task}")
        with measurement.measured(self.where) as cost:
            merged = method.joint(vectors, options)
        task_vectors.check(merged, self.pretrained, what=f"a merged vector of {options.method}")
        facts = {
            "sees": method.sees,
            "old_inputs": 0,
            "new_inputs": 0,
            "dissimilarity": None,
            "state_mib": 0.0,
            "mask_share": None,
            **vars(cost),
        }
        scores = [_Scores(settings.HeadTune(), dict(self.heads))]
        self._score(scores, merged, self.tasks, len(self.tasks), self.tasks, facts)
        return scores[0].rows

    def references(self) -> dict[str, dict[str, float]]:
        """Accuracies of the base and of each task's expert under the frozen heads."""
        return {
            task: {
                "base": self.accuracy(self.pretrained, task, self.heads[task]),
                "finetuned": self.accuracy(
                    task_vectors.add(self.pretrained, self.vector(task)), task, self.heads[task]
                ),
            }
            for task in self.tasks
        }

    def accuracy(self, state: task_vectors.State, task: str, head: heads.Head) -> float:
        """Accuracy of a state on the inputs of a task that are scored, under a head."""
        inputs, labels = self.tests[task]
        return heads.accuracy(head, self.encoder.teach(state, inputs).cpu(), labels)

    def _align(
        self,
        scores: list[_Scores],
        merged: task_vectors.Vector,
        tasks: Sequence[str],
        tau: task_vectors.Vector,
        left: Mapping[str, Tensor],
    ) -> None:
        due = [found for found in scores if found.tune.heads == "aligned"]
        if not due:
            return
        model = task_vectors.add(self.pretrained, merged)
        taught = self._taught(tau) or (
            lambda inputs: self.encoder.teach(task_vectors.add(self.pretrained, tau), inputs)
        )
        for found in due:
            inputs = self._once(encoder.for_heads, tasks[-1], found.tune)
            found.read = len(inputs)
            found.heads, _ = alignment.after_step(
                found.heads, self.heads, tasks, teach=lambda read: self.encoder.teach(model, read).cpu(), inputs=inputs,
                targets=taught(inputs) if len(inputs) else torch.empty(0), kept=memory.from_tensors(left), ridge=found.tune.ridge, ridge_of_old=found.tune.ridge_of_old,
            )  # fmt: skip
        if self.kept is not None:
            self.kept.forget()  # heads are not of the step

    def _score(
        self,
        scores: list[_Scores],
        merged: task_vectors.Vector,
        order: Sequence[str],
        count: int,
        scored: Sequence[str],
        facts: dict[str, Any],
    ) -> None:
        state = task_vectors.add(self.pretrained, merged)
        for found in scores:
            due = [(task, encoder.labelled(self.line, task, found.tune)) for task in found.due(order, count)]
            if found.tune.heads in ("previous", "all"):
                found.read = sum(len(given[1]) for _, given in due if given is not None)
            for task, given in due:
                if given is not None:
                    found.heads[task] = heads.tune(
                        found.heads[task], self.encoder.teach(state, given[0]).cpu(), given[1], options=found.tune
                    )
        for task in scored:
            features, labels = self.encoder.teach(state, self.tests[task][0]).cpu(), self.tests[task][1]
            for found in scores:
                accuracy = heads.accuracy(found.heads[task], features, labels)
                found.rows.append(
                    {
                        "heads": found.tune.heads,
                        "head_inputs": found.read,
                        "step": count,
                        "task": task,
                        "accuracy": accuracy,
                        **facts,
                    }
                )

    def _taught(self, tau: task_vectors.Vector) -> Callable[[np.ndarray], Tensor] | None:
        if self.kept is None:
            return None

        def taught(inputs: np.ndarray) -> Tensor:
            expert = task_vectors.add(self.pretrained, tau)
            return self.kept.recall(
                expert, inputs, "features", lambda: {"features": self.encoder.teach(expert, inputs)}
            )["features"]

        return taught

    def _recalled(self, task: str, tau: task_vectors.Vector, options: settings.Merge) -> methods.Recall:
        if self.kept is None:
            return methods.computed

        def recalled(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
            head = self.heads[task].to(self.where)
            of = task_vectors.add(self.pretrained, tau) | {"head.weight": head.weight, "head.bias": head.bias}
            return self.kept.recall(of, self._once(encoder.unlabelled, task, options), name, compute)

        return recalled

    def _count_kept(self, cost: measurement.Cost) -> None:
        """What a step would have cost without what was kept."""
        if self.kept is not None:
            cost.seconds += self.kept.saved
            cost.reached(self.kept.peak)
            self.kept.forget()

    def _loaded(self, task: str) -> task_vectors.Vector:
        return encoder.to(
            low_rank.load_vector(self.line.task_vector(task) / "vector.safetensors", self.pretrained), self.where
        )

    def _scored(self, task: str, held_out: int | None, seed: int) -> tuple[task_inputs.Rows, Tensor]:
        loaded, split = self.line.load(task)
        if held_out is None:
            source, positions = loaded.test, split.test
        else:
            source, positions = loaded.train, np.sort(encoder.drawn(split, seed)[held_out:])
            if source.labels is None or len(positions) == 0:
                raise ValueError(
                    f"task {task}: expected unlabelled {source.noun} that were given with labels beside the {held_out} for merges; received "
                    "none; score the test inputs, or raise split.unlabelled"
                )
        positions = positions[self._by_length(source, positions)]
        found = task_inputs.Rows(self.backbone, source, positions, largest=HELD // len(self.tasks))
        return found, torch.from_numpy(source.labels[positions])

    def _by_length(self, source: datasets.DataSet, positions: np.ndarray) -> np.ndarray:
        """Where inputs lie if those that cost the same to compute are to be side by side."""
        if self.backbone.lengths(self.backbone.blank()) is None:
            return np.arange(len(positions))
        batches = np.array_split(positions, max(1, -(-len(positions) // 1024)))
        lengths = [self.backbone.lengths(self.backbone.read(source, batch)) for batch in batches]
        return np.argsort(np.concatenate(lengths), kind="stable")

    def _once(
        self, draw: Callable[..., np.ndarray], task: str, options: settings.Merge | settings.HeadTune
    ) -> np.ndarray:
        """What `draw` reads of a task, read once."""
        wanted = (draw, task, options.unlabelled_images, options.seed)
        if wanted not in self.unlabelled:
            self.unlabelled[wanted] = draw(self.line, task, options)
        return self.unlabelled[wanted]


def _facts(done: continual.Step, cost: measurement.Cost) -> dict[str, Any]:
    held = sum(value.numel() * value.element_size() for value in done.state.values())
    learned = done.learned.masks if done.learned and done.learned.trace else {}  # at one where no step was taken
    whole = sum(value.numel() for value in done.vector.values())
    share = sum(masks.count(found) for found in learned.values()) / whole if learned else None
    return {"sees": done.saw["declared"], "old_inputs": done.saw["pre_images"], "new_inputs": done.saw["post_images"],
            "dissimilarity": done.dissimilarity, "state_mib": held / measurement.MIB, "mask_share": share,
            **vars(cost)}  # fmt: skip
