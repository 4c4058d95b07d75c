"""Function calls, for models that were not trained on one fixed format.

G1 models were trained on many formats of calls (RWKV7-G1x-templates.txt), Raven and World models on none. So there is
one format for all: the system text lists the functions, and a call is a JSON object with the function's name and its
arguments, and nothing else. If a call is required, the answer is constrained to that format, and the arguments to their
schema. Otherwise the model decides, and an answer counts as a call if it is such an object: how often that works
depends on the model. An answer has at most one call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rwkv_np.serve.bodies import CalledFunction, ChatRequest, FunctionSpec, NamedTool, ToolCall
from rwkv_np.serve.errors import wrong

_INTRODUCTION = (
    "You can call functions. To call one, answer with a JSON object of this form and nothing else: "
    '{"name":"NAME","arguments":{...}}\nFunctions:'
)


class ToolChoice:
    """Which functions one request offers. `is_required`: the answer must be a call of one of `functions`."""

    def __init__(self, body: ChatRequest) -> None:
        offered = [tool.function for tool in body.tools or ()]
        choice = body.tool_choice or ("auto" if offered else "none")
        if not offered and choice != "none" and body.tool_choice is not None:
            raise wrong("tool_choice", "tool_choice needs tools, but the request has none")
        self.is_required = choice == "required" or isinstance(choice, NamedTool)
        self.functions = [] if choice == "none" else _chosen(offered, choice)
        self.names = {each.name for each in self.functions}

    def __bool__(self) -> bool:
        return bool(self.functions)

    @property
    def system_text(self) -> str:
        """The instructions for the model."""
        lines = [json.dumps(_described(each), ensure_ascii=False) for each in self.functions]
        return "\n".join([_INTRODUCTION, *lines])

    @property
    def schemas(self) -> list[tuple[str, dict[str, Any]]]:
        """Each function's name, and the schema of its arguments."""
        return [(each.name, _parameters(each)) for each in self.functions]


def _chosen(offered: Sequence[FunctionSpec], choice: object) -> list[FunctionSpec]:
    if not isinstance(choice, NamedTool):
        return list(offered)
    found = [each for each in offered if each.name == choice.function.name]
    if not found:
        raise wrong("tool_choice", f"tool_choice names {choice.function.name}, which is not among the tools")
    return found[:1]


def _described(function: FunctionSpec) -> dict[str, Any]:
    about = {"description": function.description} if function.description else {}
    return {"name": function.name, **about, "parameters": _parameters(function)}


def _parameters(function: FunctionSpec) -> dict[str, Any]:
    return function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


def call_text(call: ToolCall) -> str:
    """A call, as the model would have written it."""
    return f'{{"name":{json.dumps(call.function.name)},"arguments":{call.function.arguments}}}'


def result_text(name: str | None, content: str) -> str:
    """The result of a function, as the model reads it."""
    return f"{name or 'The function'} returned: {content}"


class Calls:
    """Tells calls from text as it arrives: an answer that begins with a brace waits until its end."""

    def __init__(self, choice: ToolChoice) -> None:
        self._choice = choice
        self._waiting = ""
        self._is_text = False

    def push(self, text: str) -> str:
        """The part that is certainly text."""
        if self._is_text:
            return text
        self._waiting += text
        begin = self._waiting.lstrip()
        self._is_text = bool(begin) and not begin.startswith("{") and not self._choice.is_required
        return self._take() if self._is_text else ""

    def finish(self) -> tuple[str, CalledFunction | None]:
        """The rest of the text, or the call that it was."""
        if not self._is_text and (call := self._parsed()):
            return "", call
        return self._take(), None

    def _take(self) -> str:
        text, self._waiting = self._waiting, ""
        return text

    def _parsed(self) -> CalledFunction | None:
        try:
            found = json.loads(self._waiting)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or set(found) != {"name", "arguments"}:
            return None
        if found["name"] not in self._choice.names or not isinstance(found["arguments"], dict):
            return None
        return CalledFunction(found["name"], json.dumps(found["arguments"], ensure_ascii=False, separators=(",", ":")))
