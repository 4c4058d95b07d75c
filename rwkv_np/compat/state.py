"""A state as the official package's list of arrays, backed by a state of this package.

Each layer has 5 entries (RWKV-4) or 3 (later versions), in the official order and layout:

    v4            x of time mix (C,), numerator, denominator, exponent (C,) each, x of channel mix (C,)
    v5, v6, v7    x of time mix (C,), S (n_head, N, N), x of channel mix (C,)

When `forward` changes the given list, it replaces the entries, as in the official package: an array that was taken out
earlier does not change. This needs a copy of the state, which is made only after an entry was taken out: until then,
the arrays are changed in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from rwkv_np.compat.array import Array, plain
from rwkv_np.errors import InputError
from rwkv_np.models.state import State, StateLayout


def _entries(state: State) -> list[Array]:
    """Views of `state` in the official order and layout."""
    shift, wkv = state.shift, state.wkv
    if state.architecture == "v7":
        wkv = wkv.swapaxes(2, 3)  # the official S of RWKV-7 is [value][key], ours [key][value]
    found: list[Array] = []
    for layer in range(len(shift)):
        memory = wkv[layer] if state.architecture == "v4" else wkv[layer : layer + 1]
        found += [x.view(Array) for x in (shift[layer, 0], *memory, shift[layer, 1])]
    return found


def _put(entry: np.ndarray, value: object, index: object) -> None:
    x = plain(value)
    if x.shape != entry.shape or x.dtype.kind not in "fiu":
        raise InputError(
            f"the state's entry {index} has shape {x.shape} and type {x.dtype}; expected {entry.shape}, of float32"
        )
    entry[...] = x


class StateList(list[Any]):
    """The entries of a state; copies of it, by copy.copy, deepcopy or `copy()`, are independent of it."""

    def __init__(self, state: State) -> None:
        super().__init__(_entries(state))
        self._state, self._n_entries = state, len(self)
        self._is_lent = False  # whether the caller may have an entry, which must then not change

    @classmethod
    def of(cls, values: Sequence[object], layout: StateLayout) -> StateList:
        """A state from copies of these arrays. Raises InputError if they do not fit a state of the model."""
        made = cls(State(layout))
        if len(values) != len(made):
            raise InputError(f"the state has {len(values)} entries; expected {len(made)}")
        made[:] = values
        return made

    def taken_on(self) -> State:
        """The underlying state, which may be changed. Raises InputError if entries were added or removed."""
        if len(self) != self._n_entries:
            raise InputError(f"the state has {len(self)} entries; expected {self._n_entries}")
        if self._is_lent:
            self._state, self._is_lent = self._state.copy(), False
            super().__setitem__(slice(None), _entries(self._state))
        return self._state

    def __getitem__(self, index: Any) -> Any:
        self._is_lent = True
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self._is_lent = True
        return super().__iter__()

    def __setitem__(self, index: Any, value: Any) -> None:
        self.taken_on()
        for i, x in zip(range(len(self))[index], value, strict=True) if isinstance(index, slice) else [(index, value)]:
            _put(super().__getitem__(i), x, i)

    def copy(self) -> StateList:
        """An independent copy."""
        return StateList(self._state.copy())

    def __copy__(self) -> StateList:
        return self.copy()

    def __deepcopy__(self, memo: object) -> StateList:
        return self.copy()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """A pickle is a plain list of arrays, which `forward` also accepts."""
        return list, ([x.copy() for x in self],)
