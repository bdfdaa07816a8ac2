"""What a run says reaches the Prefect server before the run ends, if it is asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.programs import process

pytestmark = pytest.mark.pipeline

SCRIPT = """
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run
from flows.services import run_logs as logs

@flow
def speaks():
    say = logs.lines()
    found = []
    for line in ("first", "second"):  # the server is written to in batches, two seconds apart
        say(line)
        logs.send()
        with get_client(sync_client=True) as client:
            own = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id]))
            found.append(line in [entry.message for entry in client.read_logs(own)])
    print("there:", *found)

speaks()
"""


def test_lines_that_are_sent_are_there(prefect_server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=process.environment({"PREFECT_API_URL": prefect_server}),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "there: True True" in done.stdout, done.stdout + done.stderr[-2000:]
