"""What is decided about every request, and how it ends when it takes too long or the server does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from stages.serving.drain import Ending
from stages.serving.guard import Guard
from stages.serving.limits import Limits

LIMITS = Limits(
    largest_mib=1, most=1, most_megapixels=1, seconds=0.1, head_seconds=1, held_mib=1, connections=1, linger=1, grace=5
)


def scope(path: str = "/predict", **headers: str) -> dict:
    given = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()
    ]
    return {"type": "http", "method": "POST", "path": path, "headers": given, "server": ("127.0.0.1", 1)}


async def answered(
    guard: Guard, path: str = "/predict", *, whole: bool = True, **headers: str
) -> tuple[int, str, dict[bytes, bytes]]:
    """Status, sentence and headers of an answer, to a request whose body comes whole or never does."""
    sent = []

    async def receive() -> dict:
        if not whole:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": b"body", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await guard(scope(path, **headers), receive, send)
    start, body = sent
    return start["status"], json.loads(body["body"]).get("detail", ""), dict(start["headers"])


def guarded(work: Callable[[], Awaitable[None]], ending: Ending | None = None, **limits: float) -> Guard:
    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await receive()
        await work()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    found = LIMITS.model_copy(update=limits)
    return Guard(app, limits=found, ending=ending or Ending(found))


async def nothing() -> None:
    pass


async def forever() -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("whole", "status", "message"),
    [(True, 503, "received no answer in that time"), (False, 408, "received part of the body in that time")],
)
def test_request_that_takes_too_long_is_refused(whole, status, message) -> None:
    begun = time.monotonic()
    found, said, headers = asyncio.run(answered(guarded(forever), whole=whole))
    assert found == status
    assert "expected a request that is over within 0.1 seconds" in said
    assert message in said
    assert (b"retry-after" in headers) == (status == 503)
    assert time.monotonic() - begun < 5


def test_more_requests_at_a_time_are_refused_except_of_those_who_watch() -> None:
    async def both() -> list[tuple[int, str, dict]]:
        guard = guarded(lambda: asyncio.sleep(0.05))
        return await asyncio.gather(*(answered(guard, path) for path in ("/predict", "/predict", "/health", "/ready")))

    first, second, *watching = asyncio.run(both())
    assert (first[0], second[0]) == (200, 503)
    assert "expected at most 1 requests at a time; received more" in second[1]
    assert [one[0] for one in watching] == [200, 200]


def test_requests_whose_bodies_have_not_come_take_no_place() -> None:
    async def both() -> list[tuple[int, str, dict]]:
        guard = guarded(nothing)
        return await asyncio.gather(*(answered(guard, whole=whole) for whole in (False, False, True)))

    assert [found[0] for found in asyncio.run(both())] == [408, 408, 200]


def test_bodies_held_are_let_go_with_their_requests() -> None:
    guard = guarded(nothing)
    for _ in range(3):
        assert asyncio.run(answered(guard))[0] == 200
    assert (guard.held, guard.asking) == (0, 0)


@pytest.mark.parametrize("told", ["2000000", "-1", "1e3", "\u00b2"])
def test_length_beyond_the_limit_or_none_at_all_is_refused(told) -> None:
    status, said, _ = asyncio.run(answered(guarded(nothing), content_length=told))
    assert status == 413
    assert "expected a body of at most 1048576 bytes" in said


def test_request_that_the_end_cuts_off_is_refused_on_a_connection_that_ends() -> None:
    ending = Ending(LIMITS)
    ending.listening = True

    async def cut() -> tuple[int, str, dict]:
        task = asyncio.create_task(answered(guarded(forever, ending, seconds=60)))
        await asyncio.sleep(0.01)
        ending.asked(15, None)
        task.cancel()
        return await task

    status, said, headers = asyncio.run(cut())
    assert (status, headers[b"connection"]) == (503, b"close")
    assert "expected a server that goes on; received your request as this one ends" in said


def test_server_lingers_after_sigterm_and_not_after_an_interrupt() -> None:
    ending = Ending(LIMITS)
    ending.listening = True
    ending.asked(15, None)
    ending.asked(15, None)
    assert (ending.due, ending.at_once) == (False, False)
    assert 4 < ending.left <= 5
    ending.asked(2, None)
    assert (ending.due, ending.at_once) == (True, False)
    ending.asked(15, None)
    assert not ending.at_once
    ending.asked(2, None)
    assert ending.at_once


def test_server_that_does_not_listen_yet_ends_at_once() -> None:
    with pytest.raises(SystemExit) as caught:
        Ending(LIMITS).asked(15, None)
    assert caught.value.code == 0
