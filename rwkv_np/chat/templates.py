"""How a family of chat models expects to be spoken to.

A turn is written as the training text had it, to the space: no space follows the final
"Alice:", because the model's own first token brings it. In a dialogue a blank line ends a
turn, so the blank lines of a message are closed up before it is sent; an answer to an
instruction may hold blank lines, and ends where the next block of the form would begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEPARATOR = "\n\n"

_INSTRUCTION = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """The names of the two who speak, and whether the model has learned more than one round of it."""

    name: str
    user: str
    bot: str
    is_dialogue: bool = True

    def turn(self, message: str) -> str:
        """The text of one turn, up to where the answer begins."""
        return f"{self.user}: {closed_up(message)}{SEPARATOR}{self.bot}:"

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer: a blank line, or a name with which the model goes on by itself."""
        # Models write the colon of Chinese and Japanese too.
        return (SEPARATOR, *(f"\n{name}{colon}" for name in (self.user, self.bot) for colon in ":："))


class Instruction(Template):
    """A form with headings; what follows a blank line in the message is the instruction's input."""

    def turn(self, message: str) -> str:
        task, _, given = tidy(message).partition(SEPARATOR)
        if not given:
            return f"{_INSTRUCTION}\n\n# Instruction:\n{task}\n\n# Response:\n"
        return f"{_INPUT}\n\n# Instruction:\n{task}\n\n# Input:\n{closed_up(given)}\n\n# Response:\n"

    @property
    def stop(self) -> tuple[str, ...]:
        headings = ("Instruction:", "Input:", "Response:")
        return ("\nBelow is an instruction", *(f"\n# {heading}" for heading in headings))


class Free(Template):
    """Text to be gone on with: no turns, and nothing but the end of text ends it."""

    def turn(self, message: str) -> str:
        # Rather than as the very first token, a model has seen a text begin after a line break.
        return "\n" + tidy(message)

    @property
    def stop(self) -> tuple[str, ...]:
        return ()


def tidy(message: str) -> str:
    """`message` with the line ends of Unix and without space around it."""
    return re.sub(r"\n[^\S\n]*(?=\n)", "\n", message.replace("\r\n", "\n").replace("\r", "\n")).strip()


def closed_up(message: str) -> str:
    """`message` without blank lines: they would end the turn."""
    return re.sub(r"\n\n+", "\n", tidy(message))


TEMPLATES = {
    template.name: template
    for template in (
        Template("raven", "Bob", "Alice"),  # these names work better than User and Assistant
        Template("world", "User", "Assistant"),
        Template("qa", "Q", "A", is_dialogue=False),
        Instruction("instruction", "Instruction", "Response", is_dialogue=False),
    )
}
FREE = Free("free", "", "", is_dialogue=False)


def template_for(vocab_size: int) -> Template:
    """The template of the models that have that vocabulary."""
    return TEMPLATES["world" if vocab_size == 65536 else "raven"]
