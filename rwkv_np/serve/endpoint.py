"""What happens to every request before and after its answer: API key, origin, errors, the log, metrics.

A server that only this computer can reach, and that needs no key, must be protected from web pages in its user's
browser. There are three checks: the Host header must name this computer (a foreign name that resolves to it does not),
a page of another origin may not post, and no origin may read unless --cors names it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from rwkv_np.serve.errors import ApiError, as_api_error, log_failure
from rwkv_np.serve.exchange import Exchange, HangUp, Receive, Scope, Send
from rwkv_np.serve.service import Service

access_log = logging.getLogger("rwkv_np.serve.access")

Handle = Callable[[Service, Exchange], Awaitable[None]]
GONE = 499  # nginx's status for a client that closed the connection


class Endpoint:
    """An ASGI application for one route. `is_open`: whether it needs no key."""

    def __init__(self, service: Service, route: str, handle: Handle, *, is_open: bool = False) -> None:
        self._service, self._route, self._handle, self._is_open = service, route, handle, is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if (transport := scope.get("rwkv_np.transport")) is not None:
            exchange.transport = transport
        try:
            self._check(exchange)
            await self._handle(self._service, exchange)
        except HangUp:
            exchange.status = exchange.status or GONE
        except Exception as error:
            await self._fail(exchange, error)
        finally:
            self._note(exchange)

    def _check(self, exchange: Exchange) -> None:
        """Raise ApiError if this request is not allowed."""
        service = self._service
        host = exchange.header(b"host") or ""
        if service.hosts is not None and _name_of(host) not in service.hosts:
            raise ApiError(403, "the Host header does not name this computer", code="wrong_host")
        origin = exchange.header(b"origin")
        if exchange.scope["method"] == "POST" and origin and not self._is_allowed(origin, host):
            raise ApiError(403, "web pages of another origin are not allowed; --cors allows one", code="wrong_origin")
        if not self._is_open:
            exchange.owner = service.owner_of(exchange.header(b"authorization"), exchange.address)

    def _is_allowed(self, origin: str, host: str) -> bool:
        origins = self._service.origins
        return "*" in origins or origin in origins or (urlsplit(origin).netloc.lower() == host.lower() != "")

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        told = as_api_error(error)
        if told.status == 500:
            log_failure(exchange.id, error)
        if told.status in (401, 403, 413, 429, 503):
            self._service.metrics.rejected.labels(told.code or str(told.status)).inc()
        if exchange.status is None:
            await exchange.fail(told)

    def _note(self, exchange: Exchange) -> None:
        seconds, status = time.monotonic() - exchange.began, exchange.status or GONE
        self._service.metrics.ended(self._route, status, seconds)
        if self._service.is_logged:
            method, client, owner = exchange.scope["method"], exchange.address or "-", exchange.owner.name or "-"
            access_log.info("%s %s %s %s %s %d %.3f", exchange.id, client, owner, method, self._route, status, seconds)


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.split(":", 1)[0]
    return name.lower().rstrip(".")
