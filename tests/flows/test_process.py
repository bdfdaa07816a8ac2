"""Child processes: what they inherit, and what they do not."""

from __future__ import annotations

import signal
import sys

from flows import process


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
