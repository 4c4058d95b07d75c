"""Text files that people give us: UTF-8, and nothing guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from rwkv_np.errors import PathLike, TextError

LINE_LIMIT = 16_000_000  # bytes of a line: more than any model reads in a day, and no /dev/zero


def decode_utf8(data: bytes, source: PathLike, before: int = 0) -> str:
    """The text in `data`, without a byte order mark.

    before  how many bytes of `source` come before it
    Raises  TextError, which names the first bad byte
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder leaves a byte order mark out of what it counts.
        offset = error.start + len(data) - len(error.object)
        raise TextError(
            source,
            f"byte 0x{data[offset]:02X} at offset {before + offset} is no UTF-8 ({error.reason}); "
            "expected a text in UTF-8: iconv -f ENCODING -t UTF-8 FILE",
        ) from error


def read_lines(stream: BinaryIO, source: PathLike) -> Iterator[str]:
    """The lines of a stream of UTF-8, whatever ends them, as they come. TextError names the first bad byte."""
    before = 0
    while data := stream.readline(LINE_LIMIT + 1):
        if len(data) > LINE_LIMIT:
            raise TextError(source, f"has a line of more than {LINE_LIMIT:,} bytes; that is no text to be answered")
        yield from re.split(r"\r\n?|\n", decode_utf8(data, source, before).removesuffix("\n").removesuffix("\r"))
        before += len(data)
