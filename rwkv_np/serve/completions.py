"""POST /v1/completions: continue texts. Prompts are texts or token ids, one or many; no template is applied."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from rwkv_np.serve.answering import Answering
from rwkv_np.serve.asked import Label
from rwkv_np.serve.bodies import CompletionRequest
from rwkv_np.serve.chat import LONG
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.events import Read, Written
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.objects import TextChoice, TextCompletion
from rwkv_np.serve.service import Service
from rwkv_np.serve.stream import encode, frame, send_stream
from rwkv_np.serve.text_answer import TextAnswer, WholeText, text_id
from rwkv_np.serve.text_plan import TextPlan

_DECODER = msgspec.json.Decoder(CompletionRequest)


async def complete(service: Service, exchange: Exchange) -> None:
    """Answer one request."""
    data = await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds)
    body = decode(_DECODER, data)
    service.check_model(body.model)
    plan, owner = TextPlan(service, body), exchange.owner
    asked = await asyncio.to_thread(plan.asked, owner) if len(data) > LONG else plan.asked(owner)
    async with Answering(service, exchange, asked, is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange.label, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            whole = WholeText(plan, exchange.label)
            await answering.finish(whole.take)
            await exchange.reply(encode(whole.made(answering.usage)))


class _Stream:
    """The chunks of a stream."""

    def __init__(self, plan: TextPlan, label: Label, answering: Answering) -> None:
        self._plan, self._answering = plan, answering
        self._answers = [TextAnswer(plan, i) for i in range(plan.n_answers)]
        options = plan.body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._piece = TextCompletion(
            id=text_id(label), created=label.created, model=plan.service.name,
            system_fingerprint=plan.service.fingerprint, choices=[], usage=None if self._tells_usage else UNSET,
        )  # fmt: skip

    def frames(self, event: Read | Written) -> bytes:
        """The chunks for an event."""
        if isinstance(event, Written):
            answer = self._answers[event.answer]
            text, logprobs = answer.take(event)
            return self._frame(TextChoice(event.answer, text, logprobs, answer.finish))
        data = b""
        for i in range(event.first, event.first + self._plan.n_made):
            text, logprobs = self._answers[i].begin(event)
            if text or logprobs:
                data += self._frame(TextChoice(i, text, logprobs, None))
        return data

    def last(self) -> list[bytes]:
        """The chunks after the last one of a text."""
        if not self._tells_usage:
            return []
        self._piece.choices, self._piece.usage = [], self._answering.usage
        return [frame(self._piece)]

    def _frame(self, choice: TextChoice) -> bytes:
        self._piece.choices = [choice]
        return frame(self._piece)
