"""From a conversation's messages to the token ids that the model reads.

The ids are the same as in the terminal chat: the opening, each turn and each answer are encoded separately. So every
boundary between them is a token boundary, whatever follows. The states at these boundaries can be kept, and the next
request of the same conversation continues from them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rwkv_np.chat.opening import NO_OPENING, Opening, bundled_opening
from rwkv_np.chat.templates import SEPARATOR, Template, closed_up
from rwkv_np.chat.thinking import BEGIN, END
from rwkv_np.serve.bodies import Message
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.settings import END as END_OF_TEXT
from rwkv_np.serve.tools import ToolChoice, call_text, result_text
from rwkv_np.tokenizers import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """The tokens that are read before an answer.

    ids    (n,) int64
    marks  the positions at which something ends: the system text, a message, an answer
    lead   the start of the answer that is part of the prompt, for a model that can think; otherwise None
    begun  whether an existing answer is continued
    """

    ids: np.ndarray
    marks: tuple[int, ...]
    lead: str | None = None
    begun: bool = False


@dataclass
class _Round:
    """System texts, the user's text, and the answer to it, if there is one already."""

    systems: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    answer: str | None = None


class Prompts:
    """Makes prompts in one template.

    opening  read before the first message of a conversation without a system text; None: the program's opening
             for the template, in the language of the first message
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, opening: Opening | None = None) -> None:
        self._tokenizer, self.template, self._opening = tokenizer, template, opening

    def of(self, messages: Sequence[Message], think: str, tools: ToolChoice, *, goes_on: bool) -> Prompt:
        """The prompt of a conversation; `goes_on`: its last message is an answer to be continued. Raises ApiError."""
        if goes_on and messages[-1].role != "assistant":
            raise wrong("continue_final_message", "the last message is not the assistant's; expected one to continue")
        template = replace(self.template, think=think)
        rounds = _rounds(messages, tools, goes_on)
        if not template.is_dialogue:
            rounds = _single(rounds, template)
        elif not template.has_system and any(each.systems for each in rounds):
            raise wrong("messages", f"the template {template.name} of this model has no system text or tools")
        return self._encoded(rounds, template, messages[-1] if goes_on else None)

    @cached_property
    def endings(self) -> frozenset[int]:
        """Ids that would end an answer before it starts: line breaks, and the end of text."""
        pieces = ((token, self._tokenizer.token_bytes(token)) for token in range(self._tokenizer.n_ids))
        return frozenset({token for token, piece in pieces if b"\n" in piece and not piece.strip()} | {END_OF_TEXT})

    def _encoded(self, rounds: list[_Round], template: Template, last: Message | None) -> Prompt:
        parts: list[list[int]] = []
        if opening := self._begin(rounds, template):
            parts.append(self._tokenizer.encode(opening))
        for each in rounds[:-1]:
            parts += self._round(each, template, bool(parts))
            parts += self._answer(each.answer or "", template)
        text = self._asked(rounds[-1], template, plain=last is not None)
        parts += self._systems(rounds[-1], template, bool(parts))
        parts.append(self._tokenizer.encode_prompt((template.separator if parts else "") + text))
        if last is not None:
            parts.append(self._tokenizer.encode(_begun(last, template)))
        ids = np.array([token for part in parts for token in part], np.int64)
        marks = tuple(dict.fromkeys(itertools.accumulate(map(len, parts))))
        return Prompt(ids, marks, template.lead, begun=last is not None)

    def _begin(self, rounds: list[_Round], template: Template) -> str:
        """The opening, or the first system text instead of it."""
        if rounds[0].systems:
            text = "\n".join(rounds[0].systems)
            rounds[0].systems = []
            return template.introduce(text) if text.strip() else ""
        opening = self._opening
        if opening is None:
            opening = bundled_opening(template, language_of(rounds[0].said[:1])) if self._has_openings else NO_OPENING
        return opening.render(template)

    @property
    def _has_openings(self) -> bool:
        # As in the chat: a model with another vocabulary was not trained on texts like the openings.
        return self._tokenizer.name in ("20B", "World") and self.template.has_openings

    def _round(self, each: _Round, template: Template, is_later: bool) -> list[list[int]]:
        systems = self._systems(each, template, is_later)
        text = self._asked(each, template, plain=True)
        before = template.separator if is_later or systems else ""
        return [*systems, self._tokenizer.encode_prompt(before + text)]

    def _systems(self, each: _Round, template: Template, is_later: bool) -> list[list[int]]:
        """System texts in the middle of a conversation."""
        texts = [template.introduce(text) for text in each.systems if text.strip()]
        before = template.separator
        return [self._tokenizer.encode((before if is_later or i else "") + text) for i, text in enumerate(texts)]

    def _asked(self, each: _Round, template: Template, *, plain: bool) -> str:
        """A turn up to the start of its answer; `plain`: without the text that makes the model think."""
        if not each.said:  # the model speaks again, or first
            return template.to_answer + ("" if plain else template.lead or "")
        message = "\n".join(each.said)
        return template.turn(message) if plain else template.prompt(message)

    def _answer(self, text: str, template: Template) -> list[list[int]]:
        text = closed_up(text) if SEPARATOR in template.stop else text.strip()
        return [self._tokenizer.encode(template.answered(text))] if text else []


def _rounds(messages: Sequence[Message], tools: ToolChoice, goes_on: bool) -> list[_Round]:
    """The messages, grouped; the last round waits for its answer."""
    rounds = [_Round(systems=[tools.system_text] if tools else [])]
    for i, message in enumerate(messages):
        text = text_of(message, i)
        current = rounds[-1]
        if message.role in ("system", "developer"):
            current.systems.append(text)
        elif message.role == "assistant":
            if goes_on and i == len(messages) - 1:
                break
            current.answer = "\n".join([part for part in (text, *map(call_text, message.tool_calls or ())) if part])
            rounds.append(_Round())
        else:
            current.said.append(result_text(_name(message, messages), text) if message.role == "tool" else text)
    if tools and len(rounds[0].systems) > 1:  # the person's own system text comes first
        rounds[0].systems.append(rounds[0].systems.pop(0))
    return rounds


def _single(rounds: list[_Round], template: Template) -> list[_Round]:
    """For a template with single turns only the last round, as in the chat."""
    if any(each.systems for each in rounds):
        raise wrong("messages", f"the template {template.name} has single turns, without system text or tools")
    if not rounds[-1].said:
        raise wrong("messages", f"the template {template.name} needs a user's message at the end")
    return [rounds[-1]]


def _name(message: Message, messages: Sequence[Message]) -> str | None:
    """The name of the function that a tool message comes from: in the message itself, or in the call."""
    calls = (call for each in messages for call in each.tool_calls or ())
    by_call = next((call.function.name for call in calls if call.id and call.id == message.tool_call_id), None)
    return message.name or by_call


def text_of(message: Message, at: int) -> str:
    """The text of a message; its text parts are joined. Raises ApiError."""
    content = message.content
    if content is None and message.role != "assistant":
        raise wrong(f"messages[{at}].content", f"messages[{at}].content is missing; only assistant may omit it")
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong(f"messages[{at}].content", f"messages[{at}].content has half a surrogate pair") from None
    return text


def _begun(message: Message, template: Template) -> str:
    """The answer to continue, with its thinking; if there is no answer text yet, the thinking is continued."""
    text = text_of(message, 0)
    if message.reasoning_content is None:
        return template.answered(text) if text else ""
    return f" {BEGIN}{message.reasoning_content}" + (f"{END}{text}" if text else "")


def language_of(said: Sequence[str]) -> str:
    """The language of a text, guessed from its characters: "ja", "zh" or "en"."""
    text = "".join(said)
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"
