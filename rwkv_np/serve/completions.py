"""POST /v1/completions: continue texts. Prompts are texts or token ids, one or many; no template is applied."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
from msgspec import UNSET

from rwkv_np.serve.answering import Answering
from rwkv_np.serve.bodies import CompletionRequest
from rwkv_np.serve.chat import LONG, usage
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.mailbox import Read, Written
from rwkv_np.serve.objects import Finish, TextChoice, TextCompletion, TextLogprobs
from rwkv_np.serve.request import Logprob
from rwkv_np.serve.service import Service
from rwkv_np.serve.stream import encode, frame, send_stream
from rwkv_np.serve.text_plan import TextPlan

_DECODER = msgspec.json.Decoder(CompletionRequest)


async def complete(service: Service, exchange: Exchange) -> None:
    """Answer one request."""
    data = await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds)
    body = decode(_DECODER, data)
    service.check_model(body.model)
    plan = TextPlan(service, body)
    asked = await asyncio.to_thread(plan.asked, exchange) if len(data) > LONG else plan.asked(exchange)
    async with Answering(service, exchange, asked, is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            await exchange.reply(encode(await _whole(plan, exchange, answering)))


class TextAnswer:
    """One text as it arrives: events in, chunks out."""

    def __init__(self, plan: TextPlan, index: int) -> None:
        self._plan, self._index = plan, index
        self.finish: Finish | None = None

    def begin(self, read: Read) -> tuple[str, TextLogprobs | None]:
        """With echo: the prompt, as the first chunk."""
        if not self._plan.body.echo:
            return "", None
        text, priced = self._plan.echoed(self._index, read)
        if not priced:
            return text, None
        plan, first = self._plan, self._plan.prompts[self._index // self._plan.n_made][0]
        found = plan.service.names.text([each for each in priced if each], plan.body.logprobs or 0)
        found.tokens.insert(0, plan.service.names.key(first))
        found.token_logprobs.insert(0, None)
        found.text_offset.insert(0, 0)
        if found.top_logprobs is not None:
            found.top_logprobs.insert(0, None)
        return text, found

    def take(self, event: Written) -> tuple[str, TextLogprobs | None]:
        """The chunk for an event."""
        if event.reason is not None:
            self.finish = "length" if event.reason == "length" else "stop"
        plan = self._plan
        return event.text, plan.service.names.text(event.priced, plan.body.logprobs or 0) if plan.is_priced else None


async def _whole(plan: TextPlan, exchange: Exchange, answering: Answering) -> TextCompletion:
    answers = [TextAnswer(plan, i) for i in range(plan.n_answers)]
    pieces: list[list[tuple[str, TextLogprobs | None]]] = [[] for _ in answers]
    prices: list[list[Logprob]] = [[] for _ in answers]
    while answering.is_open:
        for event in await answering.next():
            if isinstance(event, Written):
                pieces[event.answer].append(answers[event.answer].take(event))
                prices[event.answer] += [each.logprob for each in event.priced]
            elif isinstance(event, Read):
                for i in range(event.first, event.first + plan.n_made):
                    pieces[i].append(answers[i].begin(event))
    choices = [_joined(plan, i, answers[i], pieces[i]) for i in range(plan.n_answers)]
    return TextCompletion(
        id=_id(exchange), created=plan.created, model=plan.service.name, system_fingerprint=plan.service.fingerprint,
        choices=_best(plan, choices, prices), usage=usage(answering),
    )  # fmt: skip


def _joined(
    plan: TextPlan, index: int, answer: TextAnswer, pieces: list[tuple[str, TextLogprobs | None]]
) -> TextChoice:
    text = "".join(piece for piece, _ in pieces)
    if not plan.is_priced:
        return TextChoice(index, text, None, answer.finish)
    whole = TextLogprobs([], [], [] if plan.body.logprobs else None, [])
    for _, each in pieces:
        if each is not None:
            whole.tokens += each.tokens
            whole.token_logprobs += each.token_logprobs
            whole.text_offset += each.text_offset
            if whole.top_logprobs is not None:
                whole.top_logprobs += each.top_logprobs or []
    return TextChoice(index, text, whole, answer.finish)


def _best(plan: TextPlan, choices: list[TextChoice], prices: list[list[Logprob]]) -> list[TextChoice]:
    """For each prompt, the `n` of its `best_of` answers whose tokens were the most likely on average."""
    if plan.n_made == plan.n:
        return choices
    chosen = []
    for first in range(0, len(choices), plan.n_made):
        means = {
            i: float(np.mean([each.logprob for each in prices[i]] or [-np.inf]))
            for i in range(first, first + plan.n_made)
        }
        chosen += [choices[i] for i in sorted(means, key=lambda i: (-means[i], i))[: plan.n]]
    for index, choice in enumerate(chosen):
        choice.index = index
    return chosen


class _Stream:
    """The chunks of a stream."""

    def __init__(self, plan: TextPlan, exchange: Exchange, answering: Answering) -> None:
        self._plan, self._answering = plan, answering
        self._answers = [TextAnswer(plan, i) for i in range(plan.n_answers)]
        options = plan.body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._piece = TextCompletion(
            id=_id(exchange), created=plan.created, model=plan.service.name,
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
        self._piece.choices, self._piece.usage = [], usage(self._answering)
        return [frame(self._piece)]

    def _frame(self, choice: TextChoice) -> bytes:
        self._piece.choices = [choice]
        return frame(self._piece)


def _id(exchange: Exchange) -> str:
    return f"cmpl-{exchange.id.removeprefix('req_')}"
