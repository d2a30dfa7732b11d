"""The application: endpoints of a family, and of what runs the server.

No text of a request is logged, and neither is a traceback, which might show one.
"""

import importlib.metadata
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.errors import UserError
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.plain_values import plain_moment
from tunetrail.serving.chats import add_chat_endpoints
from tunetrail.serving.limits import BodyLimit, Limits
from tunetrail.serving.live_root import LiveRoot
from tunetrail.serving.model_queue import ModelQueue
from tunetrail.serving.names import version_headers
from tunetrail.serving.refusals import RefusedError, error_response, invalid_fields
from tunetrail.serving.vectors import add_vector_endpoints

logger = logging.getLogger(__name__)

_RELEASE = importlib.metadata.version("tunetrail")

_ENDPOINTS = {EmbeddingFlavor: add_vector_endpoints, LanguageModelFlavor: add_chat_endpoints}


def build_app(live_root: LiveRoot, limits: Limits, hosts: Collection[str] = ("*",)) -> FastAPI:
    """Return the application that answers with root.

    Args:
        live_root: The model; it is followed while the application runs.
        limits: What a request may ask for.
        hosts: Names by which clients may call this machine; `*` for any.
    """
    queue = ModelQueue(limits.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        live_root.start()
        yield
        live_root.stop()
        queue.close()

    # FastAPI's pages load scripts from other servers; /openapi.json describes the same.
    app = FastAPI(
        title=f"tunetrail: {live_root.source.name}",
        version=_RELEASE,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_status_endpoints(app, live_root)
    _ENDPOINTS[type(live_root.source.family.flavor)](app, live_root, queue, limits)
    _add_refusals(app)
    # The last one is asked first.
    app.add_middleware(_Guard)
    app.add_middleware(BodyLimit, most_bytes=limits.body_bytes)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


def check_family(family: ModelFamily) -> None:
    """Raise `UserError` if models of a family can't be served."""
    if type(family.flavor) not in _ENDPOINTS:
        raise UserError(
            f"family must be embedding or llm to be served, got {family.name!r}. "
            f"Use `mlflow models serve -m models:/{family.name}@root`."
        )


def _add_status_endpoints(app: FastAPI, live_root: LiveRoot) -> None:
    """Add the endpoints that tell whether the server answers, and with which version."""

    # MLflow's scoring server has /ping.
    @app.get("/ping")
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that requests are answered: a version is loaded from the start to the end."""
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> JSONResponse:
        """Tell which version answers, since when, and why it isn't root's any more, if so."""
        loaded = live_root.current
        content = {
            "name": loaded.name,
            "version": loaded.version,
            "uri": f"models:/{loaded}",
            "loaded_at": plain_moment(live_root.loaded_at),
            "reload_error": live_root.reload_error,
            "tunetrail": _RELEASE,
        }
        return JSONResponse(content, headers=version_headers(loaded))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the one model, as OpenAI's server lists its models."""
        created = int(live_root.loaded_at.timestamp())
        model = {"id": str(live_root.current), "object": "model", "created": created}
        return {"object": "list", "data": [{**model, "owned_by": "tunetrail"}]}


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return error_response(error.status, error.text)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        # A page in a browser may send other types to this machine without being asked for leave.
        if "json" not in content_type:
            return error_response(415, "content-type must be application/json.")
        return error_response(400, invalid_fields(error.errors()))

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> JSONResponse:
        response = error_response(error.status_code, f"{error.detail}.")
        response.headers.update(error.headers or {})
        return response


class _Guard:
    """ASGI middleware that answers 500 to an error, and logs its kind only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception as error:
            logger.error("a request failed: %s", type(error).__name__)
            if not has_begun and scope["type"] == "http":
                response = error_response(500, f"the request failed ({type(error).__name__}).")
                await response(scope, receive, send)
