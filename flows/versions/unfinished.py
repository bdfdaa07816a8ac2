"""What a process that died, or a store that was away, has left open of a decision: completed by whoever comes next."""

from __future__ import annotations

from collections.abc import Callable

from flows.line import branch, landing, workspace
from flows.programs import failures
from flows.versions import registry
from otmf.runtime import errors, layout


def complete(line: layout.Layout, say: Callable[[str], object]) -> None:
    """Completes what is open of landings, of the registry and of the tracking store, and says so; says what stays open, and why.

    Nothing is done to a line that somebody holds, or whose HEAD is elsewhere: what is open stays noted.
    """
    if landing.unfinished(line):
        try:
            with workspace.locked(line):
                branch.require(line.root)
                for said in landing.finish(line):
                    say(said)
        except failures.EXPECTED as error:
            if landing.unfinished(line):
                say(f"a landing that was cut off is not completed yet: {errors.sentence(error)}")
    if registry.behind(line):
        try:
            registry.catch_up(line)
            say("the tracking store and its registry were told what they had not been told yet")
        except failures.EXPECTED as error:
            say(f"the tracking store and its registry are not told everything yet: {errors.sentence(error)}")
