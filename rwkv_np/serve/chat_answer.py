"""The answer to a chat request: from the engine's events to OpenAI's objects, as chunks and as a whole.

A whole answer is the sum of its chunks, so the two cannot differ.
"""

from __future__ import annotations

from msgspec import UNSET

from rwkv_np.serve.answer_text import Priced
from rwkv_np.serve.asked import Label
from rwkv_np.serve.bodies import ToolCall
from rwkv_np.serve.chat_parts import ChatParts
from rwkv_np.serve.chat_plan import ChatPlan
from rwkv_np.serve.events import Read, Written
from rwkv_np.serve.objects import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    Delta,
    Finish,
    TokenLogprob,
    Usage,
)


class ChatAnswer:
    """One answer as it arrives: events in, chunks of the message out."""

    def __init__(self, plan: ChatPlan, label: Label) -> None:
        self._plan, self._label = plan, label
        self._parts = ChatParts(plan.prompt, plan.begun, plan.tools)
        self._priced: list[Priced] = []
        self.finish: Finish | None = None

    def take(self, event: Written) -> list[tuple[Delta, ChatLogprobs | None]]:
        """The chunks for an event; the last chunk has no text, and then `finish` is set."""
        self._priced += event.priced
        thought, text = self._parts.push(event.text)
        if event.reason is not None:
            rest = self._parts.finish()
            thought, text = thought + rest[0], text + rest[1]
        deltas = []
        if thought:
            deltas.append(Delta(reasoning_content=thought))
        if text:
            deltas.append(Delta(content=text))
        if event.reason is not None:
            deltas += self._end(event.answer, event.reason)
        return [(delta, self._logprobs() if i == 0 else None) for i, delta in enumerate(deltas)]

    def _end(self, index: int, reason: str) -> list[Delta]:
        self.finish = "length" if reason == "length" else "stop"
        if (call := self._parts.call) is None:
            return [Delta()]
        self.finish = "tool_calls"
        name = f"call_{self._label.name}_{index}"
        return [Delta(tool_calls=[ToolCall(call, name, index=0)]), Delta()]

    def _logprobs(self) -> ChatLogprobs | None:
        if not self._plan.body.logprobs:
            return None
        priced, self._priced = self._priced, []
        return ChatLogprobs(self._plan.service.names.chat(priced))


class WholeChat:
    """All answers of a request, as they arrive."""

    def __init__(self, plan: ChatPlan, label: Label) -> None:
        self._plan, self._label = plan, label
        self._answers = [ChatAnswer(plan, label) for _ in range(plan.n)]
        self._pieces: list[list[tuple[Delta, ChatLogprobs | None]]] = [[] for _ in self._answers]

    def take(self, event: Read | Written) -> None:
        """An event of the engine."""
        if isinstance(event, Written):
            self._pieces[event.answer] += self._answers[event.answer].take(event)

    def made(self, usage: Usage) -> ChatCompletion:
        """The object, after the last event."""
        service = self._plan.service
        choices = [_joined(self._plan, i, *each) for i, each in enumerate(zip(self._answers, self._pieces))]
        return ChatCompletion(
            id=chat_id(self._label), created=self._label.created, model=service.name,
            system_fingerprint=service.fingerprint, choices=choices, usage=usage,
        )  # fmt: skip


def _joined(
    plan: ChatPlan, index: int, answer: ChatAnswer, pieces: list[tuple[Delta, ChatLogprobs | None]]
) -> ChatChoice:
    text = "".join(delta.content for delta, _ in pieces if delta.content is not UNSET)
    thought = "".join(delta.reasoning_content for delta, _ in pieces if delta.reasoning_content is not UNSET)
    calls = [call for delta, _ in pieces if delta.tool_calls is not UNSET for call in delta.tool_calls]
    message = ChatMessage(
        content=None if calls and not text else text,
        reasoning_content=thought or UNSET,
        tool_calls=[ToolCall(call.function, call.id) for call in calls] or UNSET,
    )
    found: list[TokenLogprob] = [each for _, logprobs in pieces if logprobs for each in logprobs.content]
    assert answer.finish is not None
    return ChatChoice(index, message, ChatLogprobs(found) if plan.body.logprobs else None, answer.finish)


def chat_id(label: Label) -> str:
    """The object's `id`."""
    return f"chatcmpl-{label.name}"
