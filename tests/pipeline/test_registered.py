"""A version loaded from MLflow's registry by MLflow: the weights come from DVC, checked, and answer as the line does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from flows.line import workspace
from flows.services import tracking
from flows.versions import registry
from flows.versions.registered_model import mlflow
from otmf.provenance.model_reference import Reference
from otmf.runtime import layout
from stages import registered
from tests import makers

pytestmark = pytest.mark.pipeline

ASK = """
import sys, json, pandas, mlflow
from pathlib import Path
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = json.loads(sys.argv[3])
data = pandas.DataFrame({"image": [Path(row[0]).read_bytes() for row in rows], "task": [row[1] for row in rows]})
print(model.predict(data).to_json(orient="records"))
"""


@pytest.fixture(scope="module")
def line(otmf, tmp_path_factory) -> layout.Layout:
    folder = tmp_path_factory.mktemp("registered")
    root = makers.line(folder / "small")
    for number, name in enumerate(("first", "second"), start=1):
        otmf("onboard", makers.card(folder / "cards", name, seed=number), "--line", root)
    return layout.Layout(root)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(makers.pictures(3, seed=9)[0]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def models(line) -> dict[int, Path]:
    """Version -> the folder that MLflow holds of it."""
    name = workspace.params(line).line
    store = tracking.prepare(line, name)
    found = {}
    for number, version in registry._known(store, name).items():
        run = store.client.get_run(version.run_id)
        assert run.data.tags["kind"] == "onboard"
        found[number] = Path(run.info.artifact_uri.removeprefix("file://")) / f"model/v{number}"
    return found


def test_mlflow_loads_the_champion_and_it_answers_as_the_line_does(otmf, line, pictures, tmp_path) -> None:
    rows = [(str(pictures[0]), "second"), (str(pictures[1]), "first"), (str(pictures[2]), "second")]
    done = subprocess.run(
        [sys.executable, "-c", ASK, tracking.uri(line), "models:/small@champion", json.dumps(rows)],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["version"] for one in found] == [2, 2, 2]
    for (path, task), one in zip(rows, found, strict=True):
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        said = otmf("predict", "--task", task, path, "--line", line.root).stdout.split("\t")
        assert (one["class"], one["probability"]) == (said[1], pytest.approx(float(said[2]), abs=1e-3))


def test_registered_version_has_signature_example_and_no_weights(models) -> None:
    for folder in models.values():
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == {"MLmodel", "data/reference.json", "input_example.json", "serving_input_example.json"}
        assert sum((folder / file).stat().st_size for file in files) < 20_000
        described = (folder / "MLmodel").read_text(encoding="utf-8")
        assert all(
            word in described for word in ("loader_module: stages.registered", '"name": "image"', '"probabilities"')
        )


def test_older_version_knows_its_own_tasks_and_refuses_what_it_cannot_answer(models, pictures) -> None:
    model = mlflow.pyfunc.load_model(str(models[1]))
    content = pictures[0].read_bytes()
    assert list(model.predict(pd.DataFrame({"image": [content] * 2, "task": ["first"] * 2}))["version"]) == [1, 1]
    with pytest.raises(ValueError, match=r"expected a task of v1 \(first\); received 'second'"):
        model.predict(pd.DataFrame({"image": [content], "task": ["second"]}))
    with pytest.raises(ValueError, match="expected an image that decodes; received image 2"):
        model.predict(pd.DataFrame({"image": [content, b"not a picture"], "task": ["first"] * 2}))
    with pytest.raises(MlflowException, match="task"):
        model.predict(pd.DataFrame({"image": [content], "job": ["first"]}))


def test_weights_come_from_the_clone_that_is_named(line, models, tmp_path, monkeypatch) -> None:
    reference = models[2] / "data/reference.json"
    assert Reference.model_validate_json(reference.read_text("utf-8")).repository == str(line.root)
    shutil.copytree(line.root, tmp_path / "clone", symlinks=True, ignore=shutil.ignore_patterns(".otmf"))
    said = json.loads(reference.read_text("utf-8")) | {"repository": str(tmp_path / "gone")}
    (tmp_path / "reference.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ValueError, match="set OTMF_LINE to a clone of the line that has it"):
        registered._load_pyfunc(str(tmp_path / "reference.json"))
    monkeypatch.setenv("OTMF_LINE", str(tmp_path / "clone"))
    assert set(registered._load_pyfunc(str(tmp_path / "reference.json")).loaded.heads) == {"first", "second"}


def test_model_that_names_other_weights_or_other_code_is_found_and_does_not_load(otmf, line, models) -> None:
    def verified() -> str:
        return otmf("verify", "v2", "--unsigned", "--line", line.root, code=1).stdout

    model, path = "data/models/merged/s02/model.safetensors", models[2] / "data/reference.json"
    kept = path.read_text(encoding="utf-8")
    sound = Reference.model_validate_json(kept)
    other = sound.model_copy(update={"files": sound.files | {model: "0" * 64}})
    try:
        path.write_text(other.model_dump_json(indent=1) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"expected {model} of v2 with sha256 0000000000000000; received"):
            registered._load_pyfunc(str(path))
        assert "expected a reference to v2 as 000002.json names it; received another" in verified()
    finally:
        path.write_text(kept, encoding="utf-8")
    described = models[2] / "MLmodel"
    kept = described.read_text(encoding="utf-8")
    try:
        described.write_text(
            kept.replace("loader_module: stages.registered", "loader_module: antigravity"), encoding="utf-8"
        )
        assert "expected a reference to v2 as 000002.json names it; received none" in verified()
    finally:
        described.write_text(kept, encoding="utf-8")
    (models[2] / "requirements.txt").write_text("--extra-index-url http://127.0.0.1/\notmf", encoding="utf-8")
    assert "expected a reference to v2 as 000002.json names it; received none" in verified()
    (models[2] / "requirements.txt").unlink()
    shutil.move(models[1], models[1].with_name("gone"))
    said = verified()
    shutil.move(models[1].with_name("gone"), models[1])
    assert "expected a reference to v1 as 000001.json names it; received none" in said
    assert "ok  registry: end of the ledger" in said, "the other checks are made all the same"
    otmf("verify", "--unsigned", "--line", line.root)
