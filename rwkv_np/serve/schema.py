"""Answers as JSON with a required schema: the package llguidance (an extra) says which tokens may come next.

llguidance turns a schema into a grammar of bytes, and says for each token whether its bytes may follow. It gets the
bytes of our tokens, so it works with all our tokenizers. Only building a grammar is slow, not a token: 4 ms for a
schema, some microseconds for a mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rwkv_np.errors import MissingPackageError, as_line
from rwkv_np.serve import bounds
from rwkv_np.serve.decoding import is_deep
from rwkv_np.serve.errors import wrong
from rwkv_np.tokenizers import Tokenizer

if TYPE_CHECKING:
    import llguidance

_PLAIN = '" "?'  # most models start an answer with a space
# The text before the JSON, if the prompt already has the start of the answer (`Template.lead`).
_PREFIXES = {
    " <think": '">" thought /[ \\n]{0,2}/',
    " <think>\n</think": '">" /[ \\n]{0,2}/',
}
_THOUGHT = "thought[lazy]: /(.|\\n)*<\\/think>/\n"


class JsonGuide:
    """Which tokens may come next in one answer.

    param    the request's field that it comes from
    problem  why it cannot continue, if so: no text fits, or the grammar is too complex for a step's limits
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, end: int, param: str) -> None:
        self._matcher, self._vocab_size, self._end, self.param = matcher, vocab_size, end, param
        self._bits = np.zeros((1, (vocab_size + 31) // 32), np.int32)
        self.problem = ""

    def allowed(self) -> np.ndarray:
        from llguidance.numpy import fill_next_token_bitmask

        if not self.problem:
            fill_next_token_bitmask(self._matcher, self._bits)
            self._look()
        if self.problem:  # end now; the listener reports it
            return np.arange(self._vocab_size) == self._end
        return np.unpackbits(self._bits.view(np.uint8)[0], count=self._vocab_size, bitorder="little").astype(bool)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._look()

    def _look(self) -> None:
        if self._matcher.is_error():
            self.problem = f"{self.param} cannot be followed any further: {_said(self._matcher)}"


def _said(matcher: llguidance.LLMatcher) -> str:
    """The error message, without the parser state that llguidance adds."""
    said = matcher.get_error().split("<state>")[0]
    return "no text fits it" if said.startswith("NoExtension") else as_line(said)


class Grammars:
    """Makes guides for one tokenizer. llguidance is imported, and gets the tokens, when the first guide is requested.

    end  the token id that ends an answer
    """

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end

    def guides(self, grammar: str, n: int, param: str) -> list[JsonGuide]:
        """`n` guides for a grammar in llguidance's syntax. Raises ApiError: it is invalid; MissingPackageError."""
        tokens = self._tokens
        import llguidance

        first = llguidance.LLMatcher(tokens, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0)
        if first.is_error():
            raise wrong(param, f"{param} cannot be used: {_said(first)}", "invalid_schema")
        copies = [first, *(first.deep_copy() for _ in range(n - 1))]
        return [JsonGuide(each, self._tokenizer.vocab_size, self._end, param) for each in copies]

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        try:
            import llguidance
        except ImportError as error:
            raise MissingPackageError(
                "answers with a required format need the package llguidance: pip install 'rwkv-np[server]'"
            ) from error
        size = self._tokenizer.vocab_size
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self._tokenizer, self._end)), n_vocab=size)


class _Tokens:
    """Our tokenizer, with llguidance's interface."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id, self.special_token_ids = end, [end]
        # An id without bytes may never be chosen: 0xFF does not occur in UTF-8, and marks a special token in
        # llguidance.
        self.tokens = [tokenizer.token_bytes(i) or b"\xff<%d>" % i for i in range(tokenizer.vocab_size)]
        self.tokens[end] = b"\xff<end>"
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))


def json_grammar(schema: dict[str, Any], lead: str | None) -> str:
    """The grammar of an answer that fits `schema`, after the start of it (`lead`) in the prompt."""
    return f"{_start(lead)} answer\nanswer: %json {_checked(schema, 'response_format')}\n"


def call_grammar(functions: Sequence[tuple[str, dict[str, Any]]], lead: str | None) -> str:
    """The grammar of a call of one of these functions: (name, schema of the arguments)."""
    calls = [
        f"call_{i}: {json.dumps(_beginning(name))} args_{i} {json.dumps('}')}\n"
        f"args_{i}: %json {_checked(schema, 'tools')}\n"
        for i, (name, schema) in enumerate(functions)
    ]
    names = " | ".join(f"call_{i}" for i in range(len(calls)))
    return f"{_start(lead)} ({names})\n" + "".join(calls)


def _start(lead: str | None) -> str:
    prefix = _PREFIXES.get(lead or "", _PLAIN)
    return f"{_THOUGHT if 'thought' in prefix else ''}start: {prefix}"


def _beginning(name: str) -> str:
    return f'{{"name":{json.dumps(name)},"arguments":'


def _checked(schema: dict[str, Any], param: str) -> str:
    """The schema as text. Raises ApiError if it is too deep or too long."""
    if is_deep(schema, bounds.SCHEMA_DEPTH):
        raise wrong(param, f"the schema is nested more than {bounds.SCHEMA_DEPTH} levels deep", "schema_too_deep")
    own = {"whitespace_flexible": False}  # a small model can write spaces for ever
    text = msgspec.json.encode({**schema, "x-guidance": own}).decode()
    if len(text) > bounds.SCHEMA_BYTES:
        raise wrong(param, f"the schema has {len(text)} characters; expected at most {bounds.SCHEMA_BYTES}")
    return text
