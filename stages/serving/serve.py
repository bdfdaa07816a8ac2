"""`otmf serve`: classes and probabilities of images or texts over HTTP, from the version that a notice names.

The notice is a JSON file that the `otmf` command keeps up to date with the line's champion. A new version is loaded beside the
one that serves and takes its place in one assignment: requests under way end with the one they began with. Every answer has an
id, kept with the version and the hashes of what was sent, for `otmf trace`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import threading
from collections import deque
from pathlib import Path

import torch
import uvicorn

from stages.context import current_line
from stages.serving.connections import Connection
from stages.serving.drain import Ending, Server
from stages.serving.http import application
from stages.serving.limits import HEAD_BYTES, Limits
from stages.serving.prediction_log import PredictionLog
from stages.serving.version import Serving

TRACKED = False
FILES = 16_384  # open at a time, where the system allows as many: each connection is one


def main(line: current_line.Line, notice: str, log: str, host: str, port: str, given: str) -> None:
    limits = Limits.model_validate_json(given)
    ending = Ending(limits)
    ending.watch()
    torch.set_num_threads(os.cpu_count() or 1)
    _allow_files()
    serving = Serving(Path(notice), PredictionLog(Path(log)))
    serving.follow()
    threading.Thread(target=serving.keep_following, daemon=True).start()
    protocol = functools.partial(Connection, limits=limits, leaving=deque())
    app = application(serving, limits=limits, ending=ending)
    config = uvicorn.Config(
        app,
        host=host,
        port=int(port),
        http=protocol,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
    )
    server = Server(config, ending)
    ending.listening = True
    server.run()
    _end(server.cut)


def _allow_files() -> None:
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(most, FILES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, wanted), most))


def _end(cut: int) -> None:
    """Ends the process at once: a version that is being loaded, or a request that was cut off, is in a thread that nothing else ends."""
    with contextlib.suppress(OSError):
        if cut:
            print(f"otmf: the grace is over; {cut} requests were refused instead of answered", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
