"""Refusals of the server: a status and a sentence, in the form of an answer."""

from __future__ import annotations

import http
import json

from fastapi import Response
from fastapi.responses import JSONResponse

AGAIN = {"retry-after": "1"}  # of a refusal that has nothing to do with the request


class RefusedError(Exception):
    """A request that is not answered as asked, and why."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status, self.said = status, said


def refusal(status: int, said: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(
        _content(said), status_code=status, headers={**(AGAIN if status == 503 else {}), **(headers or {})}
    )


def as_bytes(status: int, said: str) -> bytes:
    """A whole answer for a connection on which there was no request to answer; it ends the connection."""
    body = json.dumps(_content(said)).encode()
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _content(said: str) -> dict[str, str]:
    return {"detail": said.encode("utf-8", "replace").decode()}
