"""Put rows with the same beginning next to each other, within a window of the file: then one state serves them all.

The window is bounded by rows and by bytes, so memory does not grow with the file. Rows are sorted by the JSON of their
messages or prompt, which costs a few microseconds; their token ids would cost a hundred times as much, and only a
request that writes the same messages in another way would be placed better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import UNSET, UnsetType

from rwkv_np.batch.row import Row

ROWS = 2048
BYTES = 16_000_000


class _Beginning(msgspec.Struct):
    messages: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_Beginning)


def ordered(found: Iterable[Row], rows: int = ROWS, most_bytes: int = BYTES) -> Iterator[Row]:
    """The same rows, sorted by their beginnings within each window."""
    window: list[Row] = []
    n_bytes = 0
    for row in found:
        window.append(row)
        n_bytes += len(row.body)
        if len(window) >= rows or n_bytes >= most_bytes:
            yield from sorted(window, key=beginning)
            window, n_bytes = [], 0
    yield from sorted(window, key=beginning)


def beginning(row: Row) -> bytes:
    """What a row's prompt is made of; an invalid body stands for itself."""
    try:
        found = _DECODER.decode(row.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return row.body
    part = found.messages if found.messages is not UNSET else found.prompt
    return bytes(part) if part is not UNSET else row.body
