"""Packs the weights of a model file into the places that `places.py` chose for them.

The rows of a few tiles are read and packed at a time, so that there is no second copy in memory. As many threads do
this as will compute a token: one thread would take twice as long. The file is not mapped during this work: if another
program truncated a mapped file, the process would end (`files/opened.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.columns import pack_columns
from rwkv_np.kernels.pack import Place, pack
from rwkv_np.models.base import Progress
from rwkv_np.models.places import Places

# Bytes that a thread reads before it packs them. With half as many, the overhead of Python becomes noticeable.
PIECE = 2**21


class Part(NamedTuple):
    """Rows `first` to `stop` - 1 of a matrix, and their place."""

    matrix: Parameter
    first: int
    stop: int
    place: Place


def packed(places: Places, n_threads: int, progress: Progress) -> np.ndarray:
    """All weights in their places, uint8. Raises FormatError if the file was truncated meanwhile."""
    weights = aligned(np.empty, places.n_weights)
    for parameter, start, end, n_row in places.vectors:
        weights[start:end] = 0
        n_rows, n_padded = parameter.n_weights // n_row, lay.round_up(n_row, lay.BLOCK)
        rows = weights[start : start + 4 * n_rows * n_padded].view(np.float32).reshape(n_rows, n_padded)
        rows[:, :n_row] = parameter.array().reshape(n_rows, n_row)
    # The last one is first: a head that was converted to Q8_0 stays in memory until it is packed.
    parts = deque(part for matrix in reversed(places.matrices) for part in _parts(*matrix))
    places.matrices.clear()
    _pack_all(parts, weights, n_threads, progress)
    return weights


def aligned(make: Callable[[int, type], np.ndarray], n_bytes: int) -> np.ndarray:
    """An array of bytes that is aligned to a cache line."""
    buffer = make(n_bytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + n_bytes]


def _parts(matrix: Parameter, place: Place) -> Iterator[Part]:
    step = max(1, PIECE // (place.tile_rows * matrix.row_bytes))
    for tile in range(0, place.n_tiles, step):
        n_tiles = min(step, place.n_tiles - tile)
        first, stop = tile * place.tile_rows, min((tile + n_tiles) * place.tile_rows, matrix.shape[0])
        yield Part(matrix, first, stop, replace(place, start=place.start + tile * place.stride, n_tiles=n_tiles))


def _pack_all(parts: deque[Part], weights: np.ndarray, n_threads: int, progress: Progress) -> None:
    """Pack all parts in this thread, which shows the progress, and in `n_threads` - 1 others."""
    n_parts = len(parts)
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            others = [pool.submit(deque, _pack(parts, weights), 0) for _ in range(n_threads - 1)]
            for _ in _pack(parts, weights):
                progress("loading", n_parts - len(parts), n_parts)
            for other in others:
                other.result()
        finally:
            parts.clear()  # after Ctrl-C or an error, the other threads stop too
    progress("loading", n_parts, n_parts)


def _pack(parts: deque[Part], weights: np.ndarray) -> Iterator[None]:
    """Read and pack a part at each step. Threads take parts from the same queue."""
    room = np.empty(0, np.uint8)
    while parts:
        try:
            matrix, first, stop, place = parts.popleft()
        except IndexError:  # another thread took the last one
            return
        if room.size < (stop - first) * matrix.row_bytes:
            room = np.empty((stop - first) * matrix.row_bytes, np.uint8)
        raw = matrix.raw_rows(first, stop, room)
        put = pack if place.tile_rows == lay.TILE_ROWS else pack_columns
        put(raw, matrix.data_type.format, matrix.shape[1], weights, place)
        yield
