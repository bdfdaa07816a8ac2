"""Every text that a person or a file gives reaches terminals, pages and logs as text: real commands on a real line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from flows.services import tracking
from otmf.runtime import layout
from tests import makers

pytestmark = pytest.mark.pipeline
BAD = "[/OPS-12] [red]x[/red] \x1b[2J \x9b2J \u202eabc <script>alert(1)</script> <img src=x onerror=y>"
IN_A_NAME = "[red] \x1b[2J\u202e<b>.png"
CLASSES = ("[/a]\x1b[2J", "<script>b</script>", "\u202ec")


def require_plain(*texts: str) -> None:
    for text in texts:
        assert "Traceback" not in text, text[-3000:]
        found = {one for one in text if not one.isprintable() and one not in "\n\t"}
        assert not found, (found, text[-3000:])


def shown(done) -> str:
    require_plain(done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def line(otmf, tmp_path_factory) -> Path:
    """A line about which people said what they could, with a task accepted against the gate, one refused, a rollback."""
    folder = tmp_path_factory.mktemp("foreign")
    os.environ["GIT_AUTHOR_NAME"] = "Ada [/x] \x1b[2J"
    root = makers.line(folder / "small", finetune={"steps": 4, "batch_size": 8})
    del os.environ["GIT_AUTHOR_NAME"]
    shown(otmf("keys", "new", "--reason", BAD, "--by", BAD, "--line", root))
    said = {"title": BAD, "description": BAD, "owner": BAD, "licence": BAD, "classes": list(CLASSES)}
    first, second, third = (
        makers.card(folder / "cards", name, seed=seed, **said)
        for seed, name in enumerate(("first", "second", "third"), 1)
    )
    shown(otmf("onboard", first, "--line", root, OTMF_ACTOR=BAD))
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("least_of_finetuned: 0", "least_of_finetuned: 9"))

    makers.commit(root, BAD)
    shown(otmf("onboard", second, "--override", BAD, "--line", root, OTMF_ACTOR=BAD))
    assert "gate" in shown(otmf("onboard", third, "--line", root, code=1, OTMF_ACTOR=BAD))
    shown(otmf("rollback", "--reason", BAD, "--by", BAD, "--line", root))
    refused = root / ".otmf/refused/[red]\x1b[2J"
    refused.mkdir(parents=True)
    (refused / "reason.txt").write_text(BAD, encoding="utf-8")
    (root / "data/inbox").mkdir(exist_ok=True)
    (root / "data/inbox/[red]\x1b[2J.yaml").write_text("name: [")
    return root


def test_status_shows_it(otmf, line) -> None:
    said = shown(otmf("status", "--line", line))
    assert "[/OPS-12] [red]x[/red] \\x1b[2J \\x9b2J \\u202eabc <script>" in said
    assert "Refused: [red]\\x1b[2J: " in said
    assert "Lies in the inbox by itself: [red]\\x1b[2J.yaml" in said


def test_checks_show_it(otmf, line) -> None:
    (line / "data/cards/[red]\x1b[2J").write_text("x")
    MlflowClient(tracking_uri=tracking.uri(layout.Layout(line))).set_model_version_tag("small", "1", "by", BAD + "2")
    said = shown(otmf("verify", "--line", line, code=1))
    assert "BAD file data/cards/[red]\\x1b[2J: expected no such file" in said
    assert "BAD registry: v1: expected tag by" in said
    shown(otmf("audit", "v2", "--output", line / ".otmf/audit", "--line", line, code=1))
    (line / "data/cards/[red]\x1b[2J").unlink()
    shown(otmf("diff", "v1", "v2", "--line", line))
    shown(otmf("replay", "v9", "--line", line, code=1))


def test_pages_hold_it_as_text(otmf, line) -> None:
    shown(otmf("report", "--line", line))
    shown(otmf("report", "--line", line, "--output", line / ".otmf/report.md"))
    shown(otmf("audit", "v2", "--output", line / ".otmf/audit", "--line", line, code=None))
    for path in (line / "report.html", line / ".otmf/audit/audit.html"):
        text = path.read_text(encoding="utf-8")
        require_plain(text)
        assert "OPS-12" in text
        assert not re.search(r"<script>|<img", text)
    for path in (line / ".otmf/report.md", line / ".otmf/audit/MODEL_CARD.md"):
        text = path.read_text(encoding="utf-8")
        require_plain(text)
        assert not re.search(r"(?<!\\)<script", text), text


def test_predictions_show_it(otmf, line, tmp_path) -> None:
    picture = tmp_path / IN_A_NAME
    Image.new("RGB", (16, 16), "red").save(picture, format="png")
    said = shown(otmf("predict", picture, "--task", "first", "--line", line))
    assert said.startswith("[red] ")
    assert "\\u202e<b>.png\t" in said
    shown(otmf("predict", picture, "--task", BAD, "--line", line, code=1))
    picture.write_text("none")
    shown(otmf("predict", picture, "--task", "first", "--line", line, code=1))


def test_what_is_handed_in_is_refused_as_text(otmf, line, tmp_path) -> None:
    card = makers.card(tmp_path, "other")
    makers.write_yaml(card, {"name": BAD, "source": BAD, "path": BAD, BAD: BAD})
    assert "OPS-12" in shown(otmf("onboard", card, "--line", line, code=1))
    odd = tmp_path / IN_A_NAME
    odd.write_bytes(card.read_bytes())
    shown(otmf("onboard", odd, "--line", line, code=1))
    shown(otmf("submit", odd, "--line", line, code=1))
    shown(otmf("import", odd, tmp_path / "out.safetensors", "--line", line, code=1))
    shown(otmf("import", odd, tmp_path / f"{IN_A_NAME}.safetensors", "--line", tmp_path / IN_A_NAME, code=1))
    shown(otmf("promote", BAD, "--reason", BAD, "--line", line, code=1))
    shown(otmf("retire", BAD, "--reason", BAD, "--line", line, code=1))
    shown(otmf("trace", BAD, "--line", line, code=1))
    shown(otmf("methods", BAD, code=1))
    shown(otmf("bench", odd, code=1))
    shown(otmf("init", line.parent / f"new {IN_A_NAME}", "--base", odd, code=1))


def test_predictions_of_others_are_traced_as_text(otmf, line) -> None:
    import json

    from otmf.provenance import ledger

    record = ledger.read(line)[1]
    entry = {"prediction_id": "v1-1", "at": BAD, "task": BAD, "record": record.name, "record_sha256": record.sha256,
             "sha256": record.statement.decision.sha256, "version": 1, "step": "s01", "images": [BAD],
             "results": [{"class": BAD, "probability": 0.5}]}  # fmt: skip
    (line / ".otmf/predictions").mkdir(exist_ok=True)
    (line / ".otmf/predictions/2026-01-01.jsonl").write_text(json.dumps(entry) + "\n")
    assert "\\x9b2J" in shown(otmf("trace", "v1-1", "--line", line))
