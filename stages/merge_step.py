"""Stage `merge-step`: one task vector merged into the model so far. Of older tasks it reads only what the last step left."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from otmf import backbones, checkpoints, fusion, masks, memory, methods, settings, task_vectors
from stages import _encoder, _params
from stages._run import Facts, say


def main(line: _params.Line, name: str) -> Facts:
    step = line.step(name)
    options, where = step.merge, _encoder.device(line)
    method = methods.METHODS[options.method]
    backbone, pretrained = _encoder.open_backbone(line), _encoder.to(_encoder.load_pretrained(line), where)
    tau = _encoder.to(checkpoints.load(line.task_vector(step.task) / "vector.safetensors"), where)
    before = _encoder.read_json(line.merged(step.previous) / "merged.json")
    merged, state = _previous(line, step, pretrained, where)
    count = len(before["tasks"]) + 1

    learns = method.sees == "unlabelled"
    unlabelled = _unlabelled(line, step, backbone) if learns else None
    targets = _features(backbone, pretrained, tau, unlabelled, where) if learns else None
    kept = memory.from_tensors(state)
    data = (
        _data(step, backbone, pretrained, merged, unlabelled, targets, kept, where, name) if learns and merged else None
    )
    outcome = methods.merge(methods.Arrival(pretrained, merged, tau, count, state, options, data))

    result = _encoder.to(task_vectors.add(pretrained, outcome.vector), torch.device("cpu"))
    checkpoints.save(result, line.merged(name) / "model.safetensors")
    left = {f"method.{key}": value for key, value in outcome.state.items()}
    if learns:
        left |= memory.to_tensors(_remember(options, kept, unlabelled, targets, count))
    checkpoints.save(left, line.merged(name) / "state.safetensors")
    _encoder.write_json(
        line.merged(name) / "merged.json",
        {"step": name, "previous": step.previous, "method": options.method, "tasks": [*before["tasks"], step.task]},
    )
    learned = outcome.learned or fusion.Merged(outcome.vector)
    checkpoints.save(
        {f"{side}.{key}": mask for side, found in learned.masks.items() for key, mask in found.items()},
        line.masks(name) / "masks.safetensors",
    )
    record = _record(name, step, method, data, kept, unlabelled, outcome, merged, tau)
    _encoder.write_json(line.trace(name), record)
    return _facts(line, name, step, record)


def _previous(
    line: _params.Line, step: settings.Step, pretrained: task_vectors.State, where: torch.device
) -> tuple[task_vectors.Vector | None, dict[str, Tensor]]:
    if step.previous == settings.FIRST:
        return None, {}
    merged = _encoder.to(checkpoints.load(line.merged(step.previous) / "model.safetensors"), where)
    left = _encoder.to(checkpoints.load(line.merged(step.previous) / "state.safetensors"), where)
    return task_vectors.subtract(merged, pretrained), {
        key.removeprefix("method."): value for key, value in left.items()
    }


def _unlabelled(line: _params.Line, step: settings.Step, backbone: backbones.Backbone) -> np.ndarray:
    """Pixels of at most `unlabelled_images` images of the new task's unlabelled part, drawn from the seed."""
    task, split = line.load(step.task)
    drawn = np.random.default_rng(step.merge.seed).permutation(split.unlabelled)[: step.merge.unlabelled_images]
    if len(drawn) < 2:
        raise ValueError(
            f"task {step.task}: expected at least 2 unlabelled images for the merge; received {len(drawn)}; raise "
            "split.unlabelled or bring more images"
        )
    return _encoder.pixels(task.train, drawn, backbone)


def _features(
    backbone: backbones.Backbone,
    pretrained: task_vectors.State,
    vector: task_vectors.Vector | None,
    pixels: np.ndarray,
    where: torch.device,
) -> Tensor:
    """A teacher's features, once per step, of all inputs it teaches on."""
    teacher = pretrained if vector is None else task_vectors.add(pretrained, vector)
    return backbones.extract(
        lambda inputs: backbone.features(teacher, inputs),
        lambda chosen: backbone.prepare(pixels[chosen]).to(where),
        len(pixels),
        batch_size=64,
    )


def _data(
    step: settings.Step,
    backbone: backbones.Backbone,
    pretrained: task_vectors.State,
    merged: task_vectors.Vector,
    unlabelled: np.ndarray,
    targets: Tensor,
    kept: memory.Memory | None,
    where: torch.device,
    name: str,
) -> methods.Data:
    options = step.merge
    post = fusion.Side(backbone.prepare(unlabelled).to(where), targets)
    if options.pre_images == "new_task":
        pre = fusion.Side(post.inputs, _features(backbone, pretrained, merged, unlabelled, where))
    elif options.pre_images == "none" or kept is None:
        pre = None
    else:
        old = kept.pixels.cpu().numpy()
        taught = kept.targets if options.remember_targets else _features(backbone, pretrained, merged, old, where)
        pre = fusion.Side(backbone.prepare(old).to(where), taught.to(where))

    def report(number: int, side: str, loss: float) -> None:
        say(f"merge-step {name}: epoch {number + 1}/{options.steps}, {side} {loss:.5f}")

    return methods.Data(backbone.features, pre, post, report)


def _remember(
    options: settings.Merge, kept: memory.Memory | None, unlabelled: np.ndarray, targets: Tensor, count: int
) -> memory.Memory | None:
    if options.pre_images not in ("memory", "previous_task"):
        return None
    return memory.admit(
        kept,
        torch.from_numpy(unlabelled),
        targets.cpu(),
        step=count,
        size=options.memory_size,
        only_last=options.pre_images == "previous_task",
        seed=options.seed,
    )


def _record(
    name: str,
    step: settings.Step,
    method: methods.Method,
    data: methods.Data | None,
    kept: memory.Memory | None,
    unlabelled: np.ndarray | None,
    outcome: methods.Outcome,
    merged: task_vectors.Vector | None,
    tau: task_vectors.Vector,
) -> dict:
    learned = outcome.learned or fusion.Merged(outcome.vector)
    saw = {
        "declared": method.sees,
        "labels": False,
        "test_images": 0,
        "post_images": 0 if data is None else len(unlabelled),
        "pre_images": 0 if data is None or data.pre is None else len(data.pre.inputs),
        "pre_kind": step.merge.pre_images if data is not None else "none",
        "pre_steps": sorted({int(value) for value in kept.steps}) if data and data.pre and kept else [],
        "sha256": None
        if unlabelled is None
        else hashlib.sha256(np.ascontiguousarray(unlabelled).tobytes()).hexdigest(),
    }
    return {
        "step": name,
        "task": step.task,
        "previous": step.previous,
        "method": step.merge.method,
        "source": method.source,
        "settings": step.merge.model_dump(),
        "saw": saw,
        "norms": {
            "task_vector": task_vectors.norm(tau),
            "merged_before": task_vectors.norm(merged) if merged else 0.0,
            "merged_after": task_vectors.norm(outcome.vector),
        },
        "cosine": task_vectors.cosine(merged, tau) if merged else 0.0,
        "cost_before": learned.cost_before,
        "cost_after": learned.cost_after,
        "trace": learned.trace,
        "masks": {side: masks.summarise(found) for side, found in learned.masks.items()},
    }


def _facts(line: _params.Line, name: str, step: settings.Step, record: dict) -> Facts:
    facts = Facts(
        inputs=[line.pretrained, line.merged(step.previous), line.task_vector(step.task)],
        outputs=[line.merged(name), line.masks(name)],
        parameters={"task": step.task, "previous": step.previous} | step.merge.model_dump(),
        document={"saw": record["saw"], "masks": record["masks"]},
    )
    for entry in record["trace"]:
        facts.curves.setdefault(f"loss/{entry['side']}", []).append((entry["step"], entry["loss"]))
    for moment in ("before", "after"):
        facts.metrics |= {f"ot_cost_{moment}/{side}": value for side, value in record[f"cost_{moment}"].items()}
    for side, layers in record["masks"].items():
        facts.metrics |= {
            f"mask/{side}/{layer}/{part}": found[part]
            for layer, found in layers.items()
            for part in ("mean", "deviation")
        }
    facts.metrics |= {f"norm/{key}": value for key, value in record["norms"].items()} | {"cosine": record["cosine"]}
    say(
        f"merge-step {name}: {step.task} merged by {step.merge.method}; cost before {_short(record['cost_before'])}, after "
        f"{_short(record['cost_after'])}; saw {json.dumps({key: record['saw'][key] for key in ('pre_images', 'post_images')})}"
    )
    return facts


def _short(costs: dict[str, float]) -> str:
    return ", ".join(f"{side} {value:.4g}" for side, value in costs.items()) or "none"
