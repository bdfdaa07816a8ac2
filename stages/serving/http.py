"""The HTTP interface to the version that serves: images or texts in, classes and probabilities out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from otmf.runtime import errors
from stages.serving import requests
from stages.serving.answers import RefusedError, refusal
from stages.serving.drain import Ending
from stages.serving.guard import Guard
from stages.serving.limits import AT_ONCE, Limits
from stages.serving.version import Loaded, Serving

THREADS = 8  # requests that are read, decoded, computed or noted at a time; more wait for one of these
_INPUTS = {"type": "array", "minItems": 1, "items": {"type": "string"}}
ASKED = {
    "type": "object", "required": ["task"], "additionalProperties": False,
    "properties": {"task": {"type": "string"}, "images": _INPUTS, "texts": _INPUTS},
}  # fmt: skip
PATHS = "/predict, /predict/TASK, /ready and /health"


def application(serving: Serving, *, limits: Limits, ending: Ending) -> ASGIApp:
    """The HTTP interface.

    Args:
        serving: the version that serves.
        limits: of a request, and of all of them.
        ending: whether the server has been asked to end.
    """
    app = FastAPI(title="otmf", docs_url=None, redoc_url=None, redirect_slashes=False)
    decoding = BoundedSemaphore(AT_ONCE)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    async def worked(call: Callable[[float], Response]) -> Response:
        """What a call answers in a thread of its own, which is told until when it may take."""
        until = time.monotonic() + limits.seconds
        return await asyncio.get_running_loop().run_in_executor(threads, call, until)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return refusal(error.status, error.said)

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, error: HTTPException) -> Response:
        received, headers = (
            f"{request.method} {request.url.path[:60]}",
            {key.lower(): value for key, value in (error.headers or {}).items()},
        )
        if error.status_code == 405:
            return refusal(
                405, f"expected {headers.get('allow', 'another method')}; received {received}; use that", headers
            )
        return refusal(error.status_code, f"expected one of {PATHS}; received {received}; use one of them", headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(*_: object) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def failed(*_: object) -> Response:
        return refusal(
            500, "expected no failure of this kind; received one; whoever runs this server finds it in its log"
        )

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready(response: Response) -> dict[str, Any]:
        loaded, unlogged = serving.loaded, serving.log.trouble
        trouble = f"the predictions' log cannot be written: {unlogged}" if unlogged else serving.trouble
        if ending.since is not None:
            response.status_code = 503
            return {"status": "ending", "trouble": "the server was asked to end"}
        if loaded is None or unlogged:
            response.status_code = 503
            return {"status": "not ready", "trouble": trouble}
        response.headers["x-otmf-version"] = f"v{loaded.notice.version}"
        return {
            "status": "ready",
            "version": loaded.notice.version,
            "tasks": {name: len(classes) for name, (_, classes) in loaded.heads.items()},
            "trouble": trouble,
        }

    @app.post(
        "/predict", openapi_extra={"requestBody": {"required": True, "content": {requests.JSON: {"schema": ASKED}}}}
    )
    async def predict(request: Request) -> Response:
        loaded = _version(serving)
        requests.require_kind(dict(request.scope["headers"]), [requests.JSON])
        body = await request.body()

        def call(until: float) -> Response:
            task, contents = requests.asked(body, reads=loaded.backbone.reads, most=limits.most)
            return answer(loaded, task, contents, until)

        return await worked(call)

    @app.post("/predict/{task}")
    async def predict_one(task: str, request: Request) -> Response:
        loaded = _version(serving)
        requests.require_kind(dict(request.scope["headers"]), requests.PLAIN[loaded.backbone.reads])
        body = await request.body()
        return await worked(lambda until: answer(loaded, task, [body], until))

    def answer(loaded: Loaded, task: str, contents: list[bytes], until: float) -> Response:
        if task not in loaded.heads:
            raise RefusedError(
                404,
                f"expected a task of v{loaded.notice.version} ({', '.join(loaded.heads)}); received {task[:60]!r}; choose one of them",
            )
        pixels = loaded.backbone.pixels(contents)
        if pixels > limits.pixels:
            raise RefusedError(
                413,
                f"expected an image, or several together, of at most {limits.pixels} pixels; received at least {pixels}; send fewer or smaller ones",
            )
        try:
            with decoding:
                read = loaded.decode(contents, until)
            results = loaded.predict(task, read, until)
        except ValueError as error:
            raise RefusedError(400, errors.sentence(error)) from error
        except TimeoutError as error:
            raise RefusedError(503, "expected an answer in time; received none; send fewer inputs, or later") from error
        made = {
            "prediction_id": f"v{loaded.notice.version}-{uuid4().hex}",
            "version": loaded.notice.version,
            "step": loaded.notice.step,
            "sha256": loaded.notice.sha256,
            "record": loaded.notice.record,
            "record_sha256": loaded.notice.record_sha256,
            "task": task,
        }
        entry = {
            **made, "at": datetime.now(UTC).isoformat(), loaded.backbone.reads: [hashlib.sha256(one).hexdigest() for one in contents],
            "results": [{"class": one["class"], "probability": one["probability"]} for one in results],
        }  # fmt: skip
        try:
            serving.log.append(entry)
        except OSError as error:
            raise RefusedError(
                503,
                f"expected to note the prediction before it is answered; received: {(error.strerror or 'no success').lower()}; whoever runs this "
                "server has to make space for its log",
            ) from error
        return JSONResponse({**made, "results": results}, headers={"x-otmf-version": f"v{loaded.notice.version}"})

    return Guard(app, limits=limits, ending=ending)


def _version(serving: Serving) -> Loaded:
    if serving.loaded is None:
        raise RefusedError(503, serving.trouble)
    return serving.loaded
