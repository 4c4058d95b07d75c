"""One HTTP request and its response, directly on ASGI.

Starlette's Request and Response would do the same. But a stream sends a chunk for each token, and every extra layer
slows the engine, which shares Python's global interpreter lock.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rwkv_np.serve.asked import Label
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

    id          its name, in a response header and in the log
    owner       the client that sent it
    status      of the response; None before it starts; 499 if the client disconnected before that
    transport   the connection, if the server provides it: used to disconnect a client that does not read
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.owner = scope, Owner()
        self.id = f"req_{secrets.token_hex(12)}"
        self.began = time.monotonic()
        self.status: int | None = None
        self.transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._receive, self._send = receive, send

    @property
    def label(self) -> Label:
        """The name and time for the response's object."""
        return Label(self.id.removeprefix("req_"), int(time.time()))

    def header(self, name: bytes) -> str | None:
        """A header of the request; `name` is in lower case."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), None)

    @property
    def address(self) -> str:
        """The client's address, without a port; "" if unknown."""
        return (self.scope.get("client") or ("",))[0]

    async def body(self, most: int, seconds: float) -> bytes:
        """The request's body. Raises ApiError if it has more than `most` bytes or takes more than `seconds`."""
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
        """Return when the client disconnects. Call it after the body was read."""
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
        """Send the whole response."""
        await self.begin(status, content_type, (*headers, (b"content-length", b"%d" % len(data))))
        await self.write(data, is_last=True)

    async def fail(self, error: ApiError) -> None:
        """Send the error object as the whole response."""
        await self.reply(error.body, error.status, headers=error.headers)


class HangUp(Exception):
    """The client has disconnected."""


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_large", headers=(_CLOSE,))
