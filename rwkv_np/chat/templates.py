"""The chat templates: the prompt format of each family of chat models.

A turn is written exactly as in the training text, including spaces: no space follows the final "Alice:", because the
model's own first token contains it. In a dialogue a blank line ends a turn, so the blank lines of a message are removed
before it is sent. An answer to an instruction may contain blank lines, and ends where the next block of the format
would begin. G1 models write paragraphs too: their answers end where they would start the user's next turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEPARATOR = "\n\n"
NAME_LIMIT = 200  # characters of a speaker's name, which each prompt repeats: of 100,000, a turn took 28 MB

_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """A prompt format, with the names of user and model.

    is_dialogue  whether the model was trained on more than one round of it
    think        "on", "off" or "short" for a model that can think; "auto" lets the model decide
    """

    name: str
    user: str
    bot: str
    is_dialogue: bool = True
    think: str = "auto"

    def turn(self, message: str) -> str:
        """The text of one turn, up to where the answer begins."""
        return f"{self.user}: {closed_up(message)}{SEPARATOR}{self.bot}:"

    def prompt(self, message: str) -> str:
        """The prompt for an answer: the turn, and the beginning of the answer if that is given."""
        return self.turn(message)

    @property
    def to_answer(self) -> str:
        """The end of a turn, where the answer begins: also for an answer without a message before it."""
        return f"{self.bot}:"

    def answered(self, text: str) -> str:
        """An answer as it follows its turn."""
        return f" {text}"

    @property
    def separator(self) -> str:
        """What is between an answer, or a text that introduces the conversation, and the next turn."""
        return SEPARATOR

    @property
    def begin(self) -> str:
        """What a conversation without an introduction begins with."""
        return ""

    @property
    def lead(self) -> str | None:
        """The start of the answer that is in the prompt; None if the model does not support thinking."""
        return None

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end an answer: a blank line, or a name with which the model would start the next turn."""
        # Models also write the Chinese and Japanese colon.
        return (SEPARATOR, *(f"\n{name}{colon}" for name in (self.user, self.bot) for colon in ":："))

    @property
    def has_openings(self) -> bool:
        """Whether the program has opening dialogues for it."""
        return self.is_dialogue

    @property
    def has_system(self) -> bool:
        """Whether a text may introduce a conversation."""
        return self.is_dialogue

    def introduce(self, text: str) -> str:
        """`text`, an introduction to the conversation, in the format of the model's training."""
        return tidy(text)


class G1(Template):
    """The format of RWKV-7 G1: as World, with thinking and blank lines in answers, and a labelled system text.

    With "auto" a prompt ends as a World model expects it too: that is why it is the default, since a
    file may not say which of the two it is, and a World model was not trained to think.
    Source: RWKV-v7/RWKV7-G1x-templates.txt of BlinkDL/RWKV-LM.
    """

    def prompt(self, message: str) -> str:
        if self.think == "short":
            message = f"{closed_up(message)} (think a bit)"
        return self.turn(message) + self.lead

    @property
    def lead(self) -> str:
        return {"on": " <think", "short": " <think", "off": " <think>\n</think"}.get(self.think, "")

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(f"{SEPARATOR}{self.user}{colon}" for colon in ":：")

    @property
    def has_openings(self) -> bool:
        # They were trained to chat without an example, and would copy its short answers.
        return False

    def introduce(self, text: str) -> str:
        label = "System:"
        return f"{label} {closed_up(text.strip().removeprefix(label))}"


class Instruction(Template):
    """A format with headings; the text after a blank line in the message is the instruction's input."""

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
    """Text to be continued: no turns, and only the end of text ends it."""

    def turn(self, message: str) -> str:
        # In training, a text begins after a line break more often than as the very first token.
        return "\n" + tidy(message)

    @property
    def stop(self) -> tuple[str, ...]:
        return ()


def tidy(message: str) -> str:
    """`message` with Unix line endings and without spaces around it."""
    return re.sub(r"\n[^\S\n]*(?=\n)", "\n", message.replace("\r\n", "\n").replace("\r", "\n")).strip()


def closed_up(message: str) -> str:
    """`message` without blank lines: they would end the turn."""
    return re.sub(r"\n\n+", "\n", tidy(message))


TEMPLATES = {
    template.name: template
    for template in (
        Template("raven", "Bob", "Alice"),  # these names work better than User and Assistant
        Template("world", "User", "Assistant"),
        G1("g1", "User", "Assistant"),
        Template("qa", "Q", "A", is_dialogue=False),
        Instruction("instruction", "Instruction", "Response", is_dialogue=False),
    )
}
FREE = Free("free", "", "", is_dialogue=False)


def template_for(vocab_size: int, architecture: str, file_name: str = "") -> Template:
    """The template for models with that vocabulary and architecture ("v4" to "v7").

    World and G1 models of RWKV-7 have the same tensors, so only the file name distinguishes
    them: published ones are RWKV-x070-World-... and rwkv7-g1.... Any other name is treated as
    G1. Both read the same turn; but at the first blank line, where a World answer ends, a G1 answer has
    often only started, so this mistake costs less than the other.

    Other vocabularies are Raven's or those of base models (Pile, of RWKV-4 and RWKV-7), which continue any dialogue
    that an opening has started.
    """
    if vocab_size != 65536:
        return TEMPLATES["raven"]
    return TEMPLATES["g1" if architecture == "v7" and not _is_world(file_name) else "world"]


def _is_world(file_name: str) -> bool:
    name = file_name.lower()
    return "world" in name and not re.search(r"(?<![a-z0-9])g[0-9]", name)
