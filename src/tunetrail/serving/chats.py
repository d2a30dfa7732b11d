"""The endpoints of a language model: OpenAI's chat completions, whole or piece by piece."""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from tunetrail.errors import SampleError
from tunetrail.pipeline.root_sources import LoadedVersion
from tunetrail.serving.fields import Text
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot
from tunetrail.serving.model_queue import ModelQueue
from tunetrail.serving.names import check_model, version_headers
from tunetrail.serving.refusals import RefusedError

_logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 256
# How often a computation asks whether its client is still there.
_SECONDS_BETWEEN_LOOKS = 0.5


class TextPart(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: Text | list[TextPart]

    def to_dict(self) -> dict[str, str]:
        """Return the turn as chat templates take it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class StreamOptions(BaseModel):
    """What else an answer in pieces tells."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`, and of `/invocations` for a language model.

    Answers are the likeliest tokens, as in the evaluation: settings of sampling may say only that.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    messages: list[ChatMessage]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    n: Literal[1] | None = None
    # They change nothing in an answer without sampling.
    top_p: float | None = None
    seed: int | None = None
    user: str | None = None

    def new_tokens(self, limits: Limits) -> int:
        """Return the most tokens of the answer; raises `RefusedError` for more than is accepted."""
        asked = self.max_completion_tokens or self.max_tokens
        if asked is not None and asked > limits.new_tokens:
            raise RefusedError(400, f"max_tokens must be at most {limits.new_tokens}, got {asked}.")
        return asked or min(DEFAULT_NEW_TOKENS, limits.new_tokens)

    def check(self, limits: Limits) -> None:
        """Raise `RefusedError` for a chat that can't be answered."""
        if not 1 <= len(self.messages) <= limits.messages:
            raise RefusedError(
                400,
                f"messages must have 1 to {limits.messages} entries, got {len(self.messages)}.",
            )
        if self.temperature:
            raise RefusedError(
                400,
                f"temperature must be 0, got {self.temperature}: the answer is the likeliest text, "
                "as it was evaluated. Leave the field out.",
            )


class _GoneError(Exception):
    """The client doesn't wait for the answer any more."""


def add_chat_endpoints(
    app: FastAPI, live_root: LiveRoot, queue: ModelQueue, limits: Limits
) -> None:
    """Add `/v1/chat/completions` and `/invocations`."""

    def begin(body: ChatRequest) -> "_Completion":
        loaded = live_root.current
        check_model(body.model, loaded)
        body.check(limits)
        return _Completion(loaded, body, body.new_tokens(limits), queue)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Return the next answer of a chat, as OpenAI's server does."""
        completion = begin(body)
        if body.stream:
            return await completion.in_pieces()
        content = await completion.whole(request)
        return JSONResponse(content, headers=version_headers(completion.loaded))

    @app.post("/invocations")
    async def invocations(body: ChatRequest, request: Request) -> Response:
        """Return the next answer of a chat in a list, as MLflow's scoring server does."""
        if body.stream:
            raise RefusedError(400, "stream must be false here. Ask /v1/chat/completions.")
        completion = begin(body)
        content = [await completion.whole(request)]
        return JSONResponse(content, headers=version_headers(completion.loaded))


class _Completion:
    """One answer of the version that was root when it was asked for."""

    def __init__(
        self, loaded: LoadedVersion, body: ChatRequest, new_tokens: int, queue: ModelQueue
    ) -> None:
        self.loaded = loaded
        self._body = body
        self._new_tokens = new_tokens
        self._queue = queue
        self._is_gone = threading.Event()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    async def whole(self, request: Request) -> dict[str, Any]:
        """Return the answer; it isn't written to its end if the client leaves."""
        task = asyncio.ensure_future(self._queue.run(self._answer))
        while not task.done():
            await asyncio.wait([task], timeout=_SECONDS_BETWEEN_LOOKS)
            if not task.done() and await request.is_disconnected():
                self._is_gone.set()

        answer = task.result()
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": str(self.loaded),
            "choices": [choice],
            "usage": _usage(answer),
        }

    async def in_pieces(self) -> StreamingResponse:
        """Return the answer as server-sent events, each with what was written since the last."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._queue.run(lambda: self._answer(loop)))
        task.add_done_callback(lambda _: self._pieces.put_nowait(None))

        # Only with a beginning is it certain that there is an answer, and not an error.
        first = await self._pieces.get()
        if first is None:
            task.result()
        return StreamingResponse(
            self._events(first, task),
            media_type="text/event-stream",
            headers=version_headers(self.loaded),
        )

    async def _events(self, first: str | None, task: asyncio.Future[Any]) -> AsyncIterator[str]:
        try:
            yield self._event({"role": "assistant", "content": ""})
            piece = first
            while piece is not None:
                yield self._event({"content": piece})
                piece = await self._pieces.get()

            answer = task.result()
            yield self._event({}, _finish_reason(answer))
            options = self._body.stream_options
            if options is not None and options.include_usage:
                yield _line({**self._chunk([]), "usage": _usage(answer)})
            yield "data: [DONE]\n\n"
        except Exception as error:
            # The status has been sent, so that the events have to tell it.
            _logger.error("a streamed answer failed: %s", type(error).__name__)
            yield _line({"error": {"message": "the answer failed.", "type": "server_error"}})
        finally:
            # If the client leaves, nothing more is computed for it.
            self._is_gone.set()

    def _event(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        return _line(self._chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}]))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": str(self.loaded),
            "choices": choices,
        }

    def _answer(self, loop: asyncio.AbstractEventLoop | None = None) -> Any:
        """Compute the answer, in the thread of the model.

        Args:
            loop: The loop of the response that takes the pieces; None if it takes the whole.
        """

        def on_text(piece: str) -> None:
            if self._is_gone.is_set():
                raise _GoneError
            if loop is not None:
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        messages = [message.to_dict() for message in self._body.messages]
        try:
            answer = self.loaded.model.answer(
                messages, max_new_tokens=self._new_tokens, on_text=on_text
            )
        except SampleError as error:
            raise RefusedError(400, str(error)) from error
        except _GoneError as error:
            # Nobody reads it.
            raise RefusedError(499, "the client has left.") from error

        if answer.is_cut_off and not answer.tokens:
            raise RefusedError(
                400,
                f"messages must leave the model room for an answer, got {answer.prompt_tokens} "
                "tokens. Shorten them.",
            )
        return answer


def _finish_reason(answer: Any) -> str:
    return "length" if answer.is_cut_off else "stop"


def _usage(answer: Any) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }


def _line(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
