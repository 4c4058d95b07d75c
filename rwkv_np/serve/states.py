"""A prefix cache of states: it finds the state after the longest known prefix of a prompt.

A state is small and cannot be truncated: to continue from the middle of a known text, the state at that point must have
been kept. So states are kept at chosen points (`Reading` says which), in a radix tree of token ids. The tree also finds
where two texts diverge, since that is a point worth keeping next time. A state in the cache is never changed: copy it
to continue from it. The least recently used states are dropped first, by their bytes, before a new state is copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rwkv_np.position import Position


def n_common(a: np.ndarray, b: np.ndarray) -> int:
    """The length of the common prefix of two sequences of ids."""
    n = min(a.size, b.size)
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


@dataclass(eq=False)
class Node:
    """A node of the tree: the ids from its parent to it, and the position there if one is kept."""

    ids: np.ndarray
    parent: Node | None
    position: Position | None = None
    children: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The longest known prefix of a prompt.

    n         its length in tokens; 0 if nothing is known
    position  the state after it, and its logits if they are known
    n_shared  how many tokens are the same as in some earlier text: at least n
    """

    n: int
    position: Position | None
    n_shared: int


@dataclass
class Counts:
    """Counts of the cache since the start."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class StateCache:
    """The states of one model.

    most_bytes  of all states together
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self.counts = Counts()
        self._roots: dict[str, Node] = {}
        self._by_use: OrderedDict[Node, str] = OrderedDict()  # the nodes with a position, and their salts

    def __len__(self) -> int:
        return len(self._by_use)

    def find(self, salt: str, ids: np.ndarray) -> Found:
        """The longest prefix of `ids` whose state is kept. All of `ids` counts only if its logits are kept too."""
        n, best, position = 0, 0, None
        for node, n in self._path(salt, ids):
            at = node.position
            if at is not None and (n < ids.size or at.logits is not None):
                best, position, used = n, at, node
        if position is not None:
            self._by_use.move_to_end(used)
        return Found(best, position, self._n_shared(salt, ids))

    def count(self, found: Found) -> None:
        """Count a prompt whose reading starts."""
        self.counts.hits += found.n > 0
        self.counts.misses += found.n == 0

    def put(self, salt: str, ids: np.ndarray, n_bytes: int, make: Callable[[], Position]) -> bool:
        """Keep the position after `ids`, which takes `n_bytes`; `make` copies it once there is room.

        Returns whether it is kept: it is not if it alone is larger than the cache.
        """
        node = self._node(salt, ids, add=False)
        if node is not None and node.position is not None:
            self._by_use.move_to_end(node)
            if node.position.logits is not None:
                return True
            self._drop(node)  # it is replaced, since the new one may have logits
        if n_bytes > self.most_bytes:
            return False
        while self.n_bytes + n_bytes > self.most_bytes:
            self._evict()
        node = self._node(salt, ids, add=True)
        assert node is not None
        node.position = make()
        self._by_use[node] = salt
        self.n_bytes += node.position.n_bytes
        return True

    def clear(self) -> None:
        """Drop all states."""
        self._roots.clear()
        self._by_use.clear()
        self.n_bytes = 0

    def entries(self) -> list[tuple[str, np.ndarray, Position]]:
        """(salt, ids, position) of all kept states, the least recently used first."""
        return [(salt, _ids_of(node), node.position) for node, salt in self._by_use.items() if node.position]

    def _path(self, salt: str, ids: np.ndarray) -> list[tuple[Node, int]]:
        """The nodes at which a prefix of `ids` ends, and the length of each prefix."""
        node, n, path = self._roots.get(salt), 0, []
        while node is not None and n < ids.size:
            node = node.children.get(int(ids[n]))
            if node is None or n_common(node.ids, ids[n:]) < node.ids.size:
                break
            n += node.ids.size
            path.append((node, n))
        return path

    def _n_shared(self, salt: str, ids: np.ndarray) -> int:
        """The length of the longest prefix of `ids` that is in the tree."""
        path = self._path(salt, ids)
        node, n = path[-1] if path else (self._roots.get(salt), 0)
        below = node.children.get(int(ids[n])) if node is not None and n < ids.size else None
        return n + (n_common(below.ids, ids[n:]) if below is not None else 0)

    def _node(self, salt: str, ids: np.ndarray, *, add: bool) -> Node | None:
        """The node after `ids`. If it is missing and `add` is set, it is made, and an edge is split if needed."""
        path = self._path(salt, ids)
        node, n = path[-1] if path else (self._roots.get(salt), 0)
        if node is not None and n == ids.size:
            return node
        if not add:
            return None
        if node is None:
            node = self._roots[salt] = Node(ids[:0], None)
        below = node.children.get(int(ids[n]))
        shared = n_common(below.ids, ids[n:]) if below is not None else 0
        if below is not None:
            node = _cut(below, shared)
            n += shared
        return _add_child(node, ids[n:]) if n < ids.size else node

    def _evict(self) -> None:
        self.counts.evictions += 1
        self._drop(next(iter(self._by_use)))

    def _drop(self, node: Node) -> None:
        """Drop the position at a node, and the nodes that only led to it."""
        assert node.position is not None
        salt = self._by_use.pop(node)
        self.n_bytes -= node.position.n_bytes
        node.position = None
        while node.parent is not None and node.position is None and not node.children:
            parent = node.parent
            del parent.children[int(node.ids[0])]
            node = parent
        if node.parent is None and not node.children:
            del self._roots[salt]
        elif node.parent is not None and node.position is None and len(node.children) == 1:
            _join(node)


def _add_child(parent: Node, ids: np.ndarray) -> Node:
    # A copy: a view would keep the whole prompt in memory.
    node = parent.children[int(ids[0])] = Node(ids.astype(np.int32), parent)
    return node


def _cut(node: Node, n: int) -> Node:
    """A new node in the middle of the edge to `node`, after `n` of its ids."""
    assert node.parent is not None
    middle = node.parent.children[int(node.ids[0])] = Node(node.ids[:n].copy(), node.parent)
    node.ids, node.parent = node.ids[n:].copy(), middle
    middle.children[int(node.ids[0])] = node
    return middle


def _join(node: Node) -> None:
    """Remove a node that has one child and no position."""
    assert node.parent is not None
    (child,) = node.children.values()
    child.ids, child.parent = np.concatenate([node.ids, child.ids]), node.parent
    node.parent.children[int(child.ids[0])] = child


def _ids_of(node: Node) -> np.ndarray:
    parts = []
    at: Node | None = node
    while at is not None:
        parts.append(at.ids)
        at = at.parent
    return np.concatenate(parts[::-1]).astype(np.int64)
