"""Limits of what one request may ask for, and of how many requests wait."""

from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunetrail.serving.refusals import error_response


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a server accepts.

    Attributes:
        body_bytes: Largest body of a request.
        texts: Most texts of a request for vectors.
        messages: Most messages of a chat.
        new_tokens: Most tokens of an answer.
        waiting: Requests that wait while another one is computed; a further one gets 503.
    """

    body_bytes: int = 4 * 1024 * 1024
    texts: int = 256
    messages: int = 256
    new_tokens: int = 1024
    waiting: int = 64


class BodyLimit:
    """ASGI middleware that answers 413 to a larger body, of which it keeps no more than is allowed.

    Args:
        app: The application, which gets the whole body at once.
        most_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a request, and pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        # The announced length may be wrong or missing, so the bytes are counted.
        body, is_complete = bytearray(), False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_complete = not message.get("more_body", False)
            if len(body) > self.most_bytes:
                await self._refuse(scope, receive, send)
                return

        is_read = False

        async def receive_whole() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, receive_whole, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"the body must have at most {self.most_bytes} bytes. Send several requests."
        response = error_response(413, text)
        # The rest of the body is never read, so the connection can't serve another request.
        response.headers["connection"] = "close"
        await response(scope, receive, send)
