"""One request of a batch: from a line of JSON to an id and the body of a request, as the server takes it.

Two forms are accepted: OpenAI's ({"custom_id", "method", "url", "body"}), and plain lines with "prompt", any fields of
a body, and perhaps "custom_id".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rwkv_np.batch.source import MOST_BYTES, Line
from rwkv_np.serve.bodies import ChatRequest, CompletionRequest
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.errors import wrong

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CustomId = Annotated[str, Meta(min_length=1, max_length=1024)]


class _Outline(msgspec.Struct):
    """What tells the two forms apart."""

    body: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET
    url: msgspec.Raw | UnsetType = UNSET


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's form."""

    custom_id: CustomId
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class _Plain(msgspec.Struct):
    """The id of a plain line."""

    custom_id: CustomId | None = None


_OUTLINE, _ENVELOPE = msgspec.json.Decoder(_Outline), msgspec.json.Decoder(_Envelope)
_PLAIN = msgspec.json.Decoder(_Plain)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT, _TEXT = msgspec.json.Decoder(ChatRequest), msgspec.json.Decoder(CompletionRequest)


@dataclass(frozen=True)
class Row:
    """A request.

    number     its line
    custom_id  unique in its job
    url        CHAT or TEXT
    body       its JSON, which was not checked yet
    """

    number: int
    custom_id: str
    url: str
    body: bytes

    def request(self, seed: int) -> ChatRequest | CompletionRequest:
        """The body's fields; without a seed of its own it gets one from its id and the job's seed. Raises ApiError."""
        made = decode(_CHAT, self.body) if self.url == CHAT else decode(_TEXT, self.body)
        if made.stream:
            raise wrong("stream", "stream is true, but the answers of a batch are whole; omit stream")
        if made.seed is None:
            made.seed = seed_of(self.custom_id, seed)
        return made


@dataclass(frozen=True)
class Form:
    """How plain lines are read.

    is_chat     whether their prompts are messages to the model in its template
    max_tokens  of their answers; None: the default of their kind of request
    """

    is_chat: bool = False
    max_tokens: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Form:
        """By the options of the command."""
        return cls(bool(options["chat"] or options["template"]), options["max_tokens"])


def read_row(line: Line, form: Form) -> Row:
    """The request in a line. Raises ApiError: it has none."""
    if line.data is None:
        raise wrong(None, f"the line has more than {MOST_BYTES} bytes", "line_too_long")
    outline = decode(_OUTLINE, line.data, "the line")
    if outline.body is UNSET and outline.url is UNSET and outline.prompt is not UNSET:
        return _plain(line.number, line.data, form)
    if outline.body is UNSET and outline.url is UNSET:
        raise wrong(None, "the line has neither body nor prompt; expected a request", "missing_field")
    found = decode(_ENVELOPE, line.data, "the line")
    return Row(line.number, _checked(found.custom_id), found.url, bytes(found.body))


def _plain(number: int, data: bytes, form: Form) -> Row:
    custom_id = decode(_PLAIN, data, "the line").custom_id
    fields = decode(_FIELDS, data, "the line")
    fields.pop("custom_id", None)
    if form.is_chat:
        message = {"role": "user", "content": fields.pop("prompt")}
        fields["messages"] = msgspec.Raw(msgspec.json.encode([message]))
    if form.max_tokens is not None and not {"max_tokens", "max_completion_tokens"} & fields.keys():
        fields["max_tokens"] = msgspec.Raw(b"%d" % form.max_tokens)
    custom_id = _checked(custom_id or f"line-{number}")
    return Row(number, custom_id, CHAT if form.is_chat else TEXT, msgspec.json.encode(fields))


def _checked(custom_id: str) -> str:
    try:
        custom_id.encode()
    except UnicodeEncodeError:
        raise wrong("custom_id", "custom_id has half a surrogate pair") from None
    return custom_id


def seed_of(custom_id: str, seed: int) -> int:
    """The seed of a row: the same on every machine, and in every repetition of a job."""
    key = f"{seed}\0{custom_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def name_of(custom_id: str) -> str:
    """The name in an answer's ids: the same for the same custom_id."""
    return hashlib.blake2b(custom_id.encode(), digest_size=12).hexdigest()
