"""POST /v1/chat/completions: messages in, an answer out, whole or as a stream.

Both use `ChatAnswer`, which makes chunks; a whole answer is their sum. So the two cannot differ.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from rwkv_np.serve.answer_text import Priced
from rwkv_np.serve.answering import Answering
from rwkv_np.serve.bodies import ChatRequest, ToolCall
from rwkv_np.serve.chat_parts import ChatParts
from rwkv_np.serve.chat_plan import ChatPlan
from rwkv_np.serve.decoding import decode
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
from rwkv_np.serve.service import Service
from rwkv_np.serve.stream import encode, frame, send_stream

_DECODER = msgspec.json.Decoder(ChatRequest)
LONG = 16_384  # bytes: the text of a larger body is encoded in a separate thread, since it takes 10 ms and more


async def chat(service: Service, exchange: Exchange) -> None:
    """Answer one request."""
    data = await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds)
    body = decode(_DECODER, data)
    service.check_model(body.model)
    plan = ChatPlan(service, body)
    # Compiling a grammar is slow too.
    in_thread = len(data) > LONG or plan.is_guided
    asked = await asyncio.to_thread(plan.asked, exchange) if in_thread else plan.asked(exchange)
    async with Answering(service, exchange, [asked], is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            await exchange.reply(encode(await _whole(plan, exchange, answering)))


class ChatAnswer:
    """One answer as it arrives: events in, chunks of the message out."""

    def __init__(self, plan: ChatPlan, exchange: Exchange) -> None:
        self._plan, self._exchange = plan, exchange
        self._parts = ChatParts(plan.prompt, plan.begun, plan.tools)
        self._priced: list[Priced] = []
        self.finish: Finish | None = None

    def take(self, event: Written) -> list[tuple[Delta, ChatLogprobs | None]]:
        """The chunks for an event; the last chunk has no text, and then `finish` is set."""
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


async def _whole(plan: ChatPlan, exchange: Exchange, answering: Answering) -> ChatCompletion:
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


def _joined(
    plan: ChatPlan, index: int, answer: ChatAnswer, pieces: list[tuple[Delta, ChatLogprobs | None]]
) -> ChatChoice:
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
    """The chunks of a stream."""

    def __init__(self, plan: ChatPlan, exchange: Exchange, answering: Answering) -> None:
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
        """The chunks for an event."""
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
        """The chunks after the last one of an answer."""
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
    """Token counts of a finished request."""
    prompt, written = answering.n_prompt, answering.n_written
    return Usage(prompt, written, prompt + written, CachedTokens(answering.n_cached))


def _id(exchange: Exchange) -> str:
    return f"chatcmpl-{exchange.id.removeprefix('req_')}"
