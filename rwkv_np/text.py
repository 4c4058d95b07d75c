"""Text files that people give us: UTF-8, and nothing guessed."""

from __future__ import annotations

from rwkv_np.errors import PathLike, TextError


def decode_utf8(data: bytes, source: PathLike) -> str:
    """The text in `data`, which came from `source`, without a byte order mark. TextError names the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder leaves a byte order mark out of what it counts.
        offset = error.start + len(data) - len(error.object)
        raise TextError(
            source,
            f"byte 0x{data[offset]:02X} at offset {offset} is no UTF-8 ({error.reason}); "
            "expected a text in UTF-8: iconv -f ENCODING -t UTF-8 FILE",
        ) from error
