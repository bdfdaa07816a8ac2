"""What a request says, and the sentences for what does not hold."""

from __future__ import annotations

import base64
import json

import pytest

from stages.serving import requests
from stages.serving.answers import RefusedError
from stages.serving.limits import Limits

LIMITS = Limits(largest_mib=1, most=3, most_megapixels=1, seconds=1, head_seconds=1, held_mib=1, connections=1, linger=0, grace=1,
                hosts=("models.example",))  # fmt: skip
PYTHON = ("NoneType", "Error", "<class", "object at", "Traceback", "sys.", "pydantic", "dict", "Input should")


def refused(call, *given, **options) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        call(*given, **options)
    assert caught.value.said.startswith("expected ")
    assert "; received " in caught.value.said
    assert not any(word in caught.value.said for word in PYTHON), caught.value.said
    return caught.value


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "localhost.", "models.example", "10.0.0.7:8080"],
)
def test_names_of_this_server_are_answered(host) -> None:
    requests.require_names({b"host": host.encode()}, "10.0.0.7", LIMITS)
    requests.require_names({b"host": host.encode(), b"origin": f"http://{host}".encode()}, "10.0.0.7", LIMITS)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8080",
        "10.0.0.8",
        "",
        "[",
        "[::1",
        "\xff",
        "models.example.evil",
        "evil.example:80@localhost",
        "localhost/evil",
        "localhost:80:90",
    ],
)
def test_another_name_is_refused(host) -> None:
    """A page can have its own name lead to this address, and then reads what it likes."""
    assert refused(requests.require_names, {b"host": host.encode("latin-1")}, "10.0.0.7", LIMITS).status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost@evil.example", "file://"])
def test_page_of_somebody_else_is_refused(origin) -> None:
    given = {b"host": b"localhost", b"origin": origin.encode()}
    assert refused(requests.require_names, given, "127.0.0.1", LIMITS).status == 403


def test_star_answers_to_any_name_and_a_request_of_http_1_0_needs_none() -> None:
    anything = {b"host": b"evil.example", b"origin": b"null"}
    requests.require_names(anything, "10.0.0.7", LIMITS.model_copy(update={"hosts": ("*",)}))
    requests.require_names({}, "10.0.0.7", LIMITS)


@pytest.mark.parametrize(
    ("kind", "reads"),
    [("image/png", "images"), ("IMAGE/JPEG", "images"), ("application/octet-stream", "images"), ("text/plain", "texts"),
     ("text/plain; charset=UTF-8", "texts"), ('text/plain;charset="utf-8"', "texts"), ("application/octet-stream", "texts")],
)  # fmt: skip
def test_content_types_of_what_the_encoder_reads(kind, reads) -> None:
    requests.require_kind({b"content-type": kind.encode()}, requests.PLAIN[reads])


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "received none"),
        (
            {b"content-type": b"text/plain"},
            "expected the content type image/* or application/octet-stream; received text/plain",
        ),
        ({b"content-type": b"application/x-www-form-urlencoded"}, "received application/x-www-form-urlencoded"),
        ({b"content-type": b"imagine"}, "received imagine"),
        ({b"content-type": b"image/png", b"content-encoding": b"gzip"}, "received one with a content encoding"),
    ],
)
def test_another_content_type_is_refused(headers, message) -> None:
    error = refused(requests.require_kind, headers, requests.PLAIN["images"])
    assert error.status == 415
    assert message in error.said


def test_text_in_another_character_set_is_refused() -> None:
    given = {b"content-type": b"text/plain; charset=latin-1"}
    assert "received the character set latin-1" in refused(requests.require_kind, given, requests.PLAIN["texts"]).said


def test_inputs_are_the_contents_of_files() -> None:
    image = base64.b64encode(b"picture").decode()
    body = json.dumps({"task": "birds", "images": [image, image]}).encode()
    assert requests.asked(body, reads="images", most=3) == ("birds", [b"picture", b"picture"])
    body = json.dumps({"task": "mood", "texts": ["gut \U0001f600"], "images": None}).encode()
    assert requests.asked(body, reads="texts", most=3) == ("mood", ["gut \U0001f600".encode()])


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "text that is no JSON from line 1, column 1 on"),
        (b'{"task": "a",\n "images"', 422, "from line 2, column 10 on"),
        (b"\xff\xfe{}", 422, "bytes that are no UTF-8"),
        (b"\xef\xbb\xbf{}", 422, "text that is no JSON"),
        (b"null", 422, "another document"),
        (b"[]", 422, "another document"),
        (b"NaN", 422, "another document"),
        (b"[" * 100_000, 422, "a document of too many levels"),
        (b'{"a":' * 100_000, 422, "a document of too many levels"),
        (b"1" * 5000, 422, "a number with too many digits"),
        (b'{"task": "a", "task": "b", "images": ["AA=="]}', 422, "'task' named twice"),
        (b'{"task": "a", "images": ["AA=="], "path": "/etc/passwd"}', 422, "the key path"),
        (b'{"task": "a", "images": ["AA=="], "\\ud800": 1}', 422, "the key ?"),
        (b'{"images": ["AA=="]}', 422, "no name of a task in it"),
        (b'{"task": 5, "images": ["AA=="]}', 422, "no name of a task in it"),
        (b'{"task": "\\ud800", "images": ["AA=="]}', 422, "no name of a task in it"),
        (b'{"task": "' + b"a" * 101 + b'", "images": ["AA=="]}', 422, "no name of a task in it"),
        (b'{"task": "a"}', 422, "expected images, which this line's encoder reads; received none"),
        (b'{"task": "a", "texts": ["b"]}', 422, "received texts; send those"),
        (b'{"task": "a", "images": ["AA=="], "texts": ["b"]}', 422, "received images and texts"),
        (b'{"task": "a", "images": []}', 422, "images that are no list, or an empty one"),
        (b'{"task": "a", "images": "AA=="}', 422, "images that are no list"),
        (b'{"task": "a", "images": {"0": "AA=="}}', 422, "images that are no list"),
        (b'{"task": "a", "images": ["AA==", NaN]}', 422, "images of which number 2 is no text"),
        (b'{"task": "a", "images": [1e999]}', 422, "images of which number 1 is no text"),
        (b'{"task": "a", "images": ["AA==", "AA==", "AA==", "AA=="]}', 413, "expected at most 3 images; received 4"),
        (b'{"task": "a", "images": ["AA==", "%%%"]}', 400, "expected images in base64; received image 2"),
        (b'{"task": "a", "images": ["\\u00e9\\ud800"]}', 400, "expected images in base64; received image 1"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_request_is_said(body, status, message) -> None:
    error = refused(requests.asked, body, reads="images", most=3)
    assert error.status == status
    assert message in error.said
    assert len(error.said) < 300


def test_text_with_half_a_character_is_refused_and_not_changed() -> None:
    body = b'{"task": "a", "texts": ["one", "\\udc00"]}'
    assert "text 2 with half a character" in refused(requests.asked, body, reads="texts", most=3).said
