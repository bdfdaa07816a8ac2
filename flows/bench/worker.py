"""What each local worker of a comparison loads first: an interrupt is left to the command, which ends its workers and says so."""

from __future__ import annotations

import logging
import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's process before its first run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker").setLevel(
        logging.CRITICAL
    )  # runs that fail say so themselves, workers that end need not
