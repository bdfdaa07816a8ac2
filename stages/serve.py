"""`otmf serve`: classes and probabilities of images over HTTP, from the version that a notice names.

The notice is a JSON file that the `otmf` command keeps up to date with the line's champion. A new version is loaded beside the
one that serves and takes its place in one assignment: requests under way end with the one they began with. Every answer has an
id, kept with the version and the hashes of the images, for `otmf trace`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch
import uvicorn

from stages import _params
from stages._http import application
from stages._loaded import Serving

TRACKED = False
MIB = 2**20
CONNECTIONS = 256


def main(line: _params.Line, notice: str, log: str, host: str, port: str, largest_mib: str, most: str) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    serving = Serving(Path(notice), Path(log))
    serving.follow()
    threading.Thread(target=serving.keep_following, daemon=True).start()
    app = application(serving, largest=int(float(largest_mib) * MIB), most=int(most))
    uvicorn.run(
        app, host=host, port=int(port), log_level="warning", timeout_graceful_shutdown=10, limit_concurrency=CONNECTIONS
    )
