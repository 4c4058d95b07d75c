"""A validated completion request: its prompts, in any of four forms, and how they are continued."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.serve.answer_text import AnswerText, Pieces, Priced
from rwkv_np.serve.asked import Asked, deadline
from rwkv_np.serve.bodies import CompletionRequest
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.events import Read
from rwkv_np.serve.keys import Owner
from rwkv_np.serve.request import Request
from rwkv_np.serve.served import ServedModel
from rwkv_np.serve.settings import END, sampling, stops
from rwkv_np.stop_strings import StopStrings

DEFAULT_TOKENS = 16  # OpenAI's


class TextPlan:
    """A validated request. Raises ApiError."""

    def __init__(self, service: ServedModel, body: CompletionRequest) -> None:
        self.service, self.body = service, body
        self.n = body.n or 1
        self.n_made = max(self.n, body.best_of or 0)
        if body.best_of is not None and (body.best_of < self.n or body.stream and body.best_of > self.n):
            raise wrong("best_of", f"best_of is {body.best_of}; expected at least n, and exactly n in a stream")
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

    @property
    def n_answers(self) -> int:
        """The number of answers to all prompts together."""
        return len(self._given) * self.n_made

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The ids of each prompt; the first use encodes them. Raises ApiError."""
        return [self._ids(each) for each in self._given]

    def asked(self, owner: Owner) -> list[Asked]:
        """The work for the engine; this encodes the prompts. Raises ApiError."""
        return [self._asked(ids, owner) for ids in self.prompts]

    def _ids(self, given: str | Sequence[int]) -> list[int]:
        if not isinstance(given, str):
            return list(given)
        try:
            # An empty text means the start of a text, which follows the end of another one.
            return self.service.tokenizer.encode_prompt(given) or [END]
        except InputError as error:
            raise wrong("prompt", str(error)) from error

    def _asked(self, ids: list[int], owner: Owner) -> Asked:
        body, service = self.body, self.service
        if outside := [token for token in ids if token >= service.vocab_size]:
            raise wrong("prompt", f"token id {outside[0]}; this model's ids are 0 to {service.vocab_size - 1}")
        pieces = Pieces(service.tokenizer.token_bytes, StopStrings(stops(body)))
        needs_price = self.is_priced or self.n_made > self.n
        request = Request(
            np.array(ids, np.int64), sampling(body, service.vocab_size), self.max_tokens, self.n_made,
            top=(body.logprobs or 0) if needs_price else None, echo=bool(body.echo) and self.is_priced,
            marks=(len(ids),), owner=owner.name, salt=owner.salt, deadline=deadline(service.bounds),
        )  # fmt: skip
        n_before = len(service.tokenizer.decode(ids)) if body.echo else 0
        texts = [AnswerText(pieces, is_priced=needs_price, n_before=n_before) for _ in range(self.n_made)]
        return Asked(request, texts)

    def echoed(self, index: int, read: Read) -> tuple[str, list[Priced | None]]:
        """The prompt's text for answer `index`, and the probabilities of its tokens: the first has none."""
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
    """The prompts, from any of the four forms. Raises ApiError."""
    if isinstance(given, str):
        return [given]
    kinds = {type(each) for each in given}
    if kinds == {int}:
        return [[each for each in given if isinstance(each, int)]]
    if kinds not in ({str}, {list}):
        raise wrong("prompt", "prompt is a list of mixed types, or empty; expected texts, token ids or lists")
    if not all(given):
        if kinds == {list}:
            raise wrong("prompt", "prompt has an empty list; expected at least one token id")
    return [each for each in given if not isinstance(each, int)]
