"""Connections of the server: how many, and for how long each may keep silent.

uvicorn waits for a request's head, and for a client that does not read its answer, for ever. Here each state of a connection has
a time, and when there are too many connections, the one that has been silent longest makes place.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from stages.serving import answers
from stages.serving.limits import HEAD_BYTES, RESERVE, Limits

GOODBYE = 1.0  # seconds for a client to read why it is sent away
LEAVING = 512  # of those who do so at a time
MOMENT = 1.0  # seconds in which a request that comes at once has come, and in which its connection makes no place yet


class Connection(H11Protocol):
    """One connection, which is in one of four states: asking (a request is under way), sending (its answer is not taken yet),
    silent (a request has not come whole) and idle (between requests).

    Args:
        limits: how many and for how long.
        leaving: connections that have been sent away and may still read why; shared by all.
    """

    def __init__(self, *, limits: Limits, leaving: deque[Connection], **given: Any) -> None:
        super().__init__(**given)
        self.limits, self.leaving = limits, leaving
        self.since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._state: tuple[str, object] = ("", None)
        self._gone = False

    @property
    def asking(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waited_for(self) -> bool:
        """Whether the next thing has to come from the client: a head, or the rest of a body."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        return not self.asking or (self.cycle.more_body and not self.cycle.response_started)

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._make_place()
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._gone = True
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """As the server ends: a request under way is answered first; who is about to send one is told to send it to the next."""
        if self.asking:
            self.cycle.keep_alive = False
        elif self._rest():
            self.transport.close()
        else:
            received = "part of one" if self._half() else "none"
            said = f"expected a whole request before this server ends; received {received}; send it to the next"
            self.dismiss(503 if self._half() else 408, said)

    def send_400_response(self, msg: str) -> None:
        self.dismiss(
            400,
            f"expected a request of HTTP/1.1 with a head of at most {HEAD_BYTES} bytes; received something else; send one",
        )

    def dismiss(self, status: int, said: str) -> None:
        """Ends the connection with a sentence, if nothing of another answer has gone out."""
        if self._gone or self.transport.is_closing():
            return
        self._gone = True
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        if self.asking:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(answers.as_bytes(status, said))
        self.flow.resume_reading()  # what is not read would have the kernel take back the answer
        self.transport.write_eof()
        self._set_timer(GOODBYE, self.transport.abort)
        self.leaving.append(self)
        if len(self.leaving) > LEAVING:
            self.leaving.popleft().transport.abort()

    def _make_place(self) -> None:
        """Sends away the connection that is waited for longest; this one where all others have sent their requests.

        While there is a reserve, a connection that has only just come is not sent away: its request may be under way.
        """
        silent = [one for one in self.connections if one is not self and one.waited_for]
        full = len(self.connections) > self.limits.connections + RESERVE
        if not full:
            silent = [one for one in silent if one.since < time.monotonic() - MOMENT]
        if silent:
            last = min(silent, key=lambda one: (one.asking, one.cycle is not None and not one.asking, one.since))
            last.dismiss(
                408, "expected a whole request; received none yet, and others wait for the connection; ask again"
            )
        elif full:
            said = (
                f"expected at most {self.limits.connections} requests at a time; received more; ask again in a moment"
            )
            self.dismiss(503, said)

    def _half(self) -> bool:
        """Whether part of a request's head has come."""
        return self.conn.our_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _rest(self) -> bool:
        """Whether the rest of a body is still to come, of a request that has been answered already."""
        return self.conn.their_state not in (h11.IDLE, h11.DONE)

    def _watch(self) -> None:
        """Sets the time of the state that the connection is in now."""
        if self._gone:
            return
        if self.asking:
            state, seconds = ("asking", self.cycle), self.limits.seconds + self.limits.head_seconds
        elif self.transport.get_write_buffer_size():
            state, seconds = ("sending", self.cycle), self.limits.head_seconds
        elif self.cycle is None or self._half() or self._rest():
            state, seconds = ("silent", self.cycle), self.limits.head_seconds
        else:
            state, seconds = ("idle", self.cycle), self.limits.head_seconds + self.timeout_keep_alive
        if state != self._state:
            self._state, self.since = state, time.monotonic()
            self._set_timer(seconds, self._expire)

    def _expire(self) -> None:
        kind = self._state[0]
        if kind in ("asking", "sending"):
            self.transport.abort()
        elif self._half():
            said = f"expected the head of a request within {self.limits.head_seconds:g} seconds; received part of it; ask again"
            self.dismiss(408, said)
        else:
            self.transport.close()

    def _set_timer(self, seconds: float, call: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, call)
