"""What happens to the answers of one prompt, as events with text: from the engine's tokens to whoever waits for them.

The server sends events to its event loop (`mailbox.py`), a batch job collects them (`rwkv_np/batch/collecting.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rwkv_np.serve.answer_text import AnswerText, Priced
from rwkv_np.serve.errors import wrong
from rwkv_np.serve.request import Logprob
from rwkv_np.serve.schema import JsonGuide


class Read(NamedTuple):
    """A prompt has been read; `first` is the index of its first answer."""

    first: int
    n_cached: int
    logprobs: Sequence[Logprob] | None


class Written(NamedTuple):
    """Answer number `answer` continues with `text`. If it ends here, `reason` says why, and after how many tokens."""

    answer: int
    text: str
    priced: Sequence[Priced]
    reason: str | None = None
    n_tokens: int = 0


class Failed(NamedTuple):
    """There are no more answers."""

    error: Exception


EngineEvent = Read | Written | Failed


class AnswerListener:
    """Receives the engine's results for one prompt, and posts them as events. Runs in the engine's thread.

    first  the index of the prompt's first answer in its request
    """

    def __init__(
        self, post: Callable[[EngineEvent], None], first: int, texts: Sequence[AnswerText], guides: Sequence[JsonGuide]
    ) -> None:
        self._post, self._first, self._texts, self._guides = post, first, texts, guides

    def prompt_read(self, n_cached: int, logprobs: Sequence[Logprob] | None) -> None:
        self._post(Read(self._first, n_cached, logprobs))

    def take(self, index: int, token: int, logprob: Logprob | None) -> str | None:
        text = self._texts[index]
        piece = text.push(token, logprob)
        if piece:
            self._post(Written(self._first + index, piece, text.take_priced()))
        return "stop" if text.stopped else None

    def end(self, index: int, reason: str) -> None:
        text = self._texts[index]
        if self._guides and (problem := self._guides[index].problem):
            self.fail(wrong(self._guides[index].param, problem, "invalid_schema"))
            return
        rest = text.finish()
        self._post(Written(self._first + index, rest, text.take_priced(), reason, text.n_tokens))

    def fail(self, error: Exception) -> None:
        self._post(Failed(error))
