"""Stage `merge-step`: one task vector merged into the model so far. Of older tasks it reads only what the last step left."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from otmf import checkpoints, continual, heads, settings, task_vectors
from otmf.checkpoints import low_rank
from otmf.merging import mask_training, masks
from otmf.settings import merge_methods
from stages.context import current_line, encoder, shared_files
from stages.context.run import Facts, say


def main(line: current_line.Line, name: str) -> Facts:
    step, where = line.step(name), encoder.device(line)
    backbone = encoder.open_backbone(line)
    pretrained = encoder.to(shared_files.load_pretrained(line), where)
    tau = encoder.to(low_rank.load_vector(line.task_vector(step.task) / "vector.safetensors", pretrained), where)
    before = shared_files.read_json(line.merged(step.previous) / "merged.json")
    merged, state = _previous(line, step, pretrained, where)

    def report(number: int, losses: Mapping[str, float]) -> None:
        shown = ", ".join(f"{side} {loss:.5f}" for side, loss in losses.items())
        say(f"merge-step {name}: epoch {number + 1}/{step.merge.steps}, {shown}")

    done = continual.advance(
        pretrained,
        merged,
        tau,
        count=len(before["tasks"]) + 1,
        state=state,
        options=step.merge,
        encoder=continual.Encoder(backbone.features, lambda found: backbone.prepare(found, where)),
        unlabelled=lambda: encoder.unlabelled(line, step.task, step.merge),
        head=_head(line, step.task, where),
        report=report,
    )
    result = encoder.to(task_vectors.add(pretrained, done.vector), torch.device("cpu"))
    checkpoints.save(result, line.merged(name) / "model.safetensors")
    checkpoints.save(done.state, line.merged(name) / "state.safetensors")
    position = {
        "step": name,
        "previous": step.previous,
        "method": step.merge.method,
        "tasks": [*before["tasks"], step.task],
    }
    shared_files.write_json(line.merged(name) / "merged.json", position)
    learned = done.learned or mask_training.Merged(done.vector)
    tensors = {
        f"{side}.{key}{part}": value
        for side, found in learned.masks.items()
        for key, mask in found.items()
        for part, value in mask.tensors().items()
    }
    checkpoints.save(tensors, line.masks(name) / "masks.safetensors")
    record = _record(name, step, done, learned, merged, tau)
    shared_files.write_json(line.trace(name), record)
    return _facts(line, name, step, record)


def _head(line: current_line.Line, task: str, where: torch.device) -> heads.Head | None:
    """A task's frozen head, as it lies beside its vector; None beside one that was extracted before heads lay there."""
    path = line.task_vector(task) / "head.safetensors"
    if not path.exists():
        return None
    return shared_files.load_head(path)[1].to(where)


def _previous(
    line: current_line.Line, step: settings.Step, pretrained: task_vectors.State, where: torch.device
) -> tuple[task_vectors.Vector | None, dict[str, Tensor]]:
    if step.previous == settings.FIRST:
        return None, {}
    merged = encoder.to(checkpoints.load(line.merged(step.previous) / "model.safetensors"), where)
    state = encoder.to(checkpoints.load(line.merged(step.previous) / "state.safetensors"), where)
    return task_vectors.subtract(merged, pretrained), state


def _record(
    name: str,
    step: settings.Step,
    done: continual.Step,
    learned: mask_training.Merged,
    merged: task_vectors.Vector | None,
    tau: task_vectors.Vector,
) -> dict:
    norms = {
        "task_vector": task_vectors.norm(tau),
        "merged_before": task_vectors.norm(merged) if merged else 0.0,
        "merged_after": task_vectors.norm(learned.vector),
    }
    return {
        "step": name,
        "task": step.task,
        "previous": step.previous,
        "method": step.merge.method,
        "source": merge_methods.SOURCES[step.merge.method],
        "settings": step.merge.model_dump(),
        "saw": done.saw,
        "dissimilarity": done.dissimilarity,
        "norms": norms,
        "cosine": task_vectors.cosine(merged, tau) if merged else 0.0,
        "cost_before": learned.cost_before,
        "cost_after": learned.cost_after,
        "trace": learned.trace,
        **({"notes": done.notes} if done.notes else {}),
        "masks": {side: masks.summarise(found) for side, found in learned.masks.items()},
    }


def _facts(line: current_line.Line, name: str, step: settings.Step, record: dict) -> Facts:
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
    if record["dissimilarity"] is not None:
        facts.metrics["dissimilarity"] = record["dissimilarity"]
    for side, layers in record["masks"].items():
        for layer, found in layers.items():
            facts.metrics |= {f"mask/{side}/{layer}/{part}": found[part] for part in ("mean", "deviation")}
    facts.metrics |= {f"norm/{key}": value for key, value in record["norms"].items()} | {"cosine": record["cosine"]}
    counts = f"{record['saw']['pre_images']} old and {record['saw']['post_images']} new inputs"
    costs = f"cost before {_short(record['cost_before'])}, after {_short(record['cost_after'])}"
    say(f"merge-step {name}: {step.task} merged by {step.merge.method}; {costs}; saw {counts}")
    return facts


def _short(costs: dict[str, float]) -> str:
    return ", ".join(f"{side} {value:.4g}" for side, value in costs.items()) or "none"
