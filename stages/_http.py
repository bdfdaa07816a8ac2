"""The HTTP interface to the version that serves: images or texts in, classes and probabilities out, nothing larger than it should be."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otmf import errors
from stages._loaded import Serving

AT_ONCE = 2  # requests that decode their inputs: a picture of a few bytes can take hundreds of megabytes


class Asked(BaseModel):
    """A request: a task of the line, and image files in base64, or texts as they are."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(max_length=100)
    images: list[str] | None = Field(default=None, min_length=1, fail_fast=True)
    texts: list[str] | None = Field(default=None, min_length=1, fail_fast=True)


def application(serving: Serving, *, largest: int, most: int) -> FastAPI:
    """The HTTP interface.

    Args:
        serving: the version that serves.
        largest: bytes of a request's body.
        most: inputs of a request.
    """
    app = FastAPI(title="otmf", docs_url=None, redoc_url=None)

    decoding = BoundedSemaphore(AT_ONCE)
    app.add_middleware(_Bounded, largest=largest)

    @app.exception_handler(HTTPException)
    async def said(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        mistakes = [f"{'.'.join(map(str, one['loc'][1:]))[:60] or 'body'}: {one['msg']}" for one in error.errors()[:3]]
        return _refusal(
            422, f"expected JSON with task and inputs; received another document ({'; '.join(mistakes)}); mend it"
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(*_: object) -> Response:
        return Response(status_code=400)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        loaded = serving.loaded
        if loaded is None:
            response.status_code = 503
            return {"status": "not ready", "trouble": serving.trouble}
        response.headers["x-otmf-version"] = f"v{loaded.notice.version}"
        return {
            "status": "ready",
            "version": loaded.notice.version,
            "tasks": {name: len(classes) for name, (_, classes) in loaded.heads.items()},
            "trouble": serving.trouble,
        }

    @app.post("/predict")
    async def predict(asked: Asked, response: Response) -> dict[str, Any]:
        given = {name: found for name in ("images", "texts") if (found := getattr(asked, name)) is not None}
        wanted = serving.loaded.backbone.reads if serving.loaded else ""
        if wanted and list(given) != [wanted]:
            raise HTTPException(
                422,
                f"expected {wanted}, which this line's encoder reads; received {' and '.join(given) or 'none'}; send those",
            )
        for name, found in given.items():
            if len(found) > most:
                raise HTTPException(
                    413, f"expected at most {most} {name}; received {len(found)}; send several requests"
                )
        try:
            contents = [base64.b64decode(one, validate=True) for one in given.get("images", ())]
        except (binascii.Error, ValueError) as error:
            raise HTTPException(
                400, f"expected images in base64; received {errors.sentence(error)}; encode the files as they are"
            ) from error
        contents += [one.encode("utf-8", "replace") for one in given.get("texts", ())]
        return await run_in_threadpool(answer, asked.task, contents, response)

    @app.post("/predict/{task}")
    async def predict_one(task: str, request: Request, response: Response) -> dict[str, Any]:
        return await run_in_threadpool(answer, task, [await request.body()], response)

    def answer(task: str, contents: list[bytes], response: Response) -> dict[str, Any]:
        loaded = serving.loaded
        if loaded is None:
            raise HTTPException(503, serving.trouble)
        if task not in loaded.heads:
            raise HTTPException(
                404,
                f"expected a task of v{loaded.notice.version} ({', '.join(loaded.heads)}); received {task[:60]!r}; choose one of them",
            )
        try:
            with decoding:
                read = loaded.backbone.decode(contents)
        except ValueError as error:
            raise HTTPException(400, errors.sentence(error)) from error
        results = loaded.predict(task, read)
        entry = {
            "prediction_id": f"v{loaded.notice.version}-{uuid4().hex}",
            "version": loaded.notice.version,
            "step": loaded.notice.step,
            "sha256": loaded.notice.sha256,
            "record": loaded.notice.record,
            "record_sha256": loaded.notice.record_sha256,
            "task": task,
        }
        serving.note({
            **entry, "at": datetime.now(UTC).isoformat(), loaded.backbone.reads: [hashlib.sha256(one).hexdigest() for one in contents],
            "results": [{"class": one["class"], "probability": one["probability"]} for one in results],
        })  # fmt: skip
        response.headers["x-otmf-version"] = f"v{loaded.notice.version}"
        return {**entry, "results": results}

    return app


class _Bounded:
    """Refuses bodies beyond a size, whether they say so beforehand or not."""

    def __init__(self, app: ASGIApp, *, largest: int) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0").decode("latin-1")
        if not told.isdigit() or int(told) > self.largest:
            await _refusal(413, self._said(told[:20]))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.largest:
                raise HTTPException(413, self._said("more"))
            return message

        await self.app(scope, counted, send)

    def _said(self, received: str) -> str:
        return f"expected a body of at most {self.largest} bytes; received {received}; send fewer or smaller ones"


def _refusal(status: int, said: str) -> Response:
    return JSONResponse({"detail": said.encode("utf-8", "replace").decode()}, status_code=status)
