"""A validated chat request: its prompt and how it is answered, and the errors of an invalid one."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from rwkv_np.serve.answer_text import AnswerText, Pieces
from rwkv_np.serve.asked import Asked, deadline
from rwkv_np.serve.bodies import ChatRequest
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.keys import Owner
from rwkv_np.serve.prompt import Prompt, text_of
from rwkv_np.serve.request import Request
from rwkv_np.serve.schema import JsonGuide, call_grammar, json_grammar
from rwkv_np.serve.served import ServedModel
from rwkv_np.serve.settings import sampling, stops
from rwkv_np.serve.tools import ToolChoice
from rwkv_np.stop_strings import StopStrings

_EFFORTS = {"none": "off", "minimal": "off", "low": "short", "medium": "on", "high": "on", "xhigh": "on"}


class ChatPlan:
    """A request that was validated, except for its prompt. Raises ApiError."""

    def __init__(self, service: ServedModel, body: ChatRequest) -> None:
        self.service, self.body = service, body
        self.tools = ToolChoice(body)
        self.n = body.n or 1
        if self.n > service.bounds.answers:
            raise wrong("n", f"n is {self.n}; expected at most {service.bounds.answers}")
        if body.store:
            raise wrong("store", "this server does not store answers; omit store", "unsupported_field")
        if body.top_logprobs is not None and not body.logprobs:
            raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
        self.think = self._think()
        self.max_tokens = self._max_tokens()
        self.format = body.response_format if body.response_format and body.response_format.type != "text" else None
        if self.format and self.format.type == "json_schema" and not self.format.json_schema:
            raise wrong("response_format.json_schema", "response_format.json_schema is missing")
        self.is_guided = bool(self.format or self.tools.is_required)
        if self.is_guided and body.continue_final_message:
            raise wrong("continue_final_message", "an answer with a required format cannot continue a message")
        if self.is_guided and body.ignore_eos:
            raise wrong("ignore_eos", "an answer with a required format ends by itself; omit ignore_eos")

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt; the first use encodes it. Raises ApiError."""
        goes_on = bool(self.body.continue_final_message)
        return self.service.prompts.of(self.body.messages, self.think, self.tools, goes_on=goes_on)

    def asked(self, owner: Owner) -> Asked:
        """The work for the engine; this encodes the prompt, and compiles the grammar. Raises ApiError."""
        service, body = self.service, self.body
        guides = self._guides()
        template = service.prompts.template
        ends_early = template.stop and not (body.continue_final_message or guides)
        params = sampling(body, service.vocab_size, service.prompts.endings if ends_early else frozenset())
        pieces = Pieces(service.tokenizer.token_bytes, StopStrings((*stops(body), *template.stop)))
        is_priced = bool(body.logprobs)
        request = Request(
            self.prompt.ids, params, self.max_tokens, self.n,
            top=(body.top_logprobs or 0) if is_priced else None, marks=self.prompt.marks,
            owner=owner.name, salt=owner.salt, deadline=deadline(service.bounds), guides=guides,
        )  # fmt: skip
        return Asked(request, [AnswerText(pieces, is_priced=is_priced) for _ in range(self.n)], guides)

    @property
    def begun(self) -> str:
        """The start of an answer that is continued, as the model reads it."""
        if not self.prompt.begun:
            return ""
        message = self.body.messages[-1]
        thought = message.reasoning_content
        text = text_of(message, 0)
        return text if thought is None else f"<think>{thought}" + (f"</think>{text}" if text else "")

    def _think(self) -> str:
        body, service = self.body, self.service
        asked = body.think or (_EFFORTS[body.reasoning_effort] if body.reasoning_effort else None)
        if replace(service.prompts.template, think="auto").lead is None:
            if asked not in (None, "auto", "off"):
                param = "think" if body.think else "reasoning_effort"
                raise wrong(param, f"{service.name} was not trained to think; omit {param}", "unsupported_value")
            return "auto"
        return asked or service.think

    def _max_tokens(self) -> int:
        body, bounds = self.body, self.service.bounds
        name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
        given = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        if given is None:
            return bounds.default_tokens
        if not 1 <= given <= bounds.max_tokens:
            raise wrong(name, f"{name} is {given}; expected 1 to {bounds.max_tokens}")
        return given

    def _guides(self) -> list[JsonGuide]:
        if not self.is_guided:
            return []
        lead = self.prompt.lead
        if self.tools.is_required:
            return self.service.grammars.guides(call_grammar(self.tools.schemas, lead), self.n, "tools")
        named = self.format and (self.format.json_schema or self.format)
        schema = (named.schema if named else None) or {"type": "object"}
        return self.service.grammars.guides(json_grammar(schema, lead), self.n, "response_format")
