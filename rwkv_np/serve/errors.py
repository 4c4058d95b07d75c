"""Errors sent to a client: OpenAI's error object, and the HTTP status that its clients expect.

400 for an invalid request, never 422; 401, 403, 404, 405, 408 and 413; 429 and 503 with Retry-After, for requests that
may be retried. OpenAI's clients send a request up to three times after 408, 409, 429 and 5xx, so a request that cannot
succeed never gets one of these.
"""

from __future__ import annotations

import logging
import math
import traceback

import msgspec

from rwkv_np.errors import InputError, MissingPackageError, RwkvError
from rwkv_np.serve.request import Draining, Refused, TimedOut

_log = logging.getLogger(__name__)

Headers = tuple[tuple[bytes, bytes], ...]


class ErrorDetail(msgspec.Struct):
    """The message, the field that caused the error, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The body of every error."""

    error: ErrorDetail


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}


class ApiError(Exception):
    """An error that is sent to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    @property
    def body(self) -> bytes:
        """The error object in JSON."""
        return msgspec.json.encode(ErrorBody(ErrorDetail(self.message, self.kind, self.param, self.code)))


def wrong(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the field that caused it."""
    return ApiError(400, message, param=param, code=code)


def again(status: int, message: str, seconds: float, code: str) -> ApiError:
    """A 429 or 503: the client may retry after so many seconds."""
    return ApiError(status, message, code=code, headers=((b"retry-after", b"%d" % max(1, math.ceil(seconds))),))


def as_api_error(error: Exception) -> ApiError:
    """The error for the client when the engine raised `error`."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Draining):
        return again(503, str(error), error.retry_after, "shutting_down")
    if isinstance(error, Refused):
        return again(429, str(error), error.retry_after, "too_much_work")
    if isinstance(error, TimedOut):
        return again(503, str(error), 1, "timeout")
    if isinstance(error, InputError):
        return wrong(None, str(error))
    if isinstance(error, MissingPackageError):
        return wrong(None, str(error), "missing_package")
    # The message of a bug may repeat the text of a request, so the client does not get it.
    return ApiError(500, str(error) if isinstance(error, RwkvError) else "internal server error; see the server's log")


def log_failure(request: str, error: Exception) -> None:
    """Log where a bug is, without the exception's message, which may repeat the text of a request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed: %s\n%s", request, type(error).__name__, where)
