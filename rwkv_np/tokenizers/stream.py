"""Text out of a stream of bytes, character by character.

A token may end in the middle of a character (most Chinese characters and emoji are 3 or 4
bytes), so what cannot be shown yet is held back until its last byte comes. Characters that
combine on the screen (accents, emoji joined by ZWJ) are whole characters here: a terminal
joins them whether they come together or not.
"""

from __future__ import annotations

import codecs

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Push bytes, get the characters that are complete; the same text as decoding all at once."""

    def __init__(self) -> None:
        # "replace", never "ignore": a byte that is no UTF-8 must show, not vanish.
        self._decoder = _Utf8Decoder("replace")

    def push(self, data: bytes) -> str:
        """The characters that `data` completes; an incomplete UTF-8 sequence at its end is held."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is still held, as U+FFFD, since it never became a character; the stream starts anew."""
        return self._decoder.decode(b"", final=True)
