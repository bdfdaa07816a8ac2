"""How the server ends: asked once, it answers what is under way and what still comes in, within a grace."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from otmf.runtime import processes
from stages.serving.limits import Limits

LAST_LOOK = 0.05  # seconds in which requests that have arrived are still read once nobody new is let in


class Ending:
    """Whether the server has been asked to end, and how soon.

    SIGTERM asks it to, once or more often: it goes on listening for a moment, as those who send requests have to hear of it
    first. An interrupt skips that moment; a second interrupt ends what is under way.

    Attributes:
        since: when it was asked first; None where it was not.
        at_once: whether nothing under way is waited for.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.since: float | None = None
        self.listening = False
        self.at_once = False
        self._interrupted = False

    def watch(self) -> None:
        """Takes the signals from here on."""
        for one in processes.heeded():
            signal.signal(one, self.asked)

    def asked(self, number: int, _: FrameType | None) -> None:
        self.at_once = self.at_once or (self._interrupted and number == signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self.since is None:
            self.since = time.monotonic()
        if not self.listening:
            raise SystemExit(0)

    @property
    def due(self) -> bool:
        """Whether nobody new is to be let in any more."""
        if self.since is None:
            return False
        return self._interrupted or time.monotonic() - self.since >= min(self.limits.linger, self.limits.grace)

    @property
    def left(self) -> float:
        """Seconds of the grace."""
        return max(0.0, self.limits.grace - (time.monotonic() - (self.since or time.monotonic())))


class Server(uvicorn.Server):
    """uvicorn's server, ended by an `Ending` instead of by signals of its own.

    Attributes:
        cut: requests that had no answer when the grace was over.
    """

    def __init__(self, config: uvicorn.Config, ending: Ending) -> None:
        super().__init__(config)
        self.ending, self.cut = ending, 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self.ending.due
        return await super().on_tick(counter)

    async def shutdown(self, sockets: None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_LOOK)
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while (state.tasks or state.connections) and self.ending.left and not self.ending.at_once:
            await asyncio.sleep(LAST_LOOK)
        self.cut = len(state.tasks)
        for task in state.tasks:
            task.cancel()
        await asyncio.sleep(LAST_LOOK)  # for their refusals, and the last answers, to go out
