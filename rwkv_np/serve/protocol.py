"""HTTP/1.1 on a connection: uvicorn's protocol on h11, with our error object for bytes that are not HTTP.

uvicorn answers such bytes itself, in plain text, before an application sees a request; a client that parses every error
as JSON would fail on it. h11 is named explicitly: uvicorn would otherwise take httptools where that is installed, and
the same bytes would get another answer on another machine.
"""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rwkv_np.serve.errors import ApiError

MALFORMED = ApiError(400, "the request is not valid HTTP/1.1", code="invalid_http")


class Protocol(H11Protocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:
        """Reply with the error object, then close the connection. Called once, before any response."""
        body = MALFORMED.body
        headers = [
            (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close"),
        ]  # fmt: skip
        parts = (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(body))
        for part in (*parts, h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
