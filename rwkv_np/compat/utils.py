"""`PIPELINE` and `PIPELINE_ARGS` of the official package (rwkv.utils): text, sampling, generation.

The module has the original's name, since scripts import that name. The results match the original on a CPU token by
token: which tokens are banned and penalized; spaces and digits have the presence penalty but are not counted; when a
character is complete. Differences: top_p=1 keeps every token, while the original's float32 sum may stay below 1, and
then it takes the most likely token; and cl100k_base is not supported.

Source: the `rwkv` package 0.8, utils.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rwkv_np import arguments
from rwkv_np.compat import choosing
from rwkv_np.compat.rwkv_tokenizer import TRIE_TOKENIZER, WORLD
from rwkv_np.errors import InputError
from rwkv_np.tokenizers.bpe import BpeTokenizer
from rwkv_np.tokenizers.hub import fetch_20b

_20B = "20B_tokenizer.json"
_UNCOUNTED = " \t0123456789"


class PIPELINE_ARGS:
    """How to choose tokens.

    temperature, top_p, top_k  as in `PIPELINE.sample_logits`
    alpha_presence   subtracted from the logit of every token that was chosen
    alpha_frequency  subtracted once for each time that the token was chosen
    alpha_decay      factor applied to these counts after each further token
    token_ban        ids that are never chosen
    token_stop       ids that end the text
    chunk_len        tokens of a prompt read at once; results do not depend on it
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_p: float = 0.85,
        top_k: int = 0,
        alpha_frequency: float = 0.2,
        alpha_presence: float = 0.2,
        alpha_decay: float = 0.996,
        token_ban: Sequence[int] | None = None,
        token_stop: Sequence[int] | None = None,
        chunk_len: int = 256,
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.alpha_frequency = alpha_frequency
        self.alpha_presence = alpha_presence
        self.alpha_decay = alpha_decay
        self.token_ban = [] if token_ban is None else token_ban
        self.token_stop = [] if token_stop is None else token_stop
        self.chunk_len = chunk_len


class _Occurrence:
    """How often each token was chosen; in arrays, since all counts decay at once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids, self._counts = np.empty(64, np.int64), np.empty(64)

    def penalize(self, logits: np.ndarray, presence: float, frequency: float) -> None:
        n = len(self._places)
        logits[self._ids[:n]] -= (presence + self._counts[:n] * frequency).astype(np.float32)

    def add(self, token: int, weight: int, decay: float) -> None:
        n = len(self._places)
        self._counts[:n] *= decay
        place = self._places.setdefault(token, n)
        if place == n:
            if n == self._ids.size:
                self._ids, self._counts = (np.concatenate([a, np.empty_like(a)]) for a in (self._ids, self._counts))
            self._ids[n], self._counts[n] = token, 0
        self._counts[place] += weight


class PIPELINE:
    """A model with its tokenizer.

    model      an `RWKV`
    WORD_NAME  "rwkv_vocab_v20230424", or the path of a tokenizer.json. 20B_tokenizer.json is also found next to the
               model or in the Hugging Face cache, or downloaded once
    tokenizer  TRIE_TOKENIZER, or the `tokenizers` library's Tokenizer
    Raises     TokenizerError, InputError
    """

    def __init__(self, model: Any, WORD_NAME: str) -> None:
        self.model = model
        self.tokenizer: Any = TRIE_TOKENIZER() if WORD_NAME == WORLD else self._read(WORD_NAME)

    def _read(self, name: str) -> Any:
        path = arguments.path("WORD_NAME", name)
        if path == "cl100k_base":
            raise InputError(f"WORD_NAME is cl100k_base; expected {WORLD} or the path of a tokenizer.json")
        if os.path.basename(path) == _20B and not os.path.exists(path):
            model_path = getattr(getattr(self.model, "args", None), "MODEL_NAME", "")
            beside = os.path.join(os.path.dirname(model_path), _20B)
            path = beside if os.path.exists(beside) else fetch_20b()
        return BpeTokenizer(path).library

    def refine_context(self, context: str) -> str:
        """The text without empty lines and without spaces around its lines, after a leading line break."""
        lines = (line.strip().strip("\u3000").strip("\r") for line in context.strip().split("\n"))
        return "\n" + "\n".join(line for line in lines if line).strip()

    def encode(self, x: str) -> list[int]:
        """The ids of a text."""
        found = self.tokenizer.encode(x)
        return found.ids if hasattr(found, "ids") else found

    def decode(self, x: Sequence[int]) -> str:
        """The text of ids; U+FFFD where a character is not complete."""
        return self.tokenizer.decode(x)

    def sample_logits(self, logits: object, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0) -> int:
        """A token: top-p and top-k cut, then the temperature is applied; temperature 0 or top_p 0 takes the most
        likely.

        Random numbers come from `numpy.random`. Raises InputError (a ValueError) if no logit is finite
        """
        if temperature == 0:
            temperature, top_p = 1.0, 0.0
        return choosing.choose(logits, temperature, top_p, top_k)

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], object] | None = None,
        state: Any = None,
    ) -> str:
        """Continue `ctx` by up to `token_count` tokens, and return the new text.

        callback  called with each piece of whole characters
        state     the state before `ctx`; a list is changed, as by `forward`
        Raises    InputError: ctx is empty
        """
        args = PIPELINE_ARGS() if args is None else args
        arguments.whole_number("chunk_len", args.chunk_len, 1)
        occurrence, text = _Occurrence(), ""
        tokens, pending = self.encode(ctx), []
        if not tokens:
            raise InputError("ctx is empty; expected a text of at least one token")
        for _ in range(token_count):
            out, state = self._read_tokens(tokens, state, args.chunk_len)
            out[list(args.token_ban)] = -np.inf
            occurrence.penalize(out, args.alpha_presence, args.alpha_frequency)
            token = self.sample_logits(out, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k)
            if token in args.token_stop:
                break
            occurrence.add(token, 0 if self.decode([token]) in _UNCOUNTED else 1, args.alpha_decay)
            tokens = [token]
            pending.append(token)
            if "\ufffd" not in (piece := self.decode(pending)):
                if callback:
                    callback(piece)
                text += piece
                pending = []
        return text

    def _read_tokens(self, tokens: list[int], state: Any, chunk_len: int) -> tuple[np.ndarray, Any]:
        for start in range(0, len(tokens), chunk_len):
            out, state = self.model.forward(tokens[start : start + chunk_len], state)
        return out, state
