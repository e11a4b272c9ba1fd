"""What a browser may send: small messages, in which a file is one that was uploaded.

Gradio accepts a web address in the place of an uploaded file, and downloads it. The page asks
nothing of the outside, so that such messages are refused before Gradio reads them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_MESSAGE = 2**20
"""Bytes of a message that is no upload; the page's own have a few thousand."""

REMOTE = ("http:", "https:", "ftp:", "//")


class LocalFilesOnly:
    """ASGI middleware that refuses messages that are large, or name a file elsewhere.

    Args:
        app: The application that gets all other messages.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        posted = scope["type"] == "http" and scope["method"] == "POST"
        if not posted or scope["path"].endswith("/upload"):  # whose size Gradio limits
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more and len(body) <= LARGEST_MESSAGE:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > LARGEST_MESSAGE:
            await _refuse(send, 413, "the message is too large")
        elif names_remote_file(body):
            await _refuse(send, 400, "a file must have been uploaded")
        else:
            await self.app(scope, _again(body, receive), send)


def names_remote_file(body: bytes) -> bool:
    """Whether a message in JSON holds a file whose path is a web address.

    Example:
        >>> from deepcorrect.explorer._requests import names_remote_file
        >>> names_remote_file(b'{"data": [{"path": "https://example.org/a.png"}]}')
        True
        >>> names_remote_file(b'{"data": [{"path": "uploads/a.png"}]}')
        False
    """
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # which Gradio does not read either
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(REMOTE):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then whatever follows it."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    content = json.dumps({"error": reason}).encode()
    await send({"type": "http.response.body", "body": content})
