"""The answers' objects, as OpenAI has them: in full, and in pieces of a stream."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from rwkv_np.serve.bodies import ToolCall

Finish = Literal["stop", "length", "tool_calls"]


class CachedTokens(msgspec.Struct):
    """How many of the prompt's tokens the model did not have to read."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of all prompts and answers of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TopLogprob(msgspec.Struct):
    """A token that could have come; `bytes` says what it is where its text is no whole character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that did come."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """A list, in the order of the answer."""

    content: list[TokenLogprob]


class ChatMessage(msgspec.Struct, kw_only=True):
    """What the model said."""

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
    """What is new."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class DeltaChoice(msgspec.Struct):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(msgspec.Struct, kw_only=True):
    """A piece of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[DeltaChoice]
    usage: Usage | None | UnsetType = UNSET


class TextLogprobs(msgspec.Struct):
    """The older shape: lists of equal length, and a mapping for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(msgspec.Struct):
    """One text, or a piece of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class TextCompletion(msgspec.Struct, kw_only=True):
    """All texts, or a piece of a stream: both are called the same."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET


class ModelCard(msgspec.Struct, kw_only=True):
    """The model that this server has."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rwkv-np"
    template: str
    thinks: bool


class ModelList(msgspec.Struct, kw_only=True):
    """There is one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(msgspec.Struct):
    """What /tokenize answers."""

    tokens: list[int]
    count: int


class Detokenized(msgspec.Struct):
    """What /detokenize answers: the same text by both names that it has elsewhere."""

    prompt: str
    content: str


class TokenizerInfo(msgspec.Struct):
    """What /tokenizer_info answers."""

    name: str
    vocab_size: int
    eos_token: str
    eos_token_id: int
    bos_token: str | None
    pad_token: str | None
    chat_template: str | None


class Health(msgspec.Struct):
    """The server takes work."""

    status: Literal["ok"] = "ok"
