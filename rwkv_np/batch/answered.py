"""One line of output: OpenAI's row for an answer, and the one for an error."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from rwkv_np.batch.row import name_of
from rwkv_np.serve.errors import ApiError, as_api_error, log_failure


class Answered(NamedTuple):
    """A row that is done. (A tuple of plain values: it travels between machines.)

    number     its line
    data       the output, without a line break
    is_error   whether it belongs to the file of errors
    n_prompt, n_cached, n_written  tokens
    """

    number: int
    data: bytes
    is_error: bool = False
    n_prompt: int = 0
    n_cached: int = 0
    n_written: int = 0


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    """line: where the request is in its file; OpenAI does not have it."""

    code: str | None
    message: str
    line: int


class _Output(msgspec.Struct):
    id: str
    custom_id: str | None
    response: _Response | None
    error: _Error | None


_encode = msgspec.json.Encoder().encode


def success(custom_id: str, body: bytes) -> bytes:
    """The line of an answer; `body` is the server's response."""
    name = name_of(custom_id)
    response = _Response(200, f"req_{name}", msgspec.Raw(body))
    return _encode(_Output(f"batch_req_{name}", custom_id, response, None))


def failure(number: int, custom_id: str | None, error: ApiError) -> Answered:
    """The row of an error. A line without a usable id has neither an id nor a response."""
    told = _Error(error.code, error.message, number)
    if custom_id is None:
        output = _Output(f"batch_req_{name_of(f'line {number}')}", None, None, told)
    else:
        name = name_of(custom_id)
        response = _Response(error.status, f"req_{name}", msgspec.Raw(error.body))
        output = _Output(f"batch_req_{name}", custom_id, response, told)
    return Answered(number, _encode(output), is_error=True)


def failed(number: int, custom_id: str | None, error: Exception) -> Answered:
    """The row of an error; a bug is logged."""
    told = as_api_error(error)
    if told.status == 500:
        log_failure(f"line {number}", error)
    return failure(number, custom_id, told)
