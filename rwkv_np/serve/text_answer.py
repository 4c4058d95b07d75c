"""The answer to a completion request: from the engine's events to OpenAI's objects, as chunks and as a whole.

A whole text is the sum of its chunks, so the two cannot differ.
"""

from __future__ import annotations

import numpy as np

from rwkv_np.serve.asked import Label
from rwkv_np.serve.events import Read, Written
from rwkv_np.serve.objects import Finish, TextChoice, TextCompletion, TextLogprobs, Usage
from rwkv_np.serve.request import Logprob
from rwkv_np.serve.text_plan import TextPlan


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


class WholeText:
    """All texts of a request, as they arrive."""

    def __init__(self, plan: TextPlan, label: Label) -> None:
        self._plan, self._label = plan, label
        self._answers = [TextAnswer(plan, i) for i in range(plan.n_answers)]
        self._pieces: list[list[tuple[str, TextLogprobs | None]]] = [[] for _ in self._answers]
        self._prices: list[list[Logprob]] = [[] for _ in self._answers]

    def take(self, event: Read | Written) -> None:
        """An event of the engine."""
        if isinstance(event, Written):
            self._pieces[event.answer].append(self._answers[event.answer].take(event))
            self._prices[event.answer] += [each.logprob for each in event.priced]
            return
        for i in range(event.first, event.first + self._plan.n_made):
            self._pieces[i].append(self._answers[i].begin(event))

    def made(self, usage: Usage) -> TextCompletion:
        """The object, after the last event."""
        plan, service = self._plan, self._plan.service
        choices = [_joined(plan, i, *each) for i, each in enumerate(zip(self._answers, self._pieces))]
        return TextCompletion(
            id=text_id(self._label), created=self._label.created, model=service.name,
            system_fingerprint=service.fingerprint, choices=_best(plan, choices, self._prices), usage=usage,
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


def text_id(label: Label) -> str:
    """The object's `id`."""
    return f"cmpl-{label.name}"
