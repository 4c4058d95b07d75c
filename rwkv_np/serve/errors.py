"""What a client is told when something fails: OpenAI's error object, and the HTTP status that its clients expect.

400 where the request is wrong, never 422; 401, 403, 404, 405, 408 and 413; 429 and 503 with Retry-After, for
work that may be asked again. OpenAI's clients ask 408, 409, 429 and 5xx three times in all: so a request that
cannot succeed is never one of these.
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
    """What went wrong, the field that is to blame, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """Every answer that is no success."""

    error: ErrorDetail


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "overloaded_error"}


class ApiError(Exception):
    """A request that gets no answer, and why."""

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
    """A 400 that names the field to blame."""
    return ApiError(400, message, param=param, code=code)


def again(status: int, message: str, seconds: float, code: str) -> ApiError:
    """A 429 or 503: worth asking again, in so many seconds."""
    return ApiError(status, message, code=code, headers=((b"retry-after", b"%d" % max(1, math.ceil(seconds))),))


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error of the engine."""
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
    # A bug's own words may repeat what somebody asked; they are in the log.
    return ApiError(500, str(error) if isinstance(error, RwkvError) else "the server has failed; its log says why")


def log_failure(request: str, error: Exception) -> None:
    """Write where a bug is, without what the exception says: that may repeat what somebody asked."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed: %s\n%s", request, type(error).__name__, where)
