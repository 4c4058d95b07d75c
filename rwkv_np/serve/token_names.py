"""The names of tokens in lists of probabilities, in both of OpenAI's formats.

Many Chinese tokens are part of a character: as text, all of them are U+FFFD. In the older format, where names are keys,
such a token is named by its bytes, as OpenAI does: "bytes:\\xe4\\xbd".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rwkv_np.serve.answer_text import Priced
from rwkv_np.serve.objects import TextLogprobs, TokenLogprob, TopLogprob
from rwkv_np.serve.request import Logprob
from rwkv_np.serve.settings import END

END_NAME = "<|endoftext|>"
_LOWEST = -9999.0  # JSON has no infinity; OpenAI's number for an impossible token


class TokenNames:
    """Names of one tokenizer's tokens; `token_bytes` gives the bytes of an id."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes

    def chat(self, priced: Sequence[Priced]) -> list[TokenLogprob]:
        """The format of chat answers."""
        return [
            TokenLogprob(*self._described(p.token, p.logprob), [TopLogprob(*self._described(*each)) for each in p.top])
            for p, _ in priced
        ]

    def text(self, priced: Sequence[Priced], top: int) -> TextLogprobs:
        """The format of completions: each token with its `top` most likely tokens, and itself."""
        prices = [each.logprob for each in priced]
        return TextLogprobs(
            [self.key(each.token) for each in prices],
            [_finite(each.logprob) for each in prices],
            [self._mapping(each) for each in prices] if top else None,
            [each.offset for each in priced],
        )

    def key(self, token: int) -> str:
        """Its text if that is whole characters, otherwise its bytes, or its id if it has no bytes."""
        data = self._token_bytes(token)
        if not data:
            return END_NAME if token == END else f"token_id:{token}"
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{value:02x}" for value in data)

    def _described(self, token: int, logprob: float) -> tuple[str, float, list[int] | None]:
        data = self._token_bytes(token)
        text = data.decode("utf-8", "replace") if data else self.key(token)
        return text, _finite(logprob), list(data) or None

    def _mapping(self, price: Logprob) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, logprob in (*price.top, (price.token, price.logprob)):
            name = self.key(token)
            if name in found and found[name] != _finite(logprob):  # two ids have the same bytes
                name = f"token_id:{token}"
            found[name] = _finite(logprob)
        return found


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
