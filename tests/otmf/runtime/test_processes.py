"""Who holds a lock, as the kernel says it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from filelock import FileLock

from otmf.runtime import processes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_holder_of_a_lock_is_told_by_its_command_and_process(tmp_path) -> None:
    lock, command = tmp_path / "lock", tmp_path / "otmf"
    assert processes.holder(lock) == ""
    command.write_text(
        "import sys\nfrom filelock import FileLock\n"
        f"with FileLock({str(lock)!r}):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    run = [sys.executable, str(command), "onboard", "secret.yaml"]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        assert processes.holder(lock) == f"otmf onboard, process {child.pid}"
        child.stdin.close()
    assert processes.holder(lock) == ""
    with FileLock(lock):
        assert processes.holder(lock).endswith(f", process {os.getpid()}")
