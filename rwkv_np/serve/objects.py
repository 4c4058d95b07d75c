"""The response objects of OpenAI's API: whole, and as chunks of a stream."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from rwkv_np.serve.bodies import ToolCall

Finish = Literal["stop", "length", "tool_calls"]


class CachedTokens(msgspec.Struct):
    """How many of the prompt's tokens came from the cache."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Token counts of all prompts and answers of a request.

    prompt_tokens_details  not in a batch job's answers, since it depends on other requests
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | UnsetType = UNSET


def usage_of(n_prompt: int, n_written: int, n_cached: int | None = None) -> Usage:
    """The counts; `n_cached` None: without the details."""
    details = UNSET if n_cached is None else CachedTokens(n_cached)
    return Usage(n_prompt, n_written, n_prompt + n_written, details)


class TopLogprob(msgspec.Struct):
    """A possible token. `bytes` identifies it if its text is not a whole character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The token that was chosen."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """The tokens in the order of the answer."""

    content: list[TokenLogprob]


class ChatMessage(msgspec.Struct, kw_only=True):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(msgspec.Struct, kw_only=True):
    """All answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(msgspec.Struct, omit_defaults=True):
    """The new part of a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class DeltaChoice(msgspec.Struct):
    """A chunk of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(msgspec.Struct, kw_only=True):
    """A chunk of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[DeltaChoice]
    usage: Usage | None | UnsetType = UNSET


class TextLogprobs(msgspec.Struct):
    """The older format: lists of equal length, and a mapping for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(msgspec.Struct):
    """One text, or a chunk of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class TextCompletion(msgspec.Struct, kw_only=True):
    """All texts, or a chunk of a stream: both have the same name."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET


class ModelCard(msgspec.Struct, kw_only=True):
    """The model of this server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rwkv-np"
    template: str
    thinks: bool


class ModelList(msgspec.Struct, kw_only=True):
    """The list of models, which has one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(msgspec.Struct):
    """The response of /tokenize."""

    tokens: list[int]
    count: int


class Detokenized(msgspec.Struct):
    """The response of /detokenize: the text under both names that other servers use."""

    prompt: str
    content: str


class TokenizerInfo(msgspec.Struct):
    """The response of /tokenizer_info."""

    name: str
    vocab_size: int
    eos_token: str
    eos_token_id: int
    bos_token: str | None
    pad_token: str | None
    chat_template: str | None


class Health(msgspec.Struct):
    """The server accepts requests."""

    status: Literal["ok"] = "ok"
