"""The states of several sequences that are read in one pass, in one array.

A slot is a sequence's number. The engine changes the states of the slots it reads, in place;
to return to a state later, copy it first.
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
        except (MemoryError, ValueError) as error:  # ValueError if the number of bytes is too large for NumPy
            raise InputError(f"n_slots is {n_slots}: not enough memory for states of {layout.n_bytes} bytes") from error
        self._free = list(range(n_slots))[::-1]

    @property
    def n_slots(self) -> int:
        return len(self.data)

    @property
    def n_free(self) -> int:
        """How many slots can still be taken."""
        return len(self._free)

    def take(self, state: State | None = None) -> int:
        """Take a slot for a new sequence, which starts from a copy of `state` or from the empty state.

        Raises InputError: no slot is free, a state of another model
        """
        if not self._free:
            raise InputError(f"all {self.n_slots} slots of the pool are taken; release one, or create a larger pool")
        if state is not None:
            self._check_state(state)
        slot = self._free.pop()
        self.put(slot, state)
        return slot

    def release(self, slot: int) -> None:
        """Release a slot. Raises InputError: it was not taken."""
        self._free.append(self.check(slot))

    def put(self, slot: int, state: State | None) -> None:
        """Let the sequence continue from a copy of `state`, or from the empty state."""
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
        """The slot as an int: with a small NumPy integer type, the offset of its state would overflow.

        Raises InputError: it is not a taken slot
        """
        slot = arguments.whole_number("a slot", slot, -(2**62))
        if not 0 <= slot < self.n_slots or slot in self._free:
            raise InputError(f"slot {slot} is not taken; the pool has {self.n_slots} slots, {self.n_free} free")
        return slot

    def check_memory(self, layout: StateLayout) -> None:
        """Raise InputError unless the states have a model's `layout`, and kernels can write to them."""
        n_slots = self.n_slots if isinstance(self.data, np.ndarray) and self.data.ndim else 0
        arguments.memory("the pool", self.data, (n_slots, self.layout.size))
        self.layout.check(layout)

    def _check_state(self, state: State) -> None:
        arguments.one_of("the state", state, State, "a State").check(self.layout, changes=False)
