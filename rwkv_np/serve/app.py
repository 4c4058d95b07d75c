"""The ASGI application: routes, the page's files, and an error object for everything else."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from rwkv_np.serve import simple
from rwkv_np.serve.endpoint import Endpoint, Handle
from rwkv_np.serve.errors import ApiError
from rwkv_np.serve.exchange import Exchange, Receive, Scope, Send
from rwkv_np.serve.openapi import description
from rwkv_np.serve.page_files import PageFile, read_page
from rwkv_np.serve.routes import ROUTES
from rwkv_np.serve.service import Service

# A client whose base URL lacks /v1 asks for these. llama.cpp's server answers them too.
SHORT_PATHS = frozenset({"/chat/completions", "/completions", "/models"})


class App:
    """The outermost layer. It passes the connection to the inner layers, since layers between them hide it."""

    def __init__(self, service: Service, page: dict[str, PageFile] | None = None) -> None:
        self._inner = Starlette(
            routes=_routes(service, read_page() if page is None else page),
            exception_handlers={HTTPException: _as_object},
            middleware=_cors(service.origins),
        )
        self._inner.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["rwkv_np.transport"] = getattr(getattr(send, "__self__", None), "transport", None)
            if scope["path"] in SHORT_PATHS:
                scope["path"] = f"/v1{scope['path']}"
        await self._inner(scope, receive, send)


def _routes(service: Service, page: dict[str, PageFile]) -> list[Route]:
    document = description(ROUTES, has_keys=bool(service.keys))

    async def openapi(service: Service, exchange: Exchange) -> None:
        await exchange.reply(document)

    made = [_route(service, each.method, each.path, each.handle, each.is_open) for each in ROUTES]
    made.append(_route(service, "GET", "/openapi.json", openapi, True))
    made += [_route(service, "GET", name, simple.page_file(file), True) for name, file in page.items()]
    return made


def _route(service: Service, method: str, path: str, handle: Handle, is_open: bool) -> Route:
    name = path.replace(":path", "")
    return Route(path, Endpoint(service, name, handle, is_open=is_open), methods=[method])


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """CORS, only if an origin was named: without it, browsers keep every other page from reading answers."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    ]  # fmt: skip


async def _as_object(request: StarletteRequest, error: Exception) -> Response:
    """Errors that Starlette raises itself: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    code, text = "not_found", "this address does not exist; /openapi.json lists all addresses"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        code, text = "method_not_allowed", f"{request.method} is not allowed here; expected {allowed}"
    told = ApiError(error.status_code, text, code=code)
    return Response(told.body, told.status, dict(error.headers or {}), "application/json")
