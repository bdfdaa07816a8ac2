"""A line whose stages do next to nothing: real git, DVC, Prefect and MLflow around files of a few bytes.

    python -m tests.light STAGE [KEY]     # as the line's dvc.yaml calls it

For tests of what happens around a chain: landings, decisions, kills, full disks.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from otmf.runtime import layout
from tests import makers

BASE, FINETUNED, MERGED = 0.4, 0.9, 0.8  # accuracies that every task gets,
REFUSED, SHORT = "short", 0.1  # but for tasks whose names begin so: the gate refuses what that has after its merge


def line(folder: Path) -> layout.Layout:
    """A new light line, committed; the gate lets through what is at least half as good as the fine-tuned model."""
    from flows.line import workspace

    root = makers.line(folder)
    recipe = (root / "dvc.yaml").read_text(encoding="utf-8")
    (root / "dvc.yaml").write_text(recipe.replace("python -m stages ", "python -m tests.light "), encoding="utf-8")
    document = workspace.read_params(layout.Layout(root))
    document["gate"] = {"least_of_finetuned": 0.5}
    workspace.write_params(layout.Layout(root), document)
    workspace.commit(root, "Use light stages")
    return layout.Layout(root)


def gate(found: layout.Layout, **rules: float) -> None:
    """Sets the rules of the gate, and commits."""
    from flows.line import workspace

    document = workspace.read_params(found)
    document["gate"] = rules
    workspace.write_params(found, document)
    workspace.commit(found.root, "Set the gate")


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _pretrained(found: layout.Layout, _: str, __: dict) -> None:
    _write(found.pretrained / "model.safetensors", "base")
    _write(found.pretrained / "backbone.json", {})
    _write(found.merged("s00") / "model.safetensors", "base")
    _write(found.heads("s00") / "heads.json", {})
    _write(found.evaluation("s00"), {"rows": [], "references": {}})


def _finetune(found: layout.Layout, task: str, params: dict) -> None:
    _write(found.finetuned(task) / "model.safetensors", f"{task} {params['tasks'][task]['finetune']}")


def _extract(found: layout.Layout, task: str, _: dict) -> None:
    _write(found.task_vector(task) / "vector.safetensors", task)
    _write(found.manifest(task), {"task": task, "parts": {"test": {"images": 1, "sha256": "0" * 64}}, "disjoint": True})


def _merge_step(found: layout.Layout, step: str, params: dict) -> None:
    entry = params["steps"][step]
    before = (found.merged(entry["previous"]) / "model.safetensors").read_text(encoding="utf-8")
    own = (found.finetuned(entry["task"]) / "model.safetensors").read_text(encoding="utf-8")
    _write(found.merged(step) / "model.safetensors", f"{before}\n{step} {own}")
    _write(found.masks(step) / "masks", step)
    _write(found.trace(step), {"step": step, "task": entry["task"], "method": "otmf"})


def _head_tune(found: layout.Layout, step: str, params: dict) -> None:
    for one in _until(params, step):
        _write(found.heads(step) / f"{one}.safetensors", one)


def _evaluate(found: layout.Layout, step: str, params: dict) -> None:
    entry = params["steps"][step]
    before = json.loads(found.evaluation(entry["previous"]).read_text(encoding="utf-8"))
    rows = before["rows"] + [
        {"step": step, "task": task, "accuracy": SHORT if task.startswith(REFUSED) else MERGED, "test_sha256": "0" * 64}
        for task in _until(params, step)
    ]
    result = {"step": step, "task": entry["task"], "tasks": _until(params, step), "acc": MERGED, "bwt": 0.0 if len(rows) > 1 else None,
              "references": {**before["references"], entry["task"]: {"base": BASE, "finetuned": FINETUNED}}, "rows": rows}  # fmt: skip
    _write(found.evaluation(step), result)


def _until(params: dict, step: str) -> list[str]:
    return [params["steps"][one]["task"] for one in sorted(params["steps"]) if one <= step]


STAGES = {"pretrained": _pretrained, "finetune": _finetune, "extract": _extract, "merge_step": _merge_step,
          "head_tune": _head_tune, "evaluate": _evaluate}  # fmt: skip


def _wait(stage: str) -> None:
    """Where a test has named a folder of gates: says that the stage is there, and waits until it may go on."""
    gates = os.environ.get("OTMF_TEST_GATES")
    if gates:
        (Path(gates) / f"{stage}.at").touch()
        end = time.monotonic() + 120
        while not (Path(gates) / stage).exists() and time.monotonic() < end:
            time.sleep(0.02)


def main(name: str, key: str = "") -> None:
    if not re.fullmatch(r"[a-z0-9_-]*", key):
        raise SystemExit(f"expected a task or a step; received {key!r}")
    _wait(name.replace("_", "-") + (f"@{key}" if key else ""))
    content = YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8"))
    STAGES[name](layout.Layout(Path()), key, content)


if __name__ == "__main__":
    main(*sys.argv[1:])
