"""The routes, in one table: both the application and its OpenAPI description are made from it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from rwkv_np.serve import bodies, objects, simple
from rwkv_np.serve.chat import chat
from rwkv_np.serve.completions import complete
from rwkv_np.serve.endpoint import Handle


class Described(NamedTuple):
    """A route: its request, its response and its errors.

    gives   a struct, or the content type if it is not JSON
    streams the struct of the chunks of a stream, if it can stream
    """

    method: str
    path: str
    handle: Handle
    summary: str
    takes: type[msgspec.Struct] | None
    gives: type[msgspec.Struct] | str
    streams: type[msgspec.Struct] | None = None
    errors: tuple[int, ...] = ()
    is_open: bool = False


_BODY = (400, 404, 408, 413)
_WORK = (*_BODY, 429, 500, 503)

ROUTES = (
    Described(
        "POST", "/v1/chat/completions", chat, "Answer a conversation", bodies.ChatRequest, objects.ChatCompletion,
        objects.ChatChunk, _WORK,
    ),
    Described(
        "POST", "/v1/completions", complete, "Continue a text", bodies.CompletionRequest, objects.TextCompletion,
        objects.TextCompletion, _WORK,
    ),
    Described("GET", "/v1/models", simple.models, "The model", None, objects.ModelList),
    Described("GET", "/v1/models/{name:path}", simple.model, "The model", None, objects.ModelCard, errors=(404,)),
    Described(
        "POST", "/tokenize", simple.tokenize, "Ids of a text", bodies.TokenizeRequest, objects.Tokens, None, _BODY
    ),
    Described(
        "POST", "/detokenize", simple.detokenize, "Text of ids", bodies.DetokenizeRequest, objects.Detokenized, None,
        _BODY,
    ),
    Described("GET", "/tokenizer_info", simple.tokenizer_info, "The vocabulary", None, objects.TokenizerInfo),
    Described("GET", "/health", simple.health, "Whether the server is up", None, objects.Health, None, (503,), True),
    Described("GET", "/metrics", simple.metrics, "Metrics for Prometheus", None, "text/plain"),
)  # fmt: skip
