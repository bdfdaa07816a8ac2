"""A line whose encoder reads texts: the same stages, commands and checks as of one that reads images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.programs import process
from flows.services import tracking
from otmf.runtime import layout
from tests import makers
from tests.pipeline import production

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def root(otmf, tmp_path_factory) -> Path:
    """A line of texts with two tasks."""
    folder = tmp_path_factory.mktemp("texts")
    root = makers.text_line(folder / "small", finetune={"epochs": 8, "batch_size": 8, "learning_rate": 0.01})
    for number, name in enumerate(("first", "second"), start=1):
        otmf("onboard", makers.text_card(folder / "cards", name, seed=number), "--line", root)
    return root


def test_tasks_are_learned_and_merged(root) -> None:
    result = json.loads((root / "data/results/steps/s02.json").read_text())
    assert result["tasks"] == ["first", "second"]
    assert min(one["finetuned"] for one in result["references"].values()) > 0.8
    merge = json.loads((root / "data/results/merges/s02.json").read_text())
    assert merge["saw"]["pre_images"] > 0
    assert {entry["side"] for entry in merge["trace"]} == {"pre", "post"}
    assert all(any(found["deviation"] > 0 for found in side.values()) for side in merge["masks"].values())


def test_predictions_come_by_command_and_over_http(otmf, root, tmp_path) -> None:
    (tmp_path / "one.txt").write_text("what a good film", encoding="utf-8")
    said = otmf("predict", tmp_path / "one.txt", "--task", "first", "--line", root).stdout
    name, found, probability = said.strip().splitlines()[-1].split("\t")
    assert name == "one.txt"
    port = production.free_port()
    command = [str(Path(sys.executable).parent / "otmf"), "serve", "--line", str(root), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=process.environment(), stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        production.until(lambda: production.answers(f"{url}/ready"), 120)
        plain = httpx.post(
            f"{url}/predict/first", content=b"what a good film", headers={"content-type": "text/plain"}, timeout=60
        ).json()
        both = {"task": "first", "texts": ["what a good film", "a bad one"]}
        several = httpx.post(f"{url}/predict", json=both, timeout=60).json()
        wrong = httpx.post(f"{url}/predict", json={"task": "first", "images": ["aGk="]}, timeout=60)
        kind = {"content-type": "text/plain; charset=utf-8"}
        broken = httpx.post(f"{url}/predict/first", content=b"\xff\xfe", headers=kind, timeout=60)
        half = httpx.post(f"{url}/predict", content=b'{"task": "first", "texts": ["\\ud800"]}',
                          headers={"content-type": "application/json"}, timeout=60)  # fmt: skip
        other = httpx.post(f"{url}/predict/first", content=b"text", headers={"content-type": "image/png"}, timeout=60)
    finally:
        process.end(server)
    assert plain["results"][0]["class"] == found
    assert plain["results"][0]["probability"] == pytest.approx(float(probability), abs=1e-3)
    assert len(several["results"]) == 2
    assert wrong.status_code == 422
    assert "expected texts, which this line's encoder reads; received images" in wrong.json()["detail"]
    assert (broken.status_code, "expected a text in UTF-8" in broken.json()["detail"]) == (400, True)
    assert (half.status_code, "text 1 with half a character in it" in half.json()["detail"]) == (422, True)
    assert (other.status_code, "expected the content type text/plain" in other.json()["detail"]) == (415, True)


def test_everything_is_verified_and_reported_in_its_own_words(otmf, root, tmp_path) -> None:
    otmf("verify", "--unsigned", "--line", root)
    otmf("report", "--line", root)
    otmf("audit", "v2", "--output", tmp_path / "audit", "--line", root)
    page = (tmp_path / "audit/audit.html").read_text()
    assert "old texts" in page
    assert re.search(r"no licence is stated for the data of [^<]*second", page), "said on top, among the deviations"
    assert "images" not in page
    card = (tmp_path / "audit/MODEL_CARD.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "tiny-bert" in card


def test_exported_folder_classifies_by_transformers_alone(otmf, root, tmp_path) -> None:
    otmf("export", tmp_path / "out", "--onnx", "--line", root)
    text = "what a good film"
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    ours = otmf("predict", tmp_path / "one.txt", "--task", "first", "--line", root).stdout.strip().split("\t")
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "classify.py", "first", text, "../one.txt"], cwd=tmp_path / "out", env=alone, capture_output=True, text=True, check=True
    )  # fmt: skip
    said = [line.split("\t") for line in done.stdout.strip().splitlines()]
    assert [one[0] for one in said] == [text, "../one.txt"]
    assert all(one[1:] == ours[1:] for one in said)
    assert (tmp_path / "out/encoder.onnx").stat().st_size > 1000


def test_registered_version_takes_texts(root) -> None:
    code = """
import sys, mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
given = pandas.DataFrame({"text": ["what a good film"], "task": ["first"]})
print(mlflow.pyfunc.load_model("models:/small@champion").predict(given)["class"][0])
"""
    command = [sys.executable, "-c", code, tracking.uri(layout.Layout(root))]
    done = subprocess.run(command, env=process.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] in ("bad", "good")


def test_card_of_images_is_refused(otmf, root, tmp_path) -> None:
    said = otmf("onboard", makers.card(tmp_path, "squares"), "--line", root, code=1).stderr
    assert "expected a card of texts, which this line's encoder (tiny-bert) reads; received source npz, images" in said
