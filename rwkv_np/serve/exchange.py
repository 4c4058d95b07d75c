"""One HTTP request and its answer, on bare ASGI.

Starlette's Request and Response would do the same; but a stream sends a piece for each token, and there every
layer is paid for by the engine, which shares Python's lock.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rwkv_np.serve.errors import ApiError, Headers
from rwkv_np.serve.keys import Owner

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
_CLOSE = (b"connection", b"close")


class Exchange:
    """A request that is being answered.

    id          names it, in a header of the answer and in the log
    owner       who asks
    status      of the answer; None until it has begun; 499 where the client has gone before
    transport   the connection, where the server shows it: a client that does not read is cut there
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.owner = scope, Owner()
        self.id = f"req_{secrets.token_hex(12)}"
        self.began = time.monotonic()
        self.status: int | None = None
        self.transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._receive, self._send = receive, send

    def header(self, name: bytes) -> str | None:
        """A header of the request, by its name in lower case."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), None)

    async def body(self, most: int, seconds: float) -> bytes:
        """The request's body. Raises ApiError: it has more than `most` bytes, or takes longer."""
        declared = self.header(b"content-length") or "0"
        if not declared.isdecimal() or len(declared) > 15 or int(declared) > most:
            raise _too_large(most)
        try:
            return await asyncio.wait_for(self._read(most), seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {seconds:g} s", headers=(_CLOSE,)) from None

    async def _read(self, most: int) -> bytes:
        parts, n = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise HangUp
            part = message.get("body", b"")
            parts.append(part)
            n += len(part)
            if n > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def hang_up(self) -> None:
        """Returns when the client goes away; to be called after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Send the status and the headers."""
        self.status = status
        given = [(b"content-type", content_type), (b"x-request-id", self.id.encode()), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": given})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def reply(self, data: bytes, status: int = 200, content_type: bytes = JSON, headers: Headers = ()) -> None:
        """The whole answer."""
        await self.begin(status, content_type, (*headers, (b"content-length", b"%d" % len(data))))
        await self.write(data, is_last=True)

    async def fail(self, error: ApiError) -> None:
        """The error object, as the whole answer."""
        await self.reply(error.body, error.status, headers=error.headers)


class HangUp(Exception):
    """The client has gone: there is nobody to answer."""


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_large", headers=(_CLOSE,))
