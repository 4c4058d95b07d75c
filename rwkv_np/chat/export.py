"""A conversation as Markdown, for people to read. (saved.py writes files that the chat can load.)"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.turn import Turn

_FENCE = re.compile(r"^ *(`{3,}|~{3,})", re.MULTILINE)


def as_markdown(conversation: Conversation, model: str) -> str:
    """The turns of the current branch, after a heading with the model's name."""
    c = conversation
    parts = [f"# {model}"]
    for turn in c.turns:
        parts += [f"**{c.template.user}:**", turn.message.strip(), f"**{c.template.bot}:**", *_answer(turn)]
    return "\n\n".join(parts) + "\n"


def _answer(turn: Turn) -> Iterator[str]:
    if thought := (turn.thought or "").strip():
        yield f"<details><summary>Thinking</summary>\n\n{_closed(thought)}\n\n</details>"
    yield _closed(turn.answer.strip())


def _closed(text: str) -> str:
    """`text`, with the closing fence of its last block of code if the answer stopped inside it."""
    opened = ""
    for found in _FENCE.finditer(text):
        opened = "" if opened and found[1].startswith(opened) else opened or found[1]
    return f"{text}\n{opened}" if opened else text
