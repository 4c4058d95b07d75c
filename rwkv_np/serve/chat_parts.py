"""Split the text of one chat answer as it arrives: into thinking, answer, and function call."""

from __future__ import annotations

from collections.abc import Iterable

from rwkv_np.chat.thinking import Thoughts
from rwkv_np.serve.bodies import CalledFunction
from rwkv_np.serve.prompt import Prompt
from rwkv_np.serve.tools import Calls, ToolChoice


class ChatParts:
    """Push text, get the (thinking, answer) that is certain. After `finish`, `call` is set if it was a call."""

    def __init__(self, prompt: Prompt, begun: str, tools: ToolChoice) -> None:
        self.call: CalledFunction | None = None
        self._calls = Calls(tools) if tools else None
        self._thoughts = Thoughts() if prompt.lead is not None else None
        self._known = ""
        if self._thoughts is not None:
            for _ in self._thoughts.push(begun if prompt.begun else prompt.lead or ""):
                pass
            self._known = self._thoughts.waiting
        self._is_at_start = not prompt.begun

    def push(self, text: str) -> tuple[str, str]:
        """The next piece of the text."""
        if self._thoughts is None:
            return "", self._answer(text)
        return self._split(self._thoughts.push(text))

    def finish(self) -> tuple[str, str]:
        """The rest."""
        thought, answer = self._split(self._thoughts.flush()) if self._thoughts is not None else ("", "")
        if self._calls is not None:
            rest, self.call = self._calls.finish()
            answer += rest
        return thought, answer

    def _split(self, parts: Iterable[tuple[bool, str]]) -> tuple[str, str]:
        thought = answer = ""
        for is_thought, text in parts:
            text, self._known = text.removeprefix(self._known), ""
            if is_thought:
                thought += text
            else:
                answer += self._answer(text)
        return thought, answer

    def _answer(self, text: str) -> str:
        """Text of the answer, without the leading space of its first token."""
        if self._is_at_start:
            text = text.lstrip()
            self._is_at_start = not text
        return self._calls.push(text) if self._calls is not None else text
