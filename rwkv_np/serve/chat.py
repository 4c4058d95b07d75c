"""POST /v1/chat/completions: messages in, an answer out, whole or as a stream."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from rwkv_np.serve.answering import Answering
from rwkv_np.serve.asked import Label
from rwkv_np.serve.bodies import ChatRequest
from rwkv_np.serve.chat_answer import ChatAnswer, WholeChat, chat_id
from rwkv_np.serve.chat_plan import ChatPlan
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.events import Read, Written
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.objects import ChatChunk, ChatLogprobs, Delta, DeltaChoice, Finish
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
    in_thread, owner = len(data) > LONG or plan.is_guided, exchange.owner
    asked = await asyncio.to_thread(plan.asked, owner) if in_thread else plan.asked(owner)
    async with Answering(service, exchange, [asked], is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange.label, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            whole = WholeChat(plan, exchange.label)
            await answering.finish(whole.take)
            await exchange.reply(encode(whole.made(answering.usage)))


class _Stream:
    """The chunks of a stream."""

    def __init__(self, plan: ChatPlan, label: Label, answering: Answering) -> None:
        self._plan, self._answering = plan, answering
        self._answers = [ChatAnswer(plan, label) for _ in range(plan.n)]
        self._has_begun = [False] * plan.n
        options = plan.body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._piece = ChatChunk(
            id=chat_id(label), created=label.created, model=plan.service.name,
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
        self._piece.choices, self._piece.usage = [], self._answering.usage
        return [frame(self._piece)]

    def _frame(
        self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None, finish: Finish | None = None
    ) -> bytes:
        self._piece.choices = [DeltaChoice(index, delta, logprobs, finish)]
        return frame(self._piece)
