"""Turn an answer's tokens into text: in whole characters, and without the stop string that ends it.

This runs in the engine's thread and delays every answer, so the common case (a token of whole characters in which no
stop string begins) is one table lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rwkv_np.serve.request import Logprob
from rwkv_np.stop_strings import StopStrings, n_unfinished
from rwkv_np.tokenizers import TextStream

TokenBytes = Callable[[int], bytes]
_FOLLOWING = bytes(range(0x80, 0xC0))  # continuation bytes of a character


class Priced(NamedTuple):
    """A token with its log probability, and the number of characters before it in the text."""

    logprob: Logprob
    offset: int


class _Piece(NamedTuple):
    data: bytes
    text: str
    is_plain: bool


class Pieces:
    """Facts about each token, computed once. Shared by the answers of a request."""

    def __init__(self, token_bytes: TokenBytes, stops: StopStrings) -> None:
        self.stops = stops
        self._token_bytes = token_bytes
        self._found: dict[int, _Piece] = {}

    def __getitem__(self, token: int) -> _Piece:
        found = self._found.get(token)
        if found is None:
            data = self._token_bytes(token)
            is_plain = not n_unfinished(data) and not self.stops.may_begin_in(data)
            found = self._found[token] = _Piece(data, data.decode("utf-8", "replace"), is_plain and _is_utf8(data))
        return found


class AnswerText:
    """One answer. `stopped` says whether a stop string has ended it.

    n_tokens  the number of its tokens, including those of the stop string
    priced    tokens with log probabilities whose text was released since the last call of `take_priced`
    """

    def __init__(self, pieces: Pieces, *, is_priced: bool = False, n_before: int = 0) -> None:
        self._pieces, self._stream = pieces, TextStream()
        self._pending = b""  # the bytes that may still become a stop string
        self._is_whole, self._tail = True, b""  # whether the released text ends with a whole character
        self._is_priced, self._waiting, self._ready = is_priced, list[tuple[int, Priced]](), list[Priced]()
        self._n_bytes, self._n_characters = 0, n_before
        self.n_tokens = 0
        self.stopped = False

    def push(self, token: int, logprob: Logprob | None = None) -> str:
        """The text that can be released after this token."""
        piece = self._pieces[token]
        self.n_tokens += 1
        if logprob is not None and self._is_priced:
            self._price(piece.data, logprob)
        if piece.is_plain and self._is_whole and not self._pending:
            self._release(len(piece.data))
            return piece.text
        return self._push(piece.data)

    def finish(self) -> str:
        """The text that was held back, at the end of the answer; without any part of a stop string."""
        rest, self._pending = (b"" if self.stopped else self._pending), b""
        if not self.stopped:
            self._ready += [priced for _, priced in self._waiting]
        self._waiting.clear()
        return self._stream.push(rest) + self._stream.flush()

    def take_priced(self) -> list[Priced]:
        """The tokens whose text was released since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _push(self, data: bytes) -> str:
        data = self._pending + data
        stop = self._pieces.stops.find(data)
        self.stopped = stop >= 0
        end = stop if self.stopped else len(data) - self._pieces.stops.n_withheld(data)
        self._pending = data[end:]
        self._release(end)
        self._tail = ((b"" if self._is_whole else self._tail) + data[:end])[-3:]
        self._is_whole = not n_unfinished(self._tail)
        return self._stream.push(data[:end])

    def _price(self, data: bytes, logprob: Logprob) -> None:
        begin = self._n_bytes + len(self._pending)
        self._waiting.append((begin, Priced(logprob, self._n_characters)))
        self._n_characters += len(data.translate(None, _FOLLOWING))

    def _release(self, n: int) -> None:
        """Release `n` more bytes, and move the tokens that begin in them to `priced`."""
        self._n_bytes += n
        if not self._waiting:
            return
        at = next((i for i, (begin, _) in enumerate(self._waiting) if begin >= self._n_bytes), len(self._waiting))
        self._ready += [priced for _, priced in self._waiting[:at]]
        del self._waiting[:at]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
