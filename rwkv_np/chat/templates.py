"""How a family of chat models expects to be spoken to.

A turn is written as the training text had it, to the space: no space follows the final
"Alice:", because the model's own first token brings it. A blank line ends a turn, so the
blank lines of a message are closed up before it is sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Template:
    """The names of the two who speak."""

    name: str
    user: str
    bot: str

    def turn(self, message: str) -> str:
        """The text of one turn, up to where the answer begins."""
        message = re.sub(r"\n\s*\n", "\n", message.replace("\r\n", "\n").strip())
        return f"{self.user}: {message}{SEPARATOR}{self.bot}:"

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends an answer: a blank line, or a name with which the model goes on by itself."""
        return (SEPARATOR, f"\n{self.user}:", f"\n{self.bot}:")


TEMPLATES = {
    template.name: template
    for template in (
        Template("raven", "Bob", "Alice"),  # these names work better than User and Assistant
        Template("world", "User", "Assistant"),
        Template("qa", "Q", "A"),
    )
}


def template_for(vocab_size: int) -> Template:
    """The template of the models that have that vocabulary."""
    return TEMPLATES["world" if vocab_size == 65536 else "raven"]
