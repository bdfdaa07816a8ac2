"""What stages print."""

from __future__ import annotations

import sys

from stages.context import run


def test_progress_line_is_one_write(monkeypatch) -> None:
    """The comparison's processes share one output; a line in two writes had another's in between."""
    written: list[str] = []

    class Output:
        write = written.append

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdout", Output())
    run.say("epoch 1")
    assert written == ["epoch 1\n"]
