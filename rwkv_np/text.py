"""Text files from users: UTF-8 only, without guessing; and untrusted JSON."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from rwkv_np.errors import PathLike, TextError

LINE_LIMIT = 16_000_000  # bytes of a line: more than any model reads in a day, and no /dev/zero


def parse_json(text: str | bytes) -> Any:
    """The document in `text`. Raises only ValueError, with a message of one line."""
    try:
        return json.loads(text)
    except RecursionError:  # a thousand nested lists: not a file of ours, and not a simple mistake
        raise ValueError("it is nested too deeply") from None


def excerpt(value: object) -> str:
    """A value from a file, for a message: its repr, shortened, since a value may be as long as the file."""
    return reprlib.repr(value)


def find_surrogate(text: str) -> str | None:
    """The first lone half of a surrogate pair, as "U+D800": JSON can contain it, UTF-8 cannot."""
    return next((f"U+{ord(character):04X}" for character in text if "\ud800" <= character <= "\udfff"), None)


def decode_utf8(data: bytes, source: PathLike, before: int = 0) -> str:
    """The text in `data`, without a byte order mark.

    before  how many bytes of `source` come before it
    Raises  TextError, which names the first bad byte
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder does not count a byte order mark.
        offset = error.start + len(data) - len(error.object)
        raise TextError(
            source,
            f"byte 0x{data[offset]:02X} at offset {before + offset} is not UTF-8 ({error.reason}); "
            "expected a text in UTF-8: iconv -f ENCODING -t UTF-8 FILE",
        ) from error


def read_lines(stream: BinaryIO, source: PathLike) -> Iterator[str]:
    """The lines of a UTF-8 stream, as they arrive, with any line ending. TextError names the first bad byte."""
    before = 0
    while data := stream.readline(LINE_LIMIT + 1):
        if len(data) > LINE_LIMIT:
            raise TextError(source, f"has a line of more than {LINE_LIMIT:,} bytes, the limit for a message")
        yield from re.split(r"\r\n?|\n", decode_utf8(data, source, before).removesuffix("\n").removesuffix("\r"))
        before += len(data)
