"""Sends what stages could not tell the tracking store while it was away."""

from __future__ import annotations

from stages.context import current_line, tracking
from stages.context.run import say

TRACKED = False


def main(line: current_line.Line) -> None:
    say(f"unsent: {tracking.deliver(tracking.connect(line), line)} records sent")
