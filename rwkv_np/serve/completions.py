"""POST /v1/completions: texts that go on. Prompts are texts or token ids, one or many; no template is applied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import UNSET

from rwkv_np.errors import InputError
from rwkv_np.serve.answer_text import AnswerText, Pieces, Priced
from rwkv_np.serve.answering import Answering, Asked, deadline
from rwkv_np.serve.bodies import CompletionRequest
from rwkv_np.serve.chat import LONG, usage
from rwkv_np.serve.decoding import decode
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.exchange import Exchange
from rwkv_np.serve.mailbox import Read, Written
from rwkv_np.serve.objects import Finish, TextChoice, TextCompletion, TextLogprobs
from rwkv_np.serve.request import Logprob, Request
from rwkv_np.serve.service import Service
from rwkv_np.serve.settings import END, sampling, stops
from rwkv_np.serve.stream import encode, frame, send_stream
from rwkv_np.stop_strings import StopStrings

_DECODER = msgspec.json.Decoder(CompletionRequest)
DEFAULT_TOKENS = 16  # OpenAI's


async def complete(service: Service, exchange: Exchange) -> None:
    """Answer one request."""
    data = await exchange.body(service.bounds.body_bytes, service.bounds.body_seconds)
    body = decode(_DECODER, data)
    service.check_model(body.model)
    plan = _Plan(service, body)
    asked = await asyncio.to_thread(plan.asked, exchange) if len(data) > LONG else plan.asked(exchange)
    async with Answering(service, exchange, asked, is_streamed=bool(body.stream)) as answering:
        if body.stream:
            stream = _Stream(plan, exchange, answering)
            await send_stream(exchange, answering, stream.frames, stream.last)
        else:
            await exchange.reply(encode(await _whole(plan, exchange, answering)))


class _Plan:
    """A request that makes sense. Raises ApiError."""

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        self.service, self.body = service, body
        self.n = body.n or 1
        self.n_made = max(self.n, body.best_of or 0)
        if body.best_of is not None and (body.best_of < self.n or body.stream and body.best_of > self.n):
            raise wrong("best_of", f"best_of is {body.best_of}; expected at least n, and n itself in a stream")
        self.is_priced = body.logprobs is not None
        default = min(DEFAULT_TOKENS, service.bounds.max_tokens)
        self.max_tokens = default if body.max_tokens is None else body.max_tokens
        if self.max_tokens > service.bounds.max_tokens:
            raise wrong("max_tokens", f"max_tokens is {self.max_tokens}; expected at most {service.bounds.max_tokens}")
        given = _prompts(body.prompt)
        if len(given) > service.bounds.prompts:
            raise wrong("prompt", f"there are {len(given)} prompts; expected at most {service.bounds.prompts}")
        if len(given) * self.n_made > service.bounds.answers:
            most = service.bounds.answers
            raise wrong("n", f"{len(given)} prompts of {self.n_made} answers each; expected at most {most} answers")
        self._given = given
        self.prompts: list[list[int]] = []
        self.created = int(time.time())

    @property
    def n_answers(self) -> int:
        """Of all prompts together."""
        return len(self._given) * self.n_made

    def asked(self, exchange: Exchange) -> list[Asked]:
        """The work for the engine; this encodes the prompts."""
        self.prompts = [self._ids(each) for each in self._given]
        return [self._asked(ids, exchange) for ids in self.prompts]

    def _ids(self, given: str | Sequence[int]) -> list[int]:
        if not isinstance(given, str):
            return list(given)
        try:
            # An empty text is the beginning of one, which is where another has ended.
            return self.service.tokenizer.encode_prompt(given) or [END]
        except InputError as error:
            raise wrong("prompt", str(error)) from error

    def _asked(self, ids: list[int], exchange: Exchange) -> Asked:
        body, service = self.body, self.service
        if outside := [token for token in ids if token >= service.vocab_size]:
            raise wrong("prompt", f"token id {outside[0]}; this model's are 0 to {service.vocab_size - 1}")
        pieces = Pieces(service.tokenizer.token_bytes, StopStrings(stops(body)))
        needs_price = self.is_priced or self.n_made > self.n
        request = Request(
            np.array(ids, np.int64), sampling(body, service.vocab_size), self.max_tokens, self.n_made,
            top=(body.logprobs or 0) if needs_price else None, echo=bool(body.echo) and self.is_priced,
            marks=(len(ids),), owner=exchange.owner.name, salt=exchange.owner.salt, deadline=deadline(service),
        )  # fmt: skip
        n_before = len(service.tokenizer.decode(ids)) if body.echo else 0
        texts = [AnswerText(pieces, is_priced=needs_price, n_before=n_before) for _ in range(self.n_made)]
        return Asked(request, texts)

    def echoed(self, index: int, read: Read) -> tuple[str, list[Priced | None]]:
        """The text of the prompt of answer `index`, and its tokens' probabilities: the first has none."""
        ids = self.prompts[index // self.n_made]
        text = self.service.tokenizer.decode(ids)
        if not self.is_priced:
            return text, []
        offsets, n = [], 0
        for token in ids:
            offsets.append(n)
            n += sum(byte & 0xC0 != 0x80 for byte in self.service.tokenizer.token_bytes(token))
        priced = [Priced(*each) for each in zip(read.logprobs or (), offsets[1:])]
        return text, [None, *priced]


def _prompts(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The prompts, whichever of the four forms they came in. Raises ApiError."""
    if isinstance(given, str):
        return [given]
    kinds = {type(each) for each in given}
    if kinds == {int}:
        return [[each for each in given if isinstance(each, int)]]
    if kinds not in ({str}, {list}):
        raise wrong("prompt", "prompt is a list of several kinds, or of nothing; expected texts, token ids or lists")
    if not all(given):
        if kinds == {list}:
            raise wrong("prompt", "prompt has an empty list; expected at least one token id")
    return [each for each in given if not isinstance(each, int)]


class TextAnswer:
    """One text as it comes: events in, pieces out."""

    def __init__(self, plan: _Plan, index: int) -> None:
        self._plan, self._index = plan, index
        self.finish: Finish | None = None

    def begin(self, read: Read) -> tuple[str, TextLogprobs | None]:
        """With echo: the prompt, as the first piece."""
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
        """The piece that comes with an event."""
        if event.reason is not None:
            self.finish = "length" if event.reason == "length" else "stop"
        plan = self._plan
        return event.text, plan.service.names.text(event.priced, plan.body.logprobs or 0) if plan.is_priced else None


async def _whole(plan: _Plan, exchange: Exchange, answering: Answering) -> TextCompletion:
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


def _joined(plan: _Plan, index: int, answer: TextAnswer, pieces: list[tuple[str, TextLogprobs | None]]) -> TextChoice:
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


def _best(plan: _Plan, choices: list[TextChoice], prices: list[list[Logprob]]) -> list[TextChoice]:
    """Of each prompt's `best_of` answers the `n` whose tokens were the most likely on average."""
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
    """The pieces of a stream."""

    def __init__(self, plan: _Plan, exchange: Exchange, answering: Answering) -> None:
        self._plan, self._answering = plan, answering
        self._answers = [TextAnswer(plan, i) for i in range(plan.n_answers)]
        options = plan.body.stream_options
        self._tells_usage = bool(options and options.include_usage)
        self._piece = TextCompletion(
            id=_id(exchange), created=plan.created, model=plan.service.name,
            system_fingerprint=plan.service.fingerprint, choices=[], usage=None if self._tells_usage else UNSET,
        )  # fmt: skip

    def frames(self, event: Read | Written) -> bytes:
        """An event's pieces."""
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
        """What comes after the last piece of a text."""
        if not self._tells_usage:
            return []
        self._piece.choices, self._piece.usage = [], usage(self._answering)
        return [frame(self._piece)]

    def _frame(self, choice: TextChoice) -> bytes:
        self._piece.choices = [choice]
        return frame(self._piece)


def _id(exchange: Exchange) -> str:
    return f"cmpl-{exchange.id.removeprefix('req_')}"
