"""What `otmf serve` adds to the encoder itself, and whether a switch of version loses a request.

    python -m tests.benchmarks.bench_serving [--seconds S] [--model NAME]

A line of two tasks is served; clients in processes of their own send one image after the other, 1, 8 and 32 at a time. Printed:
images a second, median and 99th percentile, and the ratio to the encoder and head called directly in a loop on the same machine,
one image at a time. Then the champion is switched ten times under load.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from flows.line import workspace
from flows.programs import process, warm
from flows.services import prefect_server
from otmf.runtime import layout
from tests import makers
from tests.benchmarks import bench_recovery, machine
from tests.pipeline import production

OTMF = str(Path(sys.executable).parent / "otmf")
CLIENT = """
import sys, time, httpx
url, content, until = sys.argv[1], open(sys.argv[2], "rb").read(), time.time() + float(sys.argv[3])
with httpx.Client(timeout=120) as client:
    while time.time() < until:
        begun = time.perf_counter()
        code = client.post(url, content=content, headers={"content-type": "image/png"}).status_code
        print(code, time.perf_counter() - begun)
"""


def line_of(folder: Path, model: str | None) -> layout.Layout:
    """A line with two tasks, with the small encoder or one of open_clip's (random weights)."""
    line = bench_recovery.lenient(folder / "small")
    if model:
        document = workspace.read_params(line)
        document["backbone"] = {"model": model}
        document["defaults"]["merge"] |= {"steps": 1}
        workspace.write_params(line, document)
        workspace.commit(line.root, f"Use {model}")
    with warm.interpreter() as stages, prefect_server.own(folder / "prefect") as url:
        env = {**process.environment(), **stages, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        for number in (1, 2):
            card = makers.card(folder / "cards", f"task_{number}", seed=number)
            subprocess.run([OTMF, "onboard", card, "--line", line.root], check=True, env=env, stdout=subprocess.DEVNULL)
    return line


def direct(line: layout.Layout, content: bytes, seconds: float) -> list[float]:
    """Seconds of each image by decoding, encoder and head, one after the other, in this process."""
    import torch

    from stages.context import current_line
    from stages.serving import version as served_version

    torch.set_num_threads(machine.cores())
    found = current_line.read(line.root)
    step = found.order[-1]
    from otmf.provenance import digests

    notice = served_version.Notice(root=str(line.root), version=2, step=step, record="", record_sha256="",
                            sha256=digests.digest(line.merged(step) / "model.safetensors"), files={})  # fmt: skip
    loaded, taken, end = served_version.load(notice), [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        loaded.predict("task_1", loaded.backbone.decode([content]))
        taken.append(time.perf_counter() - begun)
    return taken


def clients(url: str, path: Path, count: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer over all clients, and the number of requests that failed."""
    running = [
        subprocess.Popen([sys.executable, "-c", CLIENT, url, path, str(seconds)], stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]  # fmt: skip
    rows = [row.split() for one in running for row in one.communicate()[0].splitlines()]
    return [float(taken) for _, taken in rows], sum(code != "200" for code, _ in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otmf-serving-") as name:
        folder = Path(name)
        line = line_of(folder, given.model)
        stream = io.BytesIO()
        Image.fromarray(makers.pictures(1, seed=1)[0][0]).resize((224, 224)).save(stream, "PNG")
        path = folder / "one.png"
        path.write_bytes(stream.getvalue())
        bare = direct(line, stream.getvalue(), given.seconds)
        rows = [["direct loop", f"{len(bare) / sum(bare):.1f}", f"{1000 * statistics.median(bare):.1f}",
                 f"{1000 * np.percentile(bare, 99):.1f}", "1.00"]]  # fmt: skip
        port = production.free_port()
        served = subprocess.Popen([OTMF, "serve", "--line", line.root, "--port", str(port)], stdout=subprocess.DEVNULL,
                                  env=process.environment(), start_new_session=True)  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            while not production.answers(f"{url}/ready"):
                time.sleep(0.2)
            failures = 0
            for count in (1, 8, 32):
                taken, failed = clients(f"{url}/predict/task_1", path, count, given.seconds)
                failures += failed
                rate = len(taken) / given.seconds
                rows.append([f"{count} clients", f"{rate:.1f}", f"{1000 * statistics.median(taken):.1f}", f"{1000 * np.percentile(taken, 99):.1f}",
                             f"{rate / (len(bare) / sum(bare)):.2f}"])  # fmt: skip
            asked, lost, switched = switches(line, url, path)
        finally:
            process.end(served)
    print(machine.heading("Serving", f"python -m tests.benchmarks.bench_serving {' '.join(sys.argv[1:])}".strip()))
    print(machine.table(["", "images a second", "median, ms", "99th percentile, ms", "of the direct loop"], rows))
    print(
        f"Champion switched {switched} times under load of 4 clients: {asked} requests, {lost} failed. Failed before: {failures}."
    )
    if lost or failures:
        raise SystemExit(1)


def switches(line: layout.Layout, url: str, path: Path) -> tuple[int, int, int]:
    """Requests, failures and switches while the champion goes back and forth ten times."""
    found: list[tuple[list[float], int]] = []
    load = threading.Thread(target=lambda: found.append(clients(f"{url}/predict/task_1", path, 4, 90)))
    load.start()
    switched = 0
    for number in range(10):
        version = 1 + number % 2
        subprocess.run(
            [OTMF, "rollback", f"v{version}", "--reason", "switch", "--line", line.root],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 30
        while httpx.get(f"{url}/ready").json()["version"] != version and time.monotonic() < end:
            time.sleep(0.1)
        switched += httpx.get(f"{url}/ready").json()["version"] == version
    load.join()
    taken, failed = found[0]
    return len(taken), failed, switched


if __name__ == "__main__":
    main()
