"""POST /v1/chat/completions: messages in, an answer out, whole or in pieces.

Both ways go through `ChatAnswer`, which makes pieces; a whole answer is their sum. So they cannot differ.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import msgspec
from msgspec import UNSET

from rwkv_np.serve.answer_text import AnswerText, Pieces, Priced
from rwkv_np.serve.answering import Answering, Asked, deadline
from rwkv_np.serve.bodies import ChatRequest, ToolCall
from rwkv_np.serve.chat_parts import ChatParts
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.mailbox import Read, Written
from rwkv_np.serve.objects import (
    CachedTokens,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    Delta,
    DeltaChoice,
    Finish,
    TokenLogprob,
    Usage,
)  # fmt: skip
from rwkv_np.serve.prompt import Prompt, text_of
from rwkv_np.serve.request import Request
from rwkv_np.serve.schema import JsonGuide, call_grammar, json_grammar
from rwkv_np.serve.service import Service
from rwkv_np.serve.settings import sampling, stops
from rwkv_np.serve.stream import encode, frame, send_stream
from rwkv_np.serve.tools import ToolChoice
from rwkv_np.stop_strings import StopStrings

_DECODER = msgspec.json.Decoder(ChatRequest)
LONG = 16_384  # bytes of a body whose text is encoded in a thread of its own: 10 ms and more
_EFFORTS = {"none": "off", "minimal": "off", "low": "short", "medium": "on", "high": "on", "xhigh": "on"}


async def chat(service: Service, exchange: Exchange) -> None:
    """Answer one request."""
    data = await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds)
    body = decode(_DECODER, data)
    service.check_model(body.model)
    plan = _Plan(service, body)
    # A grammar takes its time too.
    in_thread = len(data) > LONG or plan.is_guided
    asked = await asyncio.to_thread(plan.asked, exchange) if in_thread else plan.asked(exchange)
    async with Answering(service, exchange, [asked], is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            await exchange.reply(encode(await _whole(plan, exchange, answering)))


class _Plan:
    """A request that makes sense, so far as that is known without its prompt. Raises ApiError."""

    def __init__(self, service: Service, body: ChatRequest) -> None:
        self.service, self.body = service, body
        self.tools = ToolChoice(body)
        self.n = body.n or 1
        if self.n > service.bounds.answers:
            raise wrong("n", f"n is {self.n}; expected at most {service.bounds.answers}")
        if body.store:
            raise wrong("store", "this server stores no answers; leave store out", "unsupported_field")
        if body.top_logprobs is not None and not body.logprobs:
            raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
        self.think = self._think()
        self.max_tokens = self._max_tokens()
        self.format = body.response_format if body.response_format and body.response_format.type != "text" else None
        if self.format and self.format.type == "json_schema" and not self.format.json_schema:
            raise wrong("response_format.json_schema", "response_format.json_schema is missing")
        self.is_guided = bool(self.format or self.tools.is_required)
        if self.is_guided and body.continue_final_message:
            raise wrong("continue_final_message", "an answer of a given form cannot go on from one without")
        if self.is_guided and body.ignore_eos:
            raise wrong("ignore_eos", "an answer of a given form ends where the form does; leave ignore_eos out")
        self.prompt: Prompt
        self.created = int(time.time())

    def asked(self, exchange: Exchange) -> Asked:
        """The work for the engine; this encodes the prompt, and compiles the grammar."""
        service, body = self.service, self.body
        goes_on = bool(body.continue_final_message)
        self.prompt = service.prompts.of(body.messages, self.think, self.tools, goes_on=goes_on)
        guides = self._guides()
        template = service.prompts.template
        ends_early = template.stop and not (goes_on or guides)
        params = sampling(body, service.vocab_size, service.prompts.endings if ends_early else frozenset())
        pieces = Pieces(service.tokenizer.token_bytes, StopStrings((*stops(body), *template.stop)))
        is_priced = bool(body.logprobs)
        request = Request(
            self.prompt.ids, params, self.max_tokens, self.n,
            top=(body.top_logprobs or 0) if is_priced else None, marks=self.prompt.marks,
            owner=exchange.owner.name, salt=exchange.owner.salt, deadline=deadline(service), guides=guides,
        )  # fmt: skip
        return Asked(request, [AnswerText(pieces, is_priced=is_priced) for _ in range(self.n)], guides)

    @property
    def begun(self) -> str:
        """The text of an answer that goes on, as the model reads it."""
        if not self.prompt.begun:
            return ""
        message = self.body.messages[-1]
        thought = message.reasoning_content
        text = text_of(message, 0)
        return text if thought is None else f"<think>{thought}" + (f"</think>{text}" if text else "")

    def _think(self) -> str:
        body, service = self.body, self.service
        asked = body.think or (_EFFORTS[body.reasoning_effort] if body.reasoning_effort else None)
        if replace(service.prompts.template, think="auto").lead is None:
            if asked not in (None, "auto", "off"):
                param = "think" if body.think else "reasoning_effort"
                raise wrong(param, f"{service.name} was not trained to think; leave {param} out", "unsupported_value")
            return "auto"
        return asked or service.think

    def _max_tokens(self) -> int:
        body, bounds = self.body, self.service.bounds
        name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
        given = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        if given is None:
            return bounds.default_tokens
        if not 1 <= given <= bounds.max_tokens:
            raise wrong(name, f"{name} is {given}; expected 1 to {bounds.max_tokens}")
        return given

    def _guides(self) -> list[JsonGuide]:
        if not self.is_guided:
            return []
        lead = self.prompt.lead
        if self.tools.is_required:
            return self.service.grammars.guides(call_grammar(self.tools.schemas, lead), self.n, "tools")
        named = self.format.json_schema if self.format else None
        schema = (named.schema if named else None) or {"type": "object"}
        return self.service.grammars.guides(json_grammar(schema, lead), self.n, "response_format")


class ChatAnswer:
    """One answer as it comes: events in, pieces of the message out."""

    def __init__(self, plan: _Plan, exchange: Exchange) -> None:
        self._plan, self._exchange = plan, exchange
        self._parts = ChatParts(plan.prompt, plan.begun, plan.tools)
        self._priced: list[Priced] = []
        self.finish: Finish | None = None

    def take(self, event: Written) -> list[tuple[Delta, ChatLogprobs | None]]:
        """The pieces that come with an event; the last one has no text, and then `finish` is set."""
        self._priced += event.priced
        thought, text = self._parts.push(event.text)
        if event.reason is not None:
            rest = self._parts.finish()
            thought, text = thought + rest[0], text + rest[1]
        deltas = []
        if thought:
            deltas.append(Delta(reasoning_content=thought))
        if text:
            deltas.append(Delta(content=text))
        if event.reason is not None:
            deltas += self._end(event.answer, event.reason)
        return [(delta, self._logprobs() if i == 0 else None) for i, delta in enumerate(deltas)]

    def _end(self, index: int, reason: str) -> list[Delta]:
        self.finish = "length" if reason == "length" else "stop"
        if (call := self._parts.call) is None:
            return [Delta()]
        self.finish = "tool_calls"
        name = f"call_{self._exchange.id.removeprefix('req_')}_{index}"
        return [Delta(tool_calls=[ToolCall(call, name, index=0)]), Delta()]

    def _logprobs(self) -> ChatLogprobs | None:
        if not self._plan.body.logprobs:
            return None
        priced, self._priced = self._priced, []
        return ChatLogprobs(self._plan.service.names.chat(priced))


async def _whole(plan: _Plan, exchange: Exchange, answering: Answering) -> ChatCompletion:
    answers = [ChatAnswer(plan, exchange) for _ in range(plan.n)]
    pieces: list[list[tuple[Delta, ChatLogprobs | None]]] = [[] for _ in answers]
    while answering.is_open:
        for event in await answering.next():
            if isinstance(event, Written):
                pieces[event.answer] += answers[event.answer].take(event)
    choices = [_joined(plan, i, answers[i], pieces[i]) for i in range(plan.n)]
    return ChatCompletion(
        id=_id(exchange), created=plan.created, model=plan.service.name, system_fingerprint=plan.service.fingerprint,
        choices=choices, usage=usage(answering),
    )  # fmt: skip


def _joined(plan: _Plan, index: int, answer: ChatAnswer, pieces: list[tuple[Delta, ChatLogprobs | None]]) -> ChatChoice:
    text = "".join(delta.content for delta, _ in pieces if delta.content is not UNSET)
    thought = "".join(delta.reasoning_content for delta, _ in pieces if delta.reasoning_content is not UNSET)
    calls = [call for delta, _ in pieces if delta.tool_calls is not UNSET for call in delta.tool_calls]
    message = ChatMessage(
        content=None if calls and not text else text,
        reasoning_content=thought or UNSET,
        tool_calls=[ToolCall(call.function, call.id) for call in calls] or UNSET,
    )
    found: list[TokenLogprob] = [each for _, logprobs in pieces if logprobs for each in logprobs.content]
    assert answer.finish is not None
    return ChatChoice(index, message, ChatLogprobs(found) if plan.body.logprobs else None, answer.finish)


class _Stream:
    """The pieces of a stream."""

    def __init__(self, plan: _Plan, exchange: Exchange, answering: Answering) -> None:
        self._plan, self._answering = plan, answering
        self._answers = [ChatAnswer(plan, exchange) for _ in range(plan.n)]
        self._has_begun = [False] * plan.n
        options = plan.body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._piece = ChatChunk(
            id=_id(exchange), created=plan.created, model=plan.service.name,
            system_fingerprint=plan.service.fingerprint, choices=[], usage=None if self._tells_usage else UNSET,
        )  # fmt: skip

    def frames(self, event: Read | Written) -> bytes:
        """An event's pieces."""
        if isinstance(event, Read):
            return b""
        answer = self._answers[event.answer]
        pieces = answer.take(event)
        data = b"" if self._has_begun[event.answer] else self._frame(event.answer, Delta(role="assistant", content=""))
        self._has_begun[event.answer] = True
        last = len(pieces) - 1
        for i, (delta, logprobs) in enumerate(pieces):
            data += self._frame(event.answer, delta, logprobs, answer.finish if i == last else None)
        return data

    def last(self) -> list[bytes]:
        """What comes after the last piece of an answer."""
        if not self._tells_usage:
            return []
        self._piece.choices, self._piece.usage = [], usage(self._answering)
        return [frame(self._piece)]

    def _frame(
        self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None, finish: Finish | None = None
    ) -> bytes:
        self._piece.choices = [DeltaChoice(index, delta, logprobs, finish)]
        return frame(self._piece)


def usage(answering: Answering) -> Usage:
    """Tokens of a request that has ended."""
    prompt, written = answering.n_prompt, answering.n_written
    return Usage(prompt, written, prompt + written, CachedTokens(answering.n_cached))


def _id(exchange: Exchange) -> str:
    return f"chatcmpl-{exchange.id.removeprefix('req_')}"
