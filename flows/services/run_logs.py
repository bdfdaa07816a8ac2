"""What a flow run writes into its log on the Prefect server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from prefect import get_run_logger
from prefect.logging.handlers import APILogHandler

from flows.programs import plain_text
from flows.programs.failures import EXPECTED


def lines() -> Callable[[str], None]:
    """Takes lines of output into the log of this run; empty ones are left out."""
    log = get_run_logger()
    return lambda text: log.info("%s", plain_text.plain_lines(text)) if text.strip() else None


def send() -> None:
    """Waits, for a few seconds at most, until the server has what this run said so far: lines are sent in batches, and a run may end first."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, APILogHandler):
                handler.flush()


class _Plain(logging.Filter):
    """Writes out what a terminal would take for a command: names and reasons of other people stand in these lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = plain_text.plain_lines(record.getMessage()), None
        return True


class _SaidOnce(logging.Filter):
    """Leaves out what is said elsewhere: the reason of a failed state, which is raised as well, and addresses of pages of a server
    that ends with the command."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], EXPECTED):
            return False
        text = record.getMessage()
        if text.startswith("Finished in state Failed("):
            record.msg, record.args = "Finished in state Failed()", None
        return os.environ.get("PREFECT_UI_ENABLED") != "false" or not text.startswith("View at ")


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
    logging.getLogger(_name).addFilter(_SaidOnce())
    logging.getLogger(_name).addFilter(_Plain())
