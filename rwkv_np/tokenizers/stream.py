"""Turn a stream of bytes into text, character by character.

A token may end in the middle of a character (most Chinese characters and emoji have 3 or 4 bytes), so an
incomplete character is kept back until its last byte arrives. Characters that combine on the screen
(accents, emoji joined by ZWJ) count as complete characters here: a terminal joins them, whether they
arrive together or not.
"""

from __future__ import annotations

import codecs

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Push bytes, get the complete characters; together they are the same text as decoding all at once."""

    def __init__(self) -> None:
        # "replace", never "ignore": an invalid byte must be visible.
        self._decoder = _Utf8Decoder("replace")

    def push(self, data: bytes) -> str:
        """The characters that `data` completes; an incomplete UTF-8 sequence at its end is kept back."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The incomplete rest as U+FFFD; the stream is then reset."""
        return self._decoder.decode(b"", final=True)
