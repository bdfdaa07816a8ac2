"""The report: one self-contained HTML page about a line, or its tables in Markdown. Read from results; no model."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from flows.line import encoders, workspace
from flows.programs import git
from flows.rendering import figures, templates
from flows.studies import compare, status
from flows.versions import history
from otmf import settings
from otmf.evaluation import metrics
from otmf.runtime import layout

PACKAGES = ("otmf", "torch", "open_clip_torch", "pot", "dvc", "prefect", "mlflow")


def write(line: layout.Layout, target: Path) -> None:
    """Writes the report of a line, whole or not at all: Markdown if the file's name ends in .md, else HTML.

    Raises:
        WorkspaceError: if the line has no step yet.
    """
    page = (
        templates.environment()
        .get_template("report.md.j2" if target.suffix == ".md" else "report.html.j2")
        .render(**content(line))
    )
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def content(line: layout.Layout) -> dict[str, Any]:
    """Everything the page shows, as plain values."""
    params = workspace.params(line)
    encoder, order = encoders.of(line, params), settings.chain(params.steps)
    if not order:
        raise workspace.WorkspaceError("expected a line with at least one step; received none; onboard a task first")
    last = _json(line.evaluation(order[-1]))
    merges = [_json(line.trace(step)) for step in order]
    matrix = metrics.accuracy_matrix(last["rows"])
    return {
        "name": params.line,
        "backbone": encoder.name,
        "reads": encoder.reads,
        "standing": status.sentences(line),
        "findings": (findings := status.gate_findings(line, order[-1])),
        "gate": status.gate_sentence(findings) if findings else "",
        "history": history.decisions(line.root),
        "commit": git.run(line.root, "rev-parse", "HEAD").strip(),
        "order": order,
        "matrix": figures.heat(matrix),
        "tasks": list(matrix.columns),
        "last": last,
        "steps": [_step(_json(line.evaluation(step)), merge) for step, merge in zip(order, merges, strict=True)],
        "merges": merges,
        "forgetting": last["forgetting"],
        "splits": [_json(line.manifest(task)) for task in matrix.columns],
        "loss_curves": [_loss_curve(merge) for merge in merges if merge["trace"]],
        "mask_curves": [_mask_curve(merge) for merge in merges if merge["masks"]],
        "comparison": compare.summary(line) if line.compared.exists() else [],
        "compared": compare.references(line) if line.compared.exists() else {},
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "code_versions": _code_versions(params, order),
    }


def _step(evaluation: dict[str, Any], merge: dict[str, Any]) -> dict[str, Any]:
    reference = evaluation["references"][evaluation["task"]]
    return {**{key: evaluation[key] for key in ("step", "task", "acc", "acc_frozen", "bwt", "normalised_accuracy", "heads")},
            **reference, "cost_before": merge["cost_before"], "cost_after": merge["cost_after"], "norms": merge["norms"],
            "cosine": merge["cosine"], "method": merge["method"]}  # fmt: skip


def _loss_curve(merge: dict[str, Any]) -> dict[str, str]:
    def draw(axes: Any) -> None:
        for side in ("pre", "post"):
            points = [(entry["step"], entry["loss"]) for entry in merge["trace"] if entry["side"] == side]
            if points:
                axes.plot(*zip(*points, strict=True), label=side)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.legend(frameon=False)

    return {"title": f"{merge['step']}: {merge['task']}", "svg": figures.svg(draw)}


def _mask_curve(merge: dict[str, Any]) -> dict[str, str]:
    def draw(axes: Any) -> None:
        for place, (side, layers) in enumerate(merge["masks"].items()):
            found = [layer["mean"] for layer in layers.values()]
            spread = [layer["deviation"] for layer in layers.values()]
            positions = [position + 0.4 * place for position in range(len(found))]
            axes.errorbar(positions, found, yerr=spread, fmt=".", markersize=3, linewidth=0.7, label=side)
        axes.axhline(1, color="grey", linewidth=0.6)
        axes.set_xlabel("tensor, in the order of the state dict")
        axes.set_ylabel("mask, mean and deviation")
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0)

    return {"title": f"{merge['step']}: {merge['task']}", "svg": figures.svg(draw)}


def _code_versions(params: settings.Params, order: list[str]) -> dict[str, str]:
    sections = {"pretrained": [params.pretrained], "finetune": [task.finetune for task in params.tasks.values()],
                "extract": [task.extract for task in params.tasks.values()],
                "merge-step": [params.steps[step].merge for step in order],
                "head-tune": [params.steps[step].head_tune for step in order],
                "evaluate": [params.steps[step].evaluate for step in order]}  # fmt: skip
    return {
        name: ", ".join(sorted({str(section.code_version) for section in found})) for name, found in sections.items()
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
