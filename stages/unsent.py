"""Sends what stages could not tell the tracking store while it was away."""

from __future__ import annotations

from stages import _params, _tracking
from stages._run import say

TRACKED = False


def main(line: _params.Line) -> None:
    say(f"unsent: {_tracking.deliver(_tracking.connect(line), line)} records sent")
