"""A state as rwkv.cpp's flat buffer of float32.

For each layer: x of channel mix (C,), x of time mix (C,), and then for RWKV-4 numerator, denominator and exponent, (C,)
each; for later versions S (n_head, N, N), which is [key][value], or [value][key] for RWKV-7.

Source: rwkv.cpp, rwkv_graph.inc, rwkv_create_input_and_output_views.
"""

from __future__ import annotations

import math

import numpy as np

from rwkv_np.models.state import State, StateLayout


class StateBuffer:
    """The layout of a model's buffers.

    size  number of float32 values in a buffer
    """

    def __init__(self, layout: StateLayout) -> None:
        self._n_layer, _, self._n_embd = layout.places["shift"].shape
        self._wkv_shape = layout.places["wkv"].shape
        self._is_transposed = layout.architecture == "v7"
        self.size = self._n_layer * 2 * self._n_embd + math.prod(self._wkv_shape)

    def read(self, buffer: np.ndarray, state: State) -> None:
        """Copy `buffer` into `state`."""
        shift, wkv = self._views(buffer)
        state.shift[:], state.wkv[:] = shift, wkv

    def write(self, state: State, buffer: np.ndarray) -> None:
        """Copy `state` into `buffer`."""
        shift, wkv = self._views(buffer)
        shift[:], wkv[:] = state.shift, state.wkv

    def _views(self, buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Views of a buffer, shaped as a state's parts."""
        n, rows = self._n_embd, buffer.reshape(self._n_layer, -1)
        shift = rows[:, : 2 * n].reshape(self._n_layer, 2, n)[:, ::-1]
        wkv = rows[:, 2 * n :].reshape(self._wkv_shape)
        return shift, wkv.swapaxes(2, 3) if self._is_transposed else wkv
