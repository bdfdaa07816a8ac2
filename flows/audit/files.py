"""The forms of an audit: a page for people, JSON, a CycloneDX bill of materials, OpenLineage events, a model card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from flows.audit import bill_of_materials, document, graph, openlineage
from flows.rendering import templates
from otmf.runtime import layout

PAGE, JSON, BOM, EVENTS, CARD = "audit.html", "audit.json", "bom.cdx.json", "openlineage.jsonl", "MODEL_CARD.md"


def write(found: document.Audit, folder: Path) -> None:
    """Writes all forms into a folder: all of them or none. Other files there stay.

    Raises:
        BomError: if CycloneDX's schema does not admit the bill of materials.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".audit-", dir=folder) as name:
        part = Path(name)
        (part / PAGE).write_text(page(found), encoding="utf-8")
        (part / JSON).write_text(document.as_json(found), encoding="utf-8")
        (part / BOM).write_text(bill_of_materials.bom(found), encoding="utf-8")
        openlineage.write(found, part / EVENTS)
        (part / CARD).write_text(model_card(found), encoding="utf-8")
        for path in part.iterdir():
            shutil.move(path, folder / path.name)


def page(found: document.Audit) -> str:
    """The page: self-contained, readable on paper."""
    champion = layout.Layout(Path()).merged(found.step).as_posix()
    drawn = graph.svg(found.stages, {step.step: step.task for step in found.steps}, champion)
    made = next(one.decision for one in found.decisions if one.decision.version == found.version)
    page = templates.environment().get_template("audit.html.j2")
    return page.render(audit=found, graph=drawn, findings=made.findings)


def model_card(found: document.Audit) -> str:
    """The model card: Markdown with the usual header."""
    licences = sorted({task.licence for task in found.tasks if task.licence} | ({found.base_licence} - {""}))
    return templates.environment().get_template("model_card.md.j2").render(audit=found, licences=licences)
