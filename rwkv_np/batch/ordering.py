"""Put rows with the same beginning next to each other, within a window of the file: then one state serves them all.

The window is bounded by rows and by bytes, so memory does not grow with the file. Ids are compared, not characters:
what counts is what the model reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from rwkv_np.batch.planned import Planned

ROWS = 512
BYTES = 16_000_000  # of bodies and ids


def ordered(planned: Iterable[Planned], rows: int = ROWS, most_bytes: int = BYTES) -> Iterator[Planned]:
    """The same rows, sorted by their beginnings within each window."""
    window: list[Planned] = []
    n_bytes = 0
    for each in planned:
        window.append(each)
        n_bytes += len(each.row.body) + len(each.beginning)
        if len(window) >= rows or n_bytes >= most_bytes:
            yield from sorted(window, key=attrgetter("beginning"))
            window, n_bytes = [], 0
    yield from sorted(window, key=attrgetter("beginning"))
