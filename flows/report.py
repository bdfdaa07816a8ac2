"""The report: one self-contained HTML page about a line, or its tables in Markdown. Read from results; no model."""

from __future__ import annotations

import io
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from flows import compare, console, encoders, git, standing, versions, workspace
from otmf import layout, metrics, settings

PACKAGES = ("otmf", "torch", "open_clip_torch", "pot", "dvc", "prefect", "mlflow")


def write(line: layout.Layout, target: Path) -> None:
    """Writes the report of a line, whole or not at all: Markdown if the file's name ends in .md, else HTML.

    Raises:
        WorkspaceError: if the line has no step yet.
    """
    page = (
        environment()
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
        "standing": standing.sentences(line),
        "findings": (findings := standing.gate_findings(line, order[-1])),
        "gate": standing.gate_sentence(findings) if findings else "",
        "history": versions.history(line.root),
        "commit": git.run(line.root, "rev-parse", "HEAD").strip(),
        "order": order,
        "matrix": heat(matrix),
        "tasks": list(matrix.columns),
        "last": last,
        "steps": [_step(_json(line.evaluation(step)), merge) for step, merge in zip(order, merges, strict=True)],
        "merges": merges,
        "forgetting": last["forgetting"],
        "splits": [_json(line.manifest(task)) for task in matrix.columns],
        "loss_curves": [_loss_curve(merge) for merge in merges if merge["trace"]],
        "mask_curves": [_mask_curve(merge) for merge in merges if merge["masks"]],
        "comparison": compare.summary(line) if (line.root / compare.RESULT).exists() else [],
        "compared": compare.references(line) if (line.root / compare.RESULT).exists() else {},
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "code_versions": _code_versions(params, order),
    }


def _step(evaluation: dict[str, Any], merge: dict[str, Any]) -> dict[str, Any]:
    reference = evaluation["references"][evaluation["task"]]
    return {**{key: evaluation[key] for key in ("step", "task", "acc", "acc_frozen", "bwt", "normalised_accuracy", "heads")},
            **reference, "cost_before": merge["cost_before"], "cost_after": merge["cost_after"], "norms": merge["norms"],
            "cosine": merge["cosine"], "method": merge["method"]}  # fmt: skip


def heat(matrix: Any) -> list[dict[str, Any]]:
    """Rows of the heat map: step name and cells with a value in per cent and a colour, or None above the diagonal."""
    return [{"step": step, "cells": [None if value != value else {"value": f"{100 * value:.1f}", "colour": _colour(value)}
                                     for value in row]} for step, row in zip(matrix.index, matrix.to_numpy(), strict=True)]  # fmt: skip


def _colour(value: float) -> str:
    """A background from pale to deep blue; the text on it stays dark up to the end of the scale."""
    return f"hsl(205 70% {96 - 46 * value:.0f}%)"


def _loss_curve(merge: dict[str, Any]) -> dict[str, str]:
    def draw(axes: Any) -> None:
        for side in ("pre", "post"):
            points = [(entry["step"], entry["loss"]) for entry in merge["trace"] if entry["side"] == side]
            if points:
                axes.plot(*zip(*points, strict=True), label=side)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.legend(frameon=False)

    return {"title": f"{merge['step']}: {merge['task']}", "svg": svg(draw)}


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

    return {"title": f"{merge['step']}: {merge['task']}", "svg": svg(draw)}


def svg(draw: Any, *, size: tuple[float, float] = (3.2, 2.1)) -> str:
    """A small figure as inline SVG: text stays text, and the same figure gives the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "otmf", "font.size": 8, "axes.spines.top": False,
                            "axes.spines.right": False}):  # fmt: skip
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        pyplot.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]


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


def plain(text: str) -> str:
    """Somebody's words as one line of Markdown that means nothing but itself."""
    return re.sub(r"([\\`*_\[\]<>|#~!])", r"\\\1", console.plain(" ".join(str(text).split())))


def _written(value: Any) -> Any:
    """A value as a page shows it: what would change how a terminal or browser shows the rest is written out."""
    return console.plain_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.PackageLoader("flows", "pages"), autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_written)  # fmt: skip
    environment.filters["percent"] = lambda value, signed=False: (
        "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"
    )
    environment.filters["plain"] = plain
    environment.filters["spread"] = compare.per_cent
    environment.filters["plain_spread"] = lambda spread: (
        "-" if spread is None else " ± ".join(f"{value:.4g}" for value in spread if value is not None)
    )
    environment.filters["ranks"] = lambda found: "-" if found is None else f"{found[0]:+.2f} ({found[1]:.2g})"
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.4g}"
    return environment
