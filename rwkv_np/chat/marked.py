"""A prompt format with marks around each message, such as ChatML: found in the chat template of a GGUF file.

    <|im_start|>system      a system text, if there is one
    You are kind.<|im_end|>
    <|im_start|>user
    Hello<|im_end|>
    <|im_start|>assistant
    Hi!<|im_end|>

The marks are read off four rendered conversations with known messages, and not out of the program that renders them.
A format that depends on more than the order of messages is not one of these; `file_template.py` then names it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rwkv_np.chat.templates import Template, tidy

NAME = "marked"
MARKS = ("before_message", "before_answer", "after_answer", "before_system", "default_system")
MOST_MARK = 2000  # characters between two messages; a default system text has a few hundred
PROBES = ("PROBE ONE", "PROBE TWO", "PROBE THREE")
SYSTEM_PROBE = "PROBE SYSTEM"
_ONE, _TWO, _THREE = (
    {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), PROBES)
)  # fmt: skip
# A message; a message after an answer; the same two after a system text.
CHATS = tuple(
    [*system, *turns] for system in ((), ({"role": "system", "content": SYSTEM_PROBE},))
    for turns in ((_ONE,), (_ONE, _TWO, _THREE))
)  # fmt: skip
_MARK = r"<[^<>\s]+>|\[[^\[\]\s]+\]"


@dataclass(frozen=True)
class Marked(Template):
    """What is written around messages.

    before_message, before_answer  around the user's message
    after_answer                   ends an answer, and a system text
    before_system                  begins a system text; None: the format has none
    default_system                 the system text of a conversation without one, with its mark; mostly empty
    """

    before_message: str = ""
    before_answer: str = ""
    after_answer: str = ""
    before_system: str | None = None
    default_system: str = ""

    def turn(self, message: str) -> str:
        return f"{self.before_message}{tidy(message)}{self.before_answer}"

    @property
    def to_answer(self) -> str:
        return self.before_answer[self._n_of_message_end :]

    @property
    def _n_of_message_end(self) -> int:
        """Characters of `before_answer` that end the message: those that end an answer too."""
        return len(os.path.commonprefix([self.before_answer, self.after_answer]))

    @property
    def separator(self) -> str:
        return self.after_answer

    def answered(self, text: str) -> str:
        return text

    @property
    def stop(self) -> tuple[str, ...]:
        """The mark that ends an answer; without one, the beginning of the user's next message."""
        mark = self.after_answer.strip()
        return (mark or (self.after_answer + self.before_message).rstrip(),)

    @property
    def begin(self) -> str:
        return self.default_system

    @property
    def has_openings(self) -> bool:
        return False

    @property
    def has_system(self) -> bool:
        return self.before_system is not None

    def introduce(self, text: str) -> str:
        return f"{self.before_system or ''}{tidy(text)}"


def marked(rendered: list[str | None]) -> Marked | None:
    """The format of the conversations `CHATS` as they were rendered (None: not possible); None if it is another."""
    first, third, *with_system = rendered
    parts = _between(third, PROBES)
    if first is None or parts is None or not first.startswith(parts[0] + PROBES[0]):
        return None
    begin, to_answer, to_message, end = parts
    if first != f"{begin}{PROBES[0]}{to_answer}" or end != to_answer or not to_answer.strip() or "<think" in to_answer:
        return None
    after_answer = _end_of_answer(to_message)
    before_message = to_message[len(after_answer) :]
    before_system = _before_system(with_system, to_answer, to_message)
    # Of a default system text, all but what ends it: that is written with the next message.
    default = begin.removesuffix(before_message) if begin.endswith(before_message) else None
    if not after_answer or default is None or (default and not default.endswith(after_answer)):
        return None
    default = default.removesuffix(after_answer)
    return Marked(
        NAME, "User", "Assistant", before_message=before_message, before_answer=to_answer, after_answer=after_answer,
        before_system=before_system, default_system=default,
    )  # fmt: skip


def _between(text: str | None, probes: tuple[str, ...]) -> list[str] | None:
    """What is before, between and after the probes; None if they are not there once each, or far apart."""
    parts = re.split("|".join(probes), text or "")
    in_order = "".join(part + probe for part, probe in zip(parts, (*probes, ""))) == text
    return parts if len(parts) == len(probes) + 1 and in_order and max(map(len, parts)) <= MOST_MARK else None


def _end_of_answer(to_message: str) -> str:
    """The part of it that ends an answer: white space and a mark such as <|im_end|>, with the white space after it."""
    found = re.match(rf"\s*(?:{_MARK})?\s*", to_message)
    end = found[0] if found else ""
    return end if len(end) < len(to_message) else end.rstrip()


def _before_system(rendered: list[str | None], to_answer: str, to_message: str) -> str | None:
    """What begins a system text that ends as an answer does; None if there is no such text."""
    parts = [_between(text, (SYSTEM_PROBE, *probes)) for text, probes in zip(rendered, (PROBES[:1], PROBES))]
    expected = [[to_message, to_answer], [to_message, to_answer, to_message, to_answer]]
    if all(found and found[1:] == rest for found, rest in zip(parts, expected)) and parts[0]:
        return parts[0][0]
    return None
