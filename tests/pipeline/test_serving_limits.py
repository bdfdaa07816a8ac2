"""`otmf serve` against requests that ask too much, come from elsewhere, or never come whole."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.pipeline import production, serving
from tests.pipeline.serving import JSON, PNG, ask, encoded, large, picture

pytestmark = pytest.mark.pipeline
OPTIONS = ("--largest-mib", 0.5, "--most", 24, "--most-megapixels", 70, "--held-mib", 1, "--connections", 60, "--seconds", 4,
           "--head-seconds", 1, "--allow-host", "models.example")  # fmt: skip
PYTHON = ("NoneType", "Error", "<class", "object at", "Traceback", "pydantic", "Input should", "_io.")


@pytest.fixture(scope="module")
def server(served_line, tmp_path_factory) -> Iterator[serving.Served]:
    with serving.served(served_line, tmp_path_factory.mktemp("log"), *OPTIONS) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", {"json": {"task": "none", "images": encoded(picture())}}, 404, "expected a task of v2 (first, second); received 'none'"),
        ("/predict/first", {"content": b"not a picture", "headers": PNG}, 400, "received image 1 (in none of the formats PNG"),
        ("/predict/first", {"content": b"", "headers": PNG}, 400, "expected an image that decodes"),
        ("/predict/first", {"content": picture()[:200], "headers": PNG}, 400, "received image 1 (image file is truncated)"),
        ("/predict/first", {"content": large(30_000, 30_000), "headers": PNG}, 413, "of at most 70000000 pixels"),
        ("/predict/first", {"content": large(8_100, 8_100), "headers": PNG}, 400, "of at most 64000000 pixels"),
        ("/predict/first", {"content": picture()}, 415, "expected the content type image/* or application/octet-stream; received none"),
        ("/predict/first", {"content": picture(), "headers": {"content-type": "text/plain"}}, 415, "received text/plain"),
        ("/predict/first", {"content": b"x" * 600_000, "headers": PNG}, 413, "expected a body of at most 524288 bytes; received 600000"),
        ("/predict/first", {"content": (b"x" * 60_000 for _ in range(10)), "headers": PNG}, 413, "at most 524288 bytes; received more"),
        ("/predict/%2e%2e%2f%2e%2e", {"content": picture(), "headers": PNG}, 404, "expected one of /predict"),
        ("/predict/", {"content": picture(), "headers": PNG}, 404, "expected one of /predict"),
        ("/predict", {"files": {"file": b"x"}}, 415, "expected the content type application/json; received multipart/form-data"),
        ("/predict", {"json": {"task": "first", "images": ["AA=="] * 25}}, 413, "expected at most 24 images; received 25"),
        ("/predict", {"json": {"task": "first", "texts": ["one"]}}, 422, "expected images, which this line's encoder reads; received texts"),
        ("/predict", {"content": b"[" * 200_000, "headers": JSON}, 422, "a document of too many levels"),
        ("/predict", {"content": b'{"task":"first","images":[NaN]}', "headers": JSON}, 422, "expected JSON"),
        ("/predict", {"content": b'{"task":"\\ud800","images":["AA=="]}', "headers": JSON}, 422, "expected JSON"),
        ("/predict", {"content": b"{", "headers": JSON}, 422, "no JSON from line 1, column 2"),
        ("/health", {"content": b"x"}, 405, "received POST /health"),
        ("/predict/first", {"content": picture(), "headers": {**PNG, "x": "x" * 20_000}}, 431, "expected headers of at most 16384 bytes"),
        ("/predict/first", {"content": picture(), "headers": {**PNG, "host": "evil.example"}}, 421, "received the host evil.example"),
        ("/predict/first", {"content": picture(), "headers": {**PNG, "origin": "https://evil.example"}}, 403, "received the origin https://evil.example"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_a_sentence(server, path, body, status, message) -> None:
    found = httpx.post(f"{server.url}{path}", **body)
    assert found.status_code == status, found.text
    assert message in found.json()["detail"]
    assert len(found.content) < 2000
    assert not any(word in found.text for word in PYTHON)
    assert production.answers(f"{server.url}/ready")


def test_no_answer_leads_elsewhere_and_heads_are_answered(server) -> None:
    assert httpx.get(f"{server.url}/predict/first").headers["allow"] == "POST"
    assert httpx.get(f"{server.url}/ready/", headers={"host": "models.example"}).status_code == 404
    head = httpx.head(f"{server.url}/health", headers={"host": "models.example", "origin": "http://models.example"})
    assert (head.status_code, head.content) == (200, b"")
    schema = httpx.get(f"{server.url}/openapi.json").json()
    assert (schema["info"]["title"], sorted(schema["paths"]["/ready"])) == ("otmf", ["get"])


@pytest.mark.parametrize("name", ["origin", "content-type"])
def test_header_that_is_sent_twice_is_refused(server, name) -> None:
    """Of two origins the last was looked at, and whatever stands before the server may look at the first."""
    given = [(name, "http://models.example"), (name, "http://localhost")]
    found = httpx.get(f"{server.url}/ready", headers=given)
    assert (found.status_code, found.json()["detail"]) == (
        400,
        f"expected one header {name}; received 2, of which each reader may take another; send one",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\0\1\2\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\na: " + b"a" * 70_000,
    ],
)
def test_what_is_no_http_is_refused_with_a_sentence(server, content) -> None:
    with server.half_open(content) as connection:
        said = everything(connection)
    assert said.startswith((b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 431 "))
    assert b'{"detail":' in said.replace(b'": ', b'":')


def test_broken_chunk_of_a_body_ends_the_connection_and_nothing_else(server) -> None:
    head = b"POST /predict/first HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.half_open(head + b"5\r\nabcde\r\nno number\r\n") as connection:
        assert everything(connection).startswith(b"HTTP/1.1 400 Bad Request")
    assert ask(server.url).status_code == 200


def test_pictures_are_bounded_together_before_any_is_decoded(server) -> None:
    """Twenty of 8000 x 8000 in 157 KB held a server for thirty seconds at 1.6 GB."""
    ask(server.url)
    before, begun = server.model.memory_info().rss, time.monotonic()
    found = httpx.post(f"{server.url}/predict", json={"task": "first", "images": encoded(*[large(8000, 8000)] * 20)})
    assert found.status_code == 413
    assert (
        "of at most 70000000 pixels; received at least 1280000000; send fewer or smaller ones" in found.json()["detail"]
    )
    assert time.monotonic() - begun < 3
    assert server.model.memory_info().rss - before < 50e6


def test_half_open_connections_keep_nobody_out(server) -> None:
    """Three hundred of them had /health answer 503."""
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(server.half_open()) for _ in range(300)]
        for _ in range(20):
            assert httpx.get(f"{server.url}/health").json() == {"status": "alive"}
            assert httpx.get(f"{server.url}/ready").status_code == 200
            assert ask(server.url).status_code == 200
        said = [everything(connection) for connection in flood]
        assert all(one == b"" or one.startswith(b"HTTP/1.1 408 Request Timeout") for one in said)
        assert sum(b"expected the head of a request within 1 seconds" in one for one in said) >= 30
    assert len(server.model.net_connections("tcp")) < 10


def test_connections_with_half_a_body_keep_nobody_out(server) -> None:
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(server.half_open(posted(length=1000) + b"x" * 10)) for _ in range(120)]
        begun = time.monotonic()
        for _ in range(20):
            assert httpx.get(f"{server.url}/health").status_code == 200
            assert ask(server.url).status_code == 200
        said = [everything(connection) for connection in flood]
        assert time.monotonic() - begun < 15
        assert all(one == b"" or one.startswith(b"HTTP/1.1 408 Request Timeout") for one in said)
        assert sum(b"over within 4 seconds; received part of the body" in one for one in said) >= 30


def test_bodies_are_bounded_together(server) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.half_open(posted(length=500_000) + b"x" * 400_000)) for _ in range(2)]
        production.until(lambda: ask(server.url, b"x" * 500_000).status_code == 503, 3)
        found = ask(server.url, b"x" * 500_000)
        assert "expected bodies of at most 1 MiB from all requests together; received more" in found.json()["detail"]
        assert found.headers["retry-after"] == "1"
        assert ask(server.url).status_code == 200
        assert all(everything(one).startswith(b"HTTP/1.1 408 Request Timeout") for one in slow)
    assert ask(server.url, b"x" * 500_000).status_code == 400


def test_rest_of_a_refused_body_is_not_waited_for_longer_than_a_head(server) -> None:
    with server.half_open(posted(length=10**9)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
        assert seconds_until_left(connection, b"x", pause=0.05) < 10


def test_client_that_takes_no_answers_is_left(server) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server.half_open(b"") as connection:
        assert seconds_until_left(connection, asked) < 30


def test_more_requests_than_there_are_places_for_are_refused_and_health_is_answered(served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path, "--connections", 2, "--most-megapixels", 70) as found:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, found.url, large(7900, 7900)) for _ in range(8)]
            while not all(one.done() for one in asked):
                assert httpx.get(f"{found.url}/health", timeout=5).status_code == 200
        answers = [one.result() for one in asked]
        assert {one.status_code for one in answers} == {200, 503}
        assert all("expected at most 2 requests at a time" in one.text for one in answers if one.status_code == 503)
        assert ask(found.url).status_code == 200


def test_requests_that_are_about_to_come_are_not_sent_away_for_others(served_line, tmp_path) -> None:
    with serving.served(served_line, tmp_path, "--connections", 2) as found, contextlib.ExitStack() as stack:
        begun = [stack.enter_context(found.half_open()) for _ in range(10)]
        for connection in begun:
            connection.sendall(b"ost\r\nConnection: close\r\n\r\n")
        assert all(everything(connection).startswith(b"HTTP/1.1 200 OK") for connection in begun)


def posted(*, length: int) -> bytes:
    """The head of a request with a body."""
    return f"POST /predict/first HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n".encode()


def seconds_until_left(connection: socket.socket, content: bytes, *, pause: float = 0) -> float:
    """How long a client can go on sending, at most a minute, until the other side does not take any more."""
    begun = time.monotonic()
    connection.settimeout(60)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < begun + 60:
            connection.sendall(content)
            time.sleep(pause)
    return time.monotonic() - begun


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found
