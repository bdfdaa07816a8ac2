"""What is decided about every request before its path is looked at: who asks, how much, for how long, and how it ends."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stages.serving import requests
from stages.serving.answers import RefusedError, refusal
from stages.serving.drain import Ending
from stages.serving.limits import HEAD_BYTES, Limits

WATCHED = ("/health", "/ready")  # what is answered however many others ask
ONCE = (b"host", b"origin", b"content-type", b"content-encoding", b"content-length")
ENDS = "expected a server that goes on; received your request as this one ends; send it to the next"


class Guard:
    """An application within the limits.

    Attributes:
        asking: requests under way whose bodies have come whole; who sends slowly takes no place.
        held: bytes of their bodies.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, ending: Ending) -> None:
        self.app, self.limits, self.ending = app, limits, ending
        self.asking = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send, self.ending)
        body = _Body(self, receive, watched=scope["path"] in WATCHED)
        try:
            async with asyncio.timeout(self.limits.seconds):
                self._require(scope)
                await self.app(scope, body.receive, answer.send)
        except RefusedError as error:
            await answer.refuse(scope, error.status, error.said)
        except TimeoutError:
            status = 503 if body.whole else 408
            received = "no answer in that time" if body.whole else "part of the body in that time"
            said = f"expected a request that is over within {self.limits.seconds:g} seconds; received {received}; send less, or later"
            await answer.refuse(scope, status, said)
        except asyncio.CancelledError:
            await answer.refuse(scope, 503, ENDS)
        finally:
            self.asking -= body.asking
            self.held -= body.held

    def _require(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > HEAD_BYTES:
            raise RefusedError(
                431, f"expected headers of at most {HEAD_BYTES} bytes; received {size}; send fewer or shorter ones"
            )
        names = [name for name, _ in scope["headers"]]
        for name in ONCE:
            if names.count(name) > 1:
                said = f"expected one header {name.decode()}; received {names.count(name)}, of which each reader may take another; send one"
                raise RefusedError(400, said)
        requests.require_names(headers, (scope.get("server") or ("",))[0], self.limits)
        told = headers.get(b"content-length", b"0").decode("latin-1")
        if not told.isdecimal() or int(told) > self.limits.largest:
            raise too_large(self.limits, told[:20])


class _Body:
    """A request's body, as far as it has come."""

    def __init__(self, guard: Guard, receive: Receive, *, watched: bool) -> None:
        self.guard, self._receive, self.watched = guard, receive, watched
        self.held, self.whole, self.asking = 0, False, False

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self.held += size
        self.guard.held += size
        self.whole = not message.get("more_body", False)
        if self.whole and not self.asking:
            self._ask()
        if self.held > self.guard.limits.largest:
            raise too_large(self.guard.limits, "more")
        if self.guard.held > self.guard.limits.held:
            raise RefusedError(
                503,
                f"expected bodies of at most {self.guard.limits.held_mib:g} MiB from all requests together; received more; ask again in a moment",
            )
        return message

    def _ask(self) -> None:
        """Takes the request among those under way, of which there is a limit."""
        self.asking = True
        self.guard.asking += 1
        if self.guard.asking > self.guard.limits.connections and not self.watched:
            raise RefusedError(
                503,
                f"expected at most {self.guard.limits.connections} requests at a time; received more; ask again in a moment",
            )


class _Answer:
    """A request's answer, which tells the client to come back on another connection once the server ends."""

    def __init__(self, send: Send, ending: Ending) -> None:
        self._send, self.ending, self.started = send, ending, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self.ending.since is not None:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._send(message)

    async def refuse(self, scope: Scope, status: int, said: str) -> None:
        if not self.started:
            await refusal(status, said)(scope, _nothing, self.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def too_large(limits: Limits, received: str) -> RefusedError:
    return RefusedError(
        413, f"expected a body of at most {limits.largest} bytes; received {received}; send fewer or smaller ones"
    )
