"""Stage `evaluate`: accuracy of the merged model on the test inputs of every task so far, and of base and expert."""

from __future__ import annotations

import torch

from otmf import backbones, checkpoints, heads, settings, task_vectors
from otmf.evaluation import metrics
from stages.context import current_line, encoder, shared_files
from stages.context.run import Facts, say


def main(line: current_line.Line, name: str) -> Facts:
    step, where = line.step(name), encoder.device(line)
    backbone = encoder.open_backbone(line)
    before = shared_files.read_json(line.evaluation(step.previous))
    merged = checkpoints.load(line.merged(name) / "model.safetensors")
    rows = [*before["rows"]]
    for task in line.tasks_until(name):
        served, frozen, _ = shared_files.load_head(line.heads(name) / f"{task}.safetensors")
        row = {
            "step": name,
            "task": task,
            **_scores(line, task, backbone, merged, {"accuracy": served, "accuracy_frozen": frozen}, where),
        }
        rows.append(row)
        say(f"evaluate {name}: {task} {row['accuracy']:.3f}")
    references = {**before.get("references", {}), step.task: _references(line, step, backbone, where)}
    result = {
        "step": name,
        "task": step.task,
        "tasks": line.tasks_until(name),
        "heads": step.head_tune.heads,
        "aligned": shared_files.read_json(line.heads(name) / "heads.json").get("unlabelled_images", {}),
        **_summary(rows, references),
        "references": references,
        "rows": rows,
    }
    shared_files.write_json(line.evaluation(name), result)
    say(
        f"evaluate {name}: ACC {result['acc']:.3f}"
        + (f", BWT {result['bwt']:+.3f}" if result["bwt"] is not None else "")
    )
    latest = {row["task"]: row["accuracy"] for row in rows if row["step"] == name}
    numbers = {
        key: result[key] for key in ("acc", "bwt", "normalised_accuracy", "acc_frozen") if result[key] is not None
    }
    return Facts(
        inputs=[line.merged(name), line.heads(name)],
        outputs=[line.evaluation(name)],
        metrics=numbers | {f"accuracy/{task}": value for task, value in latest.items()},
    )


def _scores(
    line: current_line.Line,
    task: str,
    backbone: backbones.Backbone,
    state: task_vectors.State,
    served: dict[str, heads.Head],
    where: torch.device,
) -> dict:
    loaded, split = line.load(task)
    found = encoder.features(backbone, state, loaded.test, split.test, where=where)
    labels = torch.from_numpy(loaded.test.labels[split.test])
    return {
        **{key: heads.accuracy(head, found, labels) for key, head in served.items()},
        "test_images": len(labels),
        "test_sha256": split.manifest["parts"]["test"]["sha256"],
    }


def _references(
    line: current_line.Line, step: settings.Step, backbone: backbones.Backbone, where: torch.device
) -> dict[str, float]:
    """Accuracies of the base and of the task's own expert, both under the head frozen before fine-tuning."""
    _, frozen, _ = shared_files.load_head(line.finetuned(step.task) / "head.safetensors")
    states = {
        "base": shared_files.load_pretrained(line),
        "finetuned": checkpoints.load(line.finetuned(step.task) / "model.safetensors"),
    }
    return {key: _scores(line, step.task, backbone, state, {key: frozen}, where)[key] for key, state in states.items()}


def _summary(rows: list[dict], references: dict[str, dict[str, float]]) -> dict[str, float | None]:
    served, frozen = (metrics.accuracy_matrix(rows, value=value) for value in ("accuracy", "accuracy_frozen"))
    finetuned = {task: found["finetuned"] for task, found in references.items()}
    return {
        "acc": metrics.average_accuracy(served),
        "acc_frozen": metrics.average_accuracy(frozen),
        "bwt": metrics.backward_transfer(served) if len(served) > 1 else None,
        "normalised_accuracy": metrics.normalised_accuracy(served, finetuned) if all(finetuned.values()) else None,
        "forgetting": metrics.forgetting(served),
    }
