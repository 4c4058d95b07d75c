"""Text out of a stream of bytes, character by character.

A token may end in the middle of a character (most Chinese characters and emoji are 3 or 4
bytes), so what cannot be shown yet is kept back until its last byte comes. Characters that
combine on the screen (accents, emoji joined by ZWJ) are whole characters here: a terminal
joins them whether they come together or not.
"""

from __future__ import annotations

import codecs

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Push bytes, get the characters that are complete; the same text as decoding all at once."""

    def __init__(self) -> None:
        # "replace", never "ignore": an invalid byte must be visible.
        self._decoder = _Utf8Decoder("replace")

    def push(self, data: bytes) -> str:
        """The characters that `data` completes; an incomplete UTF-8 sequence at its end is kept back."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The incomplete rest as U+FFFD; the stream is then reset."""
        return self._decoder.decode(b"", final=True)
