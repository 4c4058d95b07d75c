"""A vocabulary as a trie; cut a text into its longest entries, from left to right, with NumPy only.

Entries and texts are bytes here, and an entry is identified by its number. Other modules know what the
numbers mean and how the vocabulary is stored. `longest_match.py` cuts four times as fast; this is its
reference, and is used while Numba is not loaded, since Numba would take six times the memory of the trie.

The prefixes of all entries form a trie in level order: first the empty prefix, then all prefixes of one byte,
then of two, each level sorted. So the children of a node are adjacent and sorted by their last byte, and one
number per node says where they begin. NumPy builds this with one sort per level. A double array (a slot for
each byte of a node, whose gaps other nodes fill) cut texts 1.4 times as fast, but finding the gaps took longer
than the rest of loading, and no text of a chat would gain a tenth of that time.

Most time would be spent near the root, where nodes have up to 256 children. So the first two bytes are
looked up in a table, and only after them a node's children are found by binary search.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NO_ENTRY = 0  # no entry has number 0, as in the vocabulary of RWKV World, where 0 is the end of a text
N_ENTRIES = 2**16  # numbers are uint16
CHUNK = 2**16  # bytes that are cut at once: more would take more memory and save no time


class Trie(NamedTuple):
    """Nodes are prefixes of entries. Node 0 is the empty prefix, nodes 1 to 256 are the single bytes."""

    entry: np.ndarray  # (n_nodes,) uint16: the entry that ends at the node, or NO_ENTRY
    last: np.ndarray  # (n_nodes,) uint8: the last byte of the prefix
    children: np.ndarray  # (n_nodes + 1,) int32: those of node i are children[i] to children[i + 1] - 1
    pairs: np.ndarray  # (65536,) int32: the node of two bytes, at index 256 * first + second; 0 for none
    keys: np.ndarray  # (n_nodes - 1,) int32, rising: 256 times the parent of node i + 1, and its last byte
    longest: int  # bytes of the longest entry


def build(data: np.ndarray, lengths: np.ndarray) -> Trie:
    """Build the trie of the entries that are concatenated in `data` (uint8); the lengths (n,) are in bytes.

    Entry i is the i-th of them. An entry of length 0 is left out; entry 0 must be one. Raises ValueError:
    a byte is not an entry by itself (some texts could not be cut then), or an entry occurs twice.
    """
    lengths = np.asarray(lengths, np.int64)
    if not (0 < lengths.size <= N_ENTRIES and lengths[0] == 0 and lengths.sum() == data.size):
        raise ValueError("expected at most 65536 lengths, the first of them 0, with the size of the data as their sum")
    if not lengths.any():
        raise ValueError("each of the 256 bytes must be an entry")
    parents, last, entry = (np.concatenate(levels) for levels in zip(*_levels(data, lengths)))
    if last[:256].tolist() != list(range(256)) or not entry[:256].all():
        raise ValueError("each of the 256 bytes must be an entry")
    if np.count_nonzero(entry) != np.count_nonzero(lengths):
        raise ValueError("an entry occurs twice")
    children = np.searchsorted(parents, np.arange(last.size + 2)) + 1
    pairs = np.zeros(2**16, np.int32)
    second = np.arange(children[1], children[257])
    pairs[(parents[second - 1] - 1) * 256 + last[second - 1]] = second
    of_nodes = _below_root(entry, np.uint16), _below_root(last, np.uint8), children.astype(np.int32)
    return Trie(*of_nodes, pairs, (parents * 256 + last).astype(np.int32), int(lengths.max()))


def _levels(data, lengths):
    """For each level below the root: its nodes' parents, last bytes and entries."""
    starts = np.cumsum(lengths) - lengths
    entries = np.flatnonzero(lengths)
    node, n_nodes = np.zeros(entries.size, np.int64), 1  # the node that each entry has reached
    for depth in range(lengths.max()):
        keys, level = np.unique(node * 256 + data[starts[entries] + depth], return_inverse=True)
        ends = lengths[entries] == depth + 1
        entry = np.zeros(keys.size, np.int64)
        entry[level[ends]] = entries[ends]
        yield keys >> 8, keys & 255, entry
        entries, node = entries[~ends], n_nodes + level[~ends]
        n_nodes += keys.size


def _below_root(values, dtype):
    return np.concatenate([[0], values]).astype(dtype)


def cut(text: np.ndarray, trie: Trie) -> np.ndarray:
    """The entries (n,) uint16 of a text (n_bytes,) uint8: each is the longest entry at its position.

    For every byte of a chunk the longest entry that starts there is found, going down one level for all
    bytes at a time. Then the entries that are used are found by walking from the first byte on.
    """
    found, start = [np.empty(0, np.uint16)], 0
    while start < text.size:
        entry, length = _longest_at(text[start : start + CHUNK + trie.longest], trie)
        begins = _begins(length.tolist(), min(CHUNK, text.size - start))
        found.append(entry[begins])
        start += begins[-1] + int(length[begins[-1]])
    return np.concatenate(found)


def _longest_at(text, trie):
    """For each byte of a text, the longest entry that starts there, and its length."""
    wide = text.astype(np.int32)
    entry, length = trie.entry[1 + wide], np.ones(text.size, np.int32)
    node = trie.pairs[256 * wide[:-1] + wide[1:]]
    start, at = np.flatnonzero(node), 2  # the node's prefix is `at` bytes from `start` on
    node = node[start]
    while start.size:
        ends = np.flatnonzero(trie.entry[node])
        entry[start[ends]], length[start[ends]] = trie.entry[node[ends]], at
        inside = np.searchsorted(start, text.size - at)
        start, node = start[:inside], node[:inside]
        key = 256 * node + wide[start + at]
        child = np.searchsorted(trie.keys, key)
        there = np.flatnonzero(trie.keys[np.minimum(child, trie.keys.size - 1)] == key)
        start, node, at = start[there], (child[there] + 1).astype(np.int32), at + 1
    return entry, length


def _begins(length, end):
    """Where entries begin, up to `end`, if one begins at the first byte."""
    found, at = [], 0
    while at < end:
        found.append(at)
        at += length[at]
    return found


def cut_reference(text: bytes, entries: dict[bytes, int]) -> list[int]:
    """The same as `cut`, with a dictionary that contains each of the 256 bytes."""
    longest = max(map(len, entries))
    found, start = [], 0
    while start < len(text):
        end = min(start + longest, len(text))
        while text[start:end] not in entries:
            end -= 1
        found.append(entries[text[start:end]])
        start = end
    return found
