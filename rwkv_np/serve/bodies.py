"""The bodies of requests: OpenAI's fields, and extra fields for RWKV.

An unknown field is an error that names it, since a client that sends it expects an effect. Fields without an effect
(`user`, `metadata`) are read and ignored. Fields of type None are OpenAI fields that this server does not support:
their only valid value is null. /openapi.json is made from these structs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rwkv_np.serve import bounds

Stops = str | Annotated[list[Annotated[str, Meta(max_length=bounds.STOP_CHARACTERS)]], Meta(max_length=16)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-100, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class StreamOptions(_Body):
    """include_usage: whether the last chunk of the stream has the token counts."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Sampled(_Body):
    """The fields that both kinds of requests share.

    Extra fields for RWKV: top_k, min_p (0 keeps all), penalty_decay (1: the counts of the penalties never decay), and
    ignore_eos (whether to continue after the model's end of text). top_p cuts before the temperature is applied.
    """

    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[Id, Penalty] | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = None
    user: str | None = None
    top_k: Whole | None = None
    min_p: Share | None = None
    penalty_decay: Share | None = None
    ignore_eos: bool | None = None


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class CalledFunction(_Body):
    """arguments: an object, as JSON text."""

    name: str
    arguments: str


class ToolCall(_Body):
    """A call that the model made earlier."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class Message(_Body):
    """A message. `developer` means `system`; the thinking of earlier answers is not read again."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionSpec(_Body):
    """parameters: a JSON schema."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Body):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(_Body):
    """The name of a function."""

    name: str


class NamedTool(_Body):
    """A function that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(_Body):
    """A JSON schema. The answer always fits it: `strict` has no effect."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(_Body):
    """The format of an answer. `schema` beside json_object is llama.cpp's form of json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


class ChatRequest(_Sampled, kw_only=True):
    """POST /v1/chat/completions.

    Extra fields for RWKV: think (for models that think), and continue_final_message (whether to continue the last
    message, which is the assistant's).
    """

    messages: Annotated[list[Message], Meta(min_length=1, max_length=bounds.MESSAGES)]
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=bounds.TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    think: Literal["auto", "on", "off", "short"] | None = None
    continue_final_message: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    modalities: list[Literal["text"]] | None = None
    store: bool | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    prediction: None = None
    verbosity: None = None
    web_search_options: None = None


class CompletionRequest(_Sampled, kw_only=True):
    """POST /v1/completions. `prompt` is a text, a list of texts, a list of token ids, or a list of such lists."""

    prompt: str | list[str | Id | list[Id]]
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: None = None


class TokenizeRequest(_Body):
    """POST /tokenize: `prompt`, or `content` as in llama.cpp. RWKV has no special tokens to add."""

    prompt: str | None = None
    content: str | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None


class DetokenizeRequest(_Body):
    """POST /detokenize."""

    tokens: list[Id]
    model: str | None = None
