"""Text files that people give us: UTF-8, and nothing guessed."""

from __future__ import annotations

from rwkv_np.errors import InputError, PathLike


def decode_utf8(data: bytes, source: PathLike) -> str:
    """The text in `data`, which came from `source`, without a byte order mark. InputError names the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: byte {error.start} (0x{data[error.start]:02x}) is no UTF-8; save the file as UTF-8"
        ) from error
