"""Child processes: what they inherit, and what they do not."""

from __future__ import annotations

import shutil
import signal
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from flows.programs import process


def test_child_can_be_interrupted_where_we_were_started_in_the_background(tmp_path) -> None:
    asked = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert process.pump([sys.executable, "-c", asked], folder=tmp_path, log=lambda _: None) == ["True"]
    finally:
        signal.signal(signal.SIGINT, before)


def test_files_of_the_folder_are_not_imported(tmp_path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('run')")
    assert process.run([sys.executable, "-c", "import json; print(json.dumps(1))"], folder=tmp_path) == "1\n"


def test_of_many_lines_the_first_are_passed_on_and_a_full_disk_is_said(tmp_path, monkeypatch) -> None:
    """Where the disk is full, git names every file that it could not write, and not why."""
    script = "import sys; [print(f'error: unable to write file {n}', file=sys.stderr) for n in range(30)]; sys.exit(1)"
    run = [sys.executable, "-c", script]
    with pytest.raises(process.ProcessError, match=r"unable to write file 0 .* file 3 and 26 more lines$"):
        process.run(run, folder=tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    full = rf"and 26 more lines \(the disk of {tmp_path} is full: 4 KiB left; make room, then call it again\)$"
    for work in (process.run, partial(process.pump, log=print)):
        with pytest.raises(process.ProcessError, match=full):
            work(run, folder=tmp_path)
