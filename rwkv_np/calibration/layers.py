"""One layer of any RWKV version on float32 weights, half by half, and what its matrices read.

The NumPy graph of the version computes it (`rwkv_np/models/`): its matrices are replaced by ones whose weights can be
exchanged, and which show their input. Which matrix reads what another one wrote is found out, not written down: in a
trial run some matrices return NaN, and a matrix whose input contains none of them does not depend on them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Linear
from rwkv_np.models.state import StateLayout

HALVES = ("time mix", "channel mix")
Listener = Callable[["Matrix", np.ndarray], None]


class _Complete(Exception):
    """Ends a run of a half whose remaining results nobody needs."""


class Matrix:
    """In place of a `Linear`: y = x W^T, with weights in memory.

    listen  an attribute of `local`, which each thread has its own of: called with each input
    """

    def __init__(self, name: str, weight: np.ndarray, local: threading.local) -> None:
        self.name, self.weight, self._local = name, weight, local
        self.is_unknown = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        listen: Listener | None = getattr(self._local, "listen", None)
        if listen:
            listen(self, x)
        if self.is_unknown:
            return np.full((*x.shape[:-1], len(self.weight)), np.nan, np.float32)
        return x @ self.weight.T


class Hidden:
    """The vectors of one window between two halves: x (T, C), and what RWKV-7's first layer leaves for the others."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.v_first: np.ndarray | None = None


class Layer:
    """Layer `i` of the model with those parameters.

    matrices  by name, in the order of their first use
    """

    def __init__(self, config: ModelConfig, parameters: Mapping[str, Parameter], graph: Any, i: int) -> None:
        self._i, self._layout, self._local = i, StateLayout(config), threading.local()
        self._ln1, self._time, self._ln2, self._channel = graph.layers[i]
        graph.layers[i] = None  # a layer's weights are in memory only while it is in use
        self._matrices: list[dict[str, Matrix]] = []
        for part in (self._time, self._channel):
            found = {linear.weight.name: (owner, key) for owner, key, linear in _linears(part)}
            self._matrices.append({name: Matrix(name, parameters[name].array(), self._local) for name in found})
            for name, (owner, key) in found.items():
                setattr(owner, key, self._matrices[-1][name])

    @property
    def matrices(self) -> dict[str, Matrix]:
        """All of them by name."""
        return {name: matrix for half in self._matrices for name, matrix in half.items()}

    def of_half(self, half: int, names: Collection[str]) -> list[Matrix]:
        """Those of the named matrices that a half has."""
        return [matrix for name, matrix in self._matrices[half].items() if name in names]

    def run(self, half: int, hidden: Hidden) -> np.ndarray:
        """What a half (0 time mix, 1 channel mix) adds to x of a window that starts from the empty state."""
        shift, wkv = self._state()
        x = (self._ln1, self._ln2)[half](hidden.x)
        if half == 1:
            return self._channel(x, shift[1])
        if not hasattr(self._time, "is_first"):
            return self._time(x, shift[0], wkv)
        out, v_first = self._time(x, shift[0], wkv, None if self._time.is_first else hidden.v_first)
        if self._time.is_first:
            hidden.v_first = v_first
        return out

    def add(self, half: int, hidden: Hidden) -> None:
        """Let x pass the half."""
        hidden.x = hidden.x + self.run(half, hidden)

    def stages(self, half: int) -> Iterator[list[Matrix]]:
        """The matrices of a half in groups: the input of each depends only on the groups before."""
        open_ones = dict(self._matrices[half])
        while open_ones:
            stage = self._ready(half, open_ones)
            yield stage
            for matrix in stage:
                del open_ones[matrix.name]

    def _ready(self, half: int, open_ones: dict[str, Matrix]) -> list[Matrix]:
        ready: list[Matrix] = []
        n_embd = self._layout.places["shift"].shape[-1]
        trial = Hidden(np.random.default_rng(0).standard_normal((2, n_embd)).astype(np.float32))
        trial.v_first = trial.x

        def listen(matrix: Matrix, x: np.ndarray) -> None:
            if matrix.name in open_ones and np.isfinite(x).all():
                ready.append(matrix)

        for matrix in open_ones.values():
            matrix.is_unknown = True
        with np.errstate(all="ignore"), self._listening(listen):
            self.run(half, trial)
        for matrix in open_ones.values():
            matrix.is_unknown = False
        return ready

    def inputs(self, half: int, names: Collection[str], hidden: Hidden) -> dict[str, np.ndarray]:
        """What those matrices of a half read in a window, by name, each (T, n_in)."""
        found: dict[str, np.ndarray] = {}

        def listen(matrix: Matrix, x: np.ndarray) -> None:
            if matrix.name in names:
                found[matrix.name] = x
                if len(found) == len(names):
                    raise _Complete

        with self._listening(listen), suppress(_Complete):
            self.run(half, hidden)
        return found

    @contextmanager
    def _listening(self, listen: Listener) -> Iterator[None]:
        """Show `listen` the inputs of all matrices, in this thread."""
        self._local.listen = listen
        try:
            yield
        finally:
            self._local.listen = None

    def _state(self) -> tuple[np.ndarray, np.ndarray]:
        """This layer's part of an empty state; each thread has one, which is cleared here."""
        if not hasattr(self._local, "parts"):
            self._local.parts = self._layout.parts(np.empty(self._layout.size, np.float32))
        shift, wkv = (self._local.parts[name][self._i] for name in ("shift", "wkv"))
        shift[:], wkv[:] = 0, self._layout.places["wkv"].fill
        return shift, wkv


def _linears(part: Any) -> Iterator[tuple[Any, str, Linear]]:
    """Each `Linear` in an object of the graph, with its owner and attribute."""
    for key, value in vars(part).items():
        if isinstance(value, Linear):
            yield part, key, value
        elif type(value).__module__.startswith("rwkv_np.models.") and hasattr(value, "__dict__"):
            yield from _linears(value)
