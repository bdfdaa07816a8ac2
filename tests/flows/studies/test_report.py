"""The report: what it says, that it needs no network, and how a real browser renders it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.line import workspace
from flows.rendering import templates
from flows.studies import report
from otmf.runtime import layout
from tests import makers

PART = {"images": 5, "distinct": 5, "sha256": "ab" * 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A line with the result files of two steps, written by hand: the numbers are known."""
    root = makers.line(tmp_path_factory.mktemp("lines") / "line")
    line = layout.Layout(root)
    document = workspace.read_params(line)
    document["tasks"] = {"cats": {}, "dogs": {}}
    document["steps"] = {"s01": {"task": "cats", "previous": "s00"}, "s02": {"task": "dogs", "previous": "s01"}}
    workspace.write_params(line, document)
    rows = [
        {"step": "s01", "task": "cats", "accuracy": 0.91, "accuracy_frozen": 0.91},
        {"step": "s02", "task": "cats", "accuracy": 0.875, "accuracy_frozen": 0.87},
        {"step": "s02", "task": "dogs", "accuracy": 0.765, "accuracy_frozen": 0.75},
    ]
    references = {"cats": {"base": 0.5, "finetuned": 0.92}, "dogs": {"base": 0.4, "finetuned": 0.8}}
    curve = [{"step": step, "side": side, "loss": 1 / (step + 1)} for step in range(4) for side in ("pre", "post")]
    masks = {
        side: {"w": {"mean": 1.1, "deviation": 0.1, "least": 0, "greatest": 2, "below_zero": 0}}
        for side in ("pre", "post")
    }
    for count, (step, task) in enumerate((("s01", "cats"), ("s02", "dogs")), start=1):
        later = count > 1
        write(line.evaluation(step), {
            "step": step, "task": task, "acc": 0.82 if later else 0.91, "acc_frozen": 0.81 if later else 0.91,
            "bwt": -0.035 if later else None, "normalised_accuracy": 0.954, "heads": "frozen", "references": references,
            "rows": rows if later else rows[:1], "forgetting": {"cats": 0.035} if later else {},
        })  # fmt: skip
        write(line.trace(step), {
            "step": step, "task": task, "method": "otmf", "trace": curve if later else [], "masks": masks if later else {},
            "cost_before": {"pre": 3.0, "post": 5.0} if later else {}, "cost_after": {"pre": 2.0, "post": 1.0} if later else {},
            "norms": {"task_vector": 1.5}, "cosine": 0.25,
            "saw": {"declared": "unlabelled", "labels": False, "test_images": 0, "pre_kind": "memory" if later else "none",
                    "pre_images": 300 if later else 0, "pre_steps": [1] if later else [], "post_images": 240 if later else 0},
        })  # fmt: skip
        parts = dict.fromkeys(("labelled", "unlabelled", "held_back", "test"), PART)
        write(line.manifest(task), {"task": task, "disjoint": True, "parts": parts})
    workspace.commit(root, "Write results by hand")
    return root


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def page(root) -> Path:
    report.write(layout.Layout(root), root / "report.html")
    return root / "report.html"


def test_report_is_self_contained(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)""", text), "nothing is loaded from elsewhere"
    assert "<script" not in text


def test_same_results_give_the_same_page(root, page) -> None:
    before = page.read_bytes()
    report.write(layout.Layout(root), page)
    assert page.read_bytes() == before


def test_names_are_escaped(root, tmp_path) -> None:
    content = report.content(layout.Layout(root))
    content["name"] = "<script>alert(1)</script>"
    assert "<script>" not in templates.environment().get_template("report.html.j2").render(**content)


def test_line_without_a_step_has_no_report(tmp_path) -> None:
    line = layout.Layout(makers.line(tmp_path / "line"))
    with pytest.raises(
        workspace.WorkspaceError, match="expected a line with at least one step; received none; onboard a task"
    ):
        report.write(line, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


BROWSER = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--virtual-time-budget=3000")  # fmt: skip


@pytest.mark.browser
def test_report_reads_well_in_a_real_browser(page, tmp_path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (Debian package chromium)")
    command = [chromium, *BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", rendered, flags=re.DOTALL))
    assert "Line line" in text
    assert "ACC after s02 82.0" in text
    assert "Backward transfer -3.5" in text
    assert "s01 91.0 s02 87.5 76.5" in text, "the heat map"
    assert "3 → 2 5 → 1" in text, "cost before and after"
    assert "s02 unlabelled memory 300 1 240 none none" in text, "what the merge saw"
    assert "optimiser step" in text, "the curves' axes are text"
    assert re.search(r"torch \d+\.\d+", text), "versions"

    picture = tmp_path / "page.png"
    command = [chromium, *BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1800",
               f"--screenshot={picture}", page.as_uri()]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (1800, 1000)
    blue = (pixels[..., 2] - pixels[..., 0]) > 30
    assert blue.sum() > 2000, "the heat map is coloured"
