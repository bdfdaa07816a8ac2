"""The predictions' log of a real server on a file system that is really full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from otmf.runtime import layout
from tests.pipeline import production, serving
from tests.pipeline.serving import ask

pytestmark = pytest.mark.pipeline


@pytest.fixture
def small_disk(served_line) -> Iterator[Path]:
    """The folder of the log on a file system of 64 KiB."""
    folder = layout.Layout(served_line).predictions
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_refuses_what_cannot_be_traced_and_nothing_else(otmf, served_line, small_disk, tmp_path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 48 * 1024)
    answered, refused = [], []
    with serving.served(served_line, tmp_path) as server:
        while len(refused) < 40:
            found = ask(server.url)
            (answered if found.status_code == 200 else refused).append(found)
            assert len(answered) < 200
        assert {one.status_code for one in refused} == {503}
        assert all(
            "expected to note the prediction before it is answered; received: no space left" in one.text
            for one in refused
        )
        ready = httpx.get(f"{server.url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "the predictions' log cannot be written" in ready.json()["trouble"]
        filler.unlink()
        production.until(lambda: production.answers(f"{server.url}/ready"), 20)
        answered += [ask(server.url) for _ in range(3)]
        said = server.log.read_text().splitlines()
    assert sum("their log cannot be written (No space left on device)" in one for one in said) == 1
    assert sum("their log can be written" in one for one in said) == 1
    assert len(said) < 10
    ids = [one.json()["prediction_id"] for one in answered]
    assert len(ids) > 5
    (path,) = small_disk.glob("*.jsonl")
    assert [json.loads(one)["prediction_id"] for one in path.read_text().splitlines()] == ids
    assert "v2 (s02)" in otmf("trace", ids[-4], "--line", served_line).stdout


def test_what_lies_behind_half_a_line_can_be_traced(otmf, served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path) as server:
        whole = ask(server.url).json()["prediction_id"]
        path = max(layout.Layout(served_line).predictions.glob("*.jsonl"))
        line = next(one for one in path.read_text().splitlines() if whole in one)
        with path.open("ab") as stream:
            stream.write(b'{"prediction_id": "v2-half", "version": \xff')  # as where a server was killed
        after = ask(server.url).json()["prediction_id"]
        with path.open("ab") as stream:  # as servers left it that did not set half a line apart
            stream.write(
                line[:40].encode() + line.replace(whole, "v2-glued").encode() + b"\n" + b'{"prediction_id": "v2-odd"}\n'
            )
    for known in (whole, after, "v2-glued"):
        assert "v2 (s02)" in otmf("trace", known, "--line", served_line).stdout
    for unknown in ("v2-half", "v2-odd"):
        assert "expected the id of a prediction" in otmf("trace", unknown, "--line", served_line, code=1).stderr
