"""The log of predictions: whole lines only, whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages.serving import prediction_log

DAY = "2026-01-02"


def entry(number: int, **keys: object) -> dict:
    return {"prediction_id": f"v1-{number}", "at": f"{DAY}T00:00:00", **keys}


def lines(folder: Path) -> list[str]:
    return (folder / f"{DAY}.jsonl").read_text().splitlines()


def test_entry_is_a_line_of_its_day(tmp_path) -> None:
    log = prediction_log.PredictionLog(tmp_path / "predictions")
    log.append(entry(1))
    log.append(entry(2))
    assert [json.loads(one)["prediction_id"] for one in lines(tmp_path / "predictions")] == ["v1-1", "v1-2"]


def test_half_a_line_is_set_apart_from_the_next_entry(tmp_path) -> None:
    (tmp_path / f"{DAY}.jsonl").write_text(json.dumps(entry(1))[:20])
    prediction_log.PredictionLog(tmp_path).append(entry(2))
    half, whole = lines(tmp_path)
    assert half == json.dumps(entry(1))[:20]
    assert json.loads(whole) == entry(2)


def test_entry_that_does_not_fit_leaves_nothing_behind_and_the_next_that_fits_is_kept(tmp_path) -> None:
    log = prediction_log.PredictionLog(tmp_path)
    log.append(entry(1))
    room = (tmp_path / f"{DAY}.jsonl").stat().st_size + 60
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.append(entry(2, filling="x" * 200))
        assert log.trouble == "File too large"
        log.append(entry(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [json.loads(one)["prediction_id"] for one in lines(tmp_path)] == ["v1-1", "v1-3"]
    assert log.trouble == ""


def test_failures_are_said_once_and_so_is_their_end(tmp_path, monkeypatch, capsys) -> None:
    log, write = prediction_log.PredictionLog(tmp_path), os.write

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    for number in range(3):
        with pytest.raises(OSError, match="No space left on device"):
            log.append(entry(number))
    log.look_again()
    assert log.trouble == "No space left on device"
    monkeypatch.setattr(os, "write", write)
    log.look_again()
    assert log.trouble == ""
    assert not any(path.stat().st_size for path in tmp_path.iterdir())
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "otmf: predictions are refused: their log cannot be written (No space left on device)",
        "otmf: predictions are answered again: their log can be written",
    ]


def test_threads_and_processes_write_whole_lines_side_by_side(tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; from stages.serving import prediction_log\n"
        f"log = prediction_log.PredictionLog(Path(sys.argv[1]))\n"
        f"for n in range(50): log.append({{'prediction_id': sys.argv[2] + str(n), 'at': '{DAY}T00:00:00'}})"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, tmp_path, name]) for name in "ab"]
    log = prediction_log.PredictionLog(tmp_path)
    threads = [
        threading.Thread(target=lambda start=start: [log.append(entry(start + n)) for n in range(50)])
        for start in (0, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    assert len({json.loads(one)["prediction_id"] for one in lines(tmp_path)}) == 200
