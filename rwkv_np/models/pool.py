"""Room for the states of several sequences that are read in one pass, side by side in one array.

A slot is a sequence's number. The engine changes the states of the slots it reads, in place;
to return to one, copy it first.
"""

from __future__ import annotations

import copy

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import InputError
from rwkv_np.models.state import State, StateLayout


class StatePool:
    """`n_slots` states.

    data  (n_slots, layout.size) float32
    """

    def __init__(self, layout: StateLayout, n_slots: int) -> None:
        n_slots = arguments.whole_number("n_slots", n_slots, 1)
        self.layout = layout
        try:
            # Pages that no slot has used yet cost no memory.
            self.data = np.zeros((n_slots, layout.size), np.float32)
        except (MemoryError, ValueError) as error:  # ValueError where NumPy cannot even count the bytes
            raise InputError(f"n_slots is {n_slots}: no memory for so many states of {layout.n_bytes} bytes") from error
        self._free = list(range(n_slots))[::-1]

    @property
    def n_slots(self) -> int:
        return len(self.data)

    @property
    def n_free(self) -> int:
        """How many slots can still be taken."""
        return len(self._free)

    def take(self, state: State | None = None) -> int:
        """A slot for a new sequence, which begins with a copy of `state` or with an empty one.

        Raises InputError: no slot is free, a state of another model
        """
        if not self._free:
            raise InputError(f"all {self.n_slots} slots of the pool are taken; release one, or make a larger pool")
        if state is not None:
            self._check_state(state)
        slot = self._free.pop()
        self.put(slot, state)
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back. Raises InputError: it was not taken."""
        self._free.append(self.check(slot))

    def put(self, slot: int, state: State | None) -> None:
        """Let the sequence go on from a copy of `state`, or from nothing."""
        self.check(slot)
        if state is None:
            self.layout.clear(self.data[slot])
        else:
            self._check_state(state)
            self.data[slot] = state.data

    def state(self, slot: int) -> State:
        """A copy of the state of the sequence."""
        self.check(slot)
        return State(self.layout, self.data[slot].copy())

    def __copy__(self) -> StatePool:
        return copy.deepcopy(self)

    def check(self, slot: int) -> int:
        """The slot as an int: a small NumPy integer would not hold the place of its state in memory.

        Raises InputError: it is not a taken slot
        """
        slot = arguments.whole_number("a slot", slot, -(2**62))
        if not 0 <= slot < self.n_slots or slot in self._free:
            raise InputError(f"slot {slot} is not taken; the pool has {self.n_slots}, {self.n_free} of them free")
        return slot

    def check_memory(self, layout: StateLayout) -> None:
        """Raise InputError unless the states are those of a model of that layout, as kernels change them."""
        n_slots = self.n_slots if isinstance(self.data, np.ndarray) and self.data.ndim else 0
        arguments.memory("the pool", self.data, (n_slots, self.layout.size))
        self.layout.check(layout)

    def _check_state(self, state: State) -> None:
        arguments.one_of("the state", state, State, "a State").check(self.layout, changes=False)
