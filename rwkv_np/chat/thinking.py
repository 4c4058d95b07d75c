"""The thinking of a model before its answer, and where it ends in the text.

A G1 model writes `<think>`, its thought, `</think>`, and then its answer. The first mark, or a part of it, may already
be in the prompt. The text arrives in pieces that may end inside a mark, so text that could still become a mark waits.
An opening mark that is not at the start is ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterator

from rwkv_np.completion import Completion

BEGIN, END = "<think>", "</think>"
MODES = ("auto", "on", "off", "short")


class Thoughts:
    """Separates thinking and answer as the text arrives.

    is_thinking  whether a thought has begun and not ended
    has_thought  whether there was one at all
    waiting      the end of the text, if it may still become a mark
    """

    def __init__(self) -> None:
        self.is_thinking = self.has_thought = False
        self._is_decided = False
        self.waiting = ""

    def push(self, text: str) -> Iterator[tuple[bool, str]]:
        """(whether it is thought, text) for each stretch that is certain by now."""
        self.waiting += text
        if not self._is_decided:
            self._begin()
        if self._is_decided:
            yield from self._go_on()

    def flush(self) -> Iterator[tuple[bool, str]]:
        """The waiting text, at the end of the answer."""
        rest, self.waiting = self.waiting, ""
        if rest:
            yield self.is_thinking, rest

    def _begin(self) -> None:
        text = self.waiting.lstrip()
        if text.startswith(BEGIN):
            self.is_thinking = self.has_thought = True
            self.waiting = text.removeprefix(BEGIN)
        self._is_decided = self.has_thought or not BEGIN.startswith(text)

    def _go_on(self) -> Iterator[tuple[bool, str]]:
        if self.is_thinking:
            thought, mark, answer = self.waiting.partition(END)
            n_waiting = 0 if mark else _n_of_mark(thought)
            certain = thought[: len(thought) - n_waiting]
            self.waiting = answer if mark else thought[len(certain) :]
            if certain:
                yield True, certain
            self.is_thinking = not mark
        if not self.is_thinking:
            yield from self.flush()


def _n_of_mark(text: str) -> int:
    """How many characters at the end of `text` may be the start of the mark that ends the thinking."""
    return max(n for n in range(len(END)) if text.endswith(END[:n]))


def split_thought(text: str) -> tuple[str | None, str]:
    """(the thinking, the answer) in a text so far; None if there is no thinking."""
    thoughts = Thoughts()
    parts = [*thoughts.push(text), *thoughts.flush()]
    thought, answer = ("".join(part for is_thought, part in parts if is_thought is wanted) for wanted in (True, False))
    return (thought if thoughts.has_thought else None), answer


class Answer(Completion):
    """A completion that may begin with thinking.

    before  the text before it: a mark in the prompt, and for a continued answer all of its earlier text;
            None if the model does not support thinking
    """

    before: str | None = None

    def parts(self) -> Iterator[tuple[bool, str]]:
        """(whether it is thinking, text) as it is generated."""
        if self.before is None:
            yield from ((False, piece) for piece in self)
            return
        thoughts = Thoughts()
        for _ in thoughts.push(self.before):  # has been read, or shown
            pass
        known = thoughts.waiting  # so has this, be it a part of a mark or not
        for piece in self:
            for is_thought, text in thoughts.push(piece):
                yield is_thought, text.removeprefix(known)
                known = ""
        for is_thought, text in thoughts.flush():
            yield is_thought, text.removeprefix(known)
