"""Cut a text into the longest entries of a vocabulary, from left to right.

The vocabulary is a trie (`trie.py`), and its nodes are walked byte by byte.

Reference: `trie.cut`.
"""

from __future__ import annotations

import numpy as np
from rwkv_np.kernels.cache import jit
from rwkv_np.kernels.trie import NO_ENTRY, Trie

_jit = jit(nogil=True, error_model="numpy")


def match(text: np.ndarray, trie: Trie) -> np.ndarray:
    """The entries (n,) uint16 of a text (n_bytes,) uint8: each is the longest entry at its position."""
    entries = np.empty(text.size, np.uint16)
    return entries[: _match(text, *trie[:4], entries)]


# The arrays are passed one by one: if a tuple of them is passed on to a helper, Numba counts references
# to its arrays at every byte. That took four times as long.
@_jit
def _match(text, entry, last, children, pairs, entries):
    n, start = 0, 0
    while start < text.size:
        found, end = entry[1 + text[start]], start + 1
        at = end + 1  # where the node's prefix ends
        node = pairs[256 * np.int64(text[start]) + text[end]] if end < text.size else 0
        while node:
            if entry[node] != NO_ENTRY:
                found, end = entry[node], at
            if at == text.size:
                break
            node = _child(last, children[node], children[node + 1], text[at])
            at += 1
        entries[n] = found
        start = end
        n += 1
    return n


@_jit
def _child(last, low, high, byte):
    """Which of the nodes from low to high - 1 ends with `byte`; 0 for none."""
    while high - low > 1:
        middle = (low + high) >> 1
        if last[middle] <= byte:
            low = middle
        else:
            high = middle
    return low if low < high and last[low] == byte else 0
