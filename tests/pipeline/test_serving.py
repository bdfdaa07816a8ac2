"""`otmf serve` on a real line: answers, a switch of version under load, and the way back from a prediction."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from otmf import checkpoints
from otmf.runtime import layout
from tests import makers
from tests.pipeline import production, serving
from tests.pipeline.serving import ask, encoded, picture

pytestmark = pytest.mark.pipeline


def test_port_that_is_taken_is_said_in_one_sentence(otmf, root) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = otmf("serve", "--line", root, "--port", port, code=1)
    said = " ".join(refused.stderr.split())
    assert f"free to listen on; received 127.0.0.1:{port}: address already in use; give another --port" in said
    assert "Traceback" not in said
    assert "/predict" not in refused.stdout, "no address that nobody listens on"


@pytest.fixture(scope="module")
def root(served_line) -> Path:
    return served_line


@pytest.fixture(scope="module")
def url(root, tmp_path_factory) -> Iterator[str]:
    with serving.served(root, tmp_path_factory.mktemp("log"), "--largest-mib", 0.5, "--most", 8) as found:
        yield found.url


def test_answers_with_classes_probabilities_and_where_they_come_from(otmf, root, url, tmp_path) -> None:
    ready = httpx.get(f"{url}/ready").json()
    assert (ready["status"], ready["version"], ready["tasks"]) == ("ready", 2, {"first": 3, "second": 3})
    assert httpx.get(f"{url}/health").json() == {"status": "alive"}
    found = httpx.post(f"{url}/predict", json={"task": "second", "images": encoded(picture(1), picture(2))})
    assert (found.status_code, found.headers["x-otmf-version"]) == (200, "v2")
    answer = found.json()
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert set(result["probabilities"]) == {"red", "green", "blue"}
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (
            result["probability"] == max(result["probabilities"].values()) == result["probabilities"][result["class"]]
        )
    (tmp_path / "one.png").write_bytes(picture(1))
    said = otmf("predict", "--task", "second", tmp_path / "one.png", "--line", root).stdout.split("\t")
    assert (said[1], float(said[2])) == (
        answer["results"][0]["class"],
        pytest.approx(answer["results"][0]["probability"], abs=1e-3),
    )
    single = ask(url, picture(1), task="second").json()
    assert single["results"][0]["probabilities"] == pytest.approx(answer["results"][0]["probabilities"], abs=1e-5)
    assert single["prediction_id"] != answer["prediction_id"]


def test_prediction_leads_back_to_version_and_record(otmf, root, url) -> None:
    answer = ask(url, picture(7)).json()
    said = otmf("trace", answer["prediction_id"], "--line", root).stdout
    assert f"v2 (s02), encoder sha256 {answer['sha256']}" in said
    assert f"record {answer['record']}, sha256 {answer['record_sha256']}: accepted by gate" in said
    assert answer["results"][0]["class"] in said
    assert "expected the id of a prediction made with this line" in otmf("trace", "v2-0", "--line", root, code=1).stderr


def test_another_champion_takes_over_without_a_request_dropped(otmf, root, url) -> None:
    seen, failed, stop = [], [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                try:
                    found = client.post(f"{url}/predict/first", content=picture(), headers=serving.PNG)
                    found.raise_for_status()
                    body = found.json()
                    assert found.headers["x-otmf-version"] == f"v{body['version']}"
                    seen.append((body["version"], body["sha256"]))
                except Exception as error:
                    failed.append(repr(error))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        otmf("rollback", "--reason", "to see it switch", "--line", root)
        production.until(lambda: httpx.get(f"{url}/ready").json()["version"] == 1, 60)
        otmf("rollback", "v2", "--reason", "and back", "--line", root)
        production.until(lambda: httpx.get(f"{url}/ready").json()["version"] == 2, 60)
    finally:
        stop.set()
        for asker in askers:
            asker.join(60)
    assert failed == []
    order = [version for version, _ in seen]
    assert {1, 2} == set(order)
    assert len(set(seen)) == 2, "one encoder per version"
    assert serving.ask(url, task="second").status_code == 200


@pytest.mark.parametrize(
    "file", ["heads/s01/first.safetensors", "merged/s01/model.safetensors", "pretrained/backbone.json"]
)
def test_version_whose_file_was_altered_does_not_serve(otmf, root, url, file) -> None:
    path = root / ".otmf/versions/v1/data/models" / file
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    otmf("rollback", "v1", "--reason", "to see it refused", "--line", root)
    production.until(
        lambda: f"expected data/models/{file} of v1 with sha256" in httpx.get(f"{url}/ready").json()["trouble"], 60
    )
    assert httpx.get(f"{url}/ready").json()["version"] == 2
    assert ask(url).headers["x-otmf-version"] == "v2"
    otmf("rollback", "v2", "--reason", "back", "--line", root)
    path.unlink()
    path.write_bytes(content)
    production.until(lambda: httpx.get(f"{url}/ready").json()["trouble"] == "", 60)


@pytest.fixture(scope="module")
def exported(otmf, root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "v2"
    assert "v2 in" in otmf("export", folder, "--version", "v2", "--onnx", "--line", root).stdout
    assert "expected a new folder to export to" in otmf("export", folder, "--line", root, code=1).stderr
    return folder


def test_exported_version_classifies_with_open_clip_alone(otmf, root, exported, tmp_path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "MODEL_CARD.md", "classify.py", "encoder.onnx", "heads", "labels.json", "open_clip_config.json", "open_clip_model.safetensors",
    ]  # fmt: skip
    names = []
    for seed in range(1, 5):
        names.append(tmp_path / f"{seed}.png")
        names[-1].write_bytes(picture(seed))
    blocked = "import sys; sys.modules.update(dict.fromkeys(('otmf', 'flows', 'stages'))); import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
    script = f"import sys; sys.argv = sys.argv[1:]; {blocked.replace('sys.argv[1]', 'sys.argv[0]')}"
    command = [sys.executable, "-I", "-c", script, exported / "classify.py", "second", *names]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
    ours = otmf("predict", "--task", "second", *names, "--line", root).stdout
    assert [line.split("\t")[:2] for line in theirs.splitlines()] == [
        line.split("\t")[:2] for line in ours.splitlines()
    ]
    for mine, other in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        assert float(mine.split("\t")[2]) == pytest.approx(float(other.split("\t")[2]), abs=2e-3)


def test_onnx_file_gives_the_same_features(root, exported) -> None:
    import onnxruntime
    import torch

    from otmf import checkpoints
    from stages.context import current_line, encoder

    line = current_line.read(root)
    backbone, state = encoder.open_backbone(line), checkpoints.load(line.merged("s02") / "model.safetensors")
    session = onnxruntime.InferenceSession(str(exported / "encoder.onnx"))
    for count in (1, 5):
        inputs = backbone.prepare(makers.pictures(count, seed=3)[0])
        with torch.no_grad():
            expected = backbone.features(state, inputs)
        received = session.run(["features"], {"images": inputs.numpy()})[0]
        assert torch.allclose(torch.from_numpy(received), expected, atol=1e-4)


def test_export_in_bfloat16_for_transformers_says_what_rounding_costs(otmf, root, tmp_path) -> None:
    from transformers import CLIPVisionModelWithProjection

    folder = tmp_path / "v2"
    said = otmf("export", folder, "--dtype", "bfloat16", "--hugging-face", "--shard-mb", "1", "--line", root).stdout
    rounding = json.loads((folder / "rounding.json").read_text())
    assert rounding["dtype"] == "bfloat16"
    assert 0 < rounding["relative"] < 0.01 < rounding["of_change"]
    assert "rounded to bfloat16: off by" in said
    assert checkpoints.header(folder / "open_clip_model.safetensors")["visual.conv1.weight"].dtype == "BF16"
    assert CLIPVisionModelWithProjection.from_pretrained(folder / "hugging_face").dtype == torch.bfloat16


def test_imported_checkpoint_is_the_one_that_was_exported(otmf, root, tmp_path) -> None:
    otmf("export", tmp_path / "v2", "--hugging-face", "--line", root)
    said = otmf("import", tmp_path / "v2/hugging_face", tmp_path / "one.safetensors", "--line", root).stdout
    assert "names of Hugging Face" in said
    assert "of the base's norm away from it" in said
    line = layout.Layout(root)
    assert (tmp_path / "one.safetensors").read_bytes() == (line.merged("s02") / "model.safetensors").read_bytes()
    again = otmf("import", tmp_path / "v2/hugging_face", tmp_path / "one.safetensors", "--line", root, code=1).stderr
    assert "expected a new file that ends in .safetensors" in again
    head = otmf(
        "import", tmp_path / "v2/heads/first.safetensors", tmp_path / "two.safetensors", "--line", root, code=1
    ).stderr
    assert head.count("expected") == 1
    assert "tensors of this line's encoder" in head
    assert not (tmp_path / "two.safetensors").exists()


def test_export_refuses_a_version_whose_files_are_not_those_recorded(otmf, root, tmp_path) -> None:
    otmf("export", tmp_path / "one", "--version", "v1", "--line", root)
    head = root / ".otmf/versions/v1/data/models/heads/s01/first.safetensors"
    content = head.read_bytes()
    head.unlink()
    head.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = otmf("export", tmp_path / "two", "--version", "v1", "--line", root, code=1).stderr
    assert "expected data/models/heads/s01/first.safetensors of v1 with sha256" in said
    assert not (tmp_path / "two").exists()
    shutil.rmtree(head.parent)  # as where the cache did not hold it yet
    otmf("export", tmp_path / "two", "--version", "v1", "--line", root)
    assert (tmp_path / "two/heads/first.safetensors").read_bytes() == (
        tmp_path / "one/heads/first.safetensors"
    ).read_bytes()
