"""`RWKVModel` of rwkv.cpp: a float32 buffer for a state and one for logits; the caller may provide both.

Differences: new arrays are always NumPy arrays, whatever `use_numpy` is (`Array` has the methods of a tensor). Tensors
from the caller are used in place and returned. Results do not depend on the chunk size.

Source: rwkv.cpp, python/rwkv_cpp/rwkv_cpp_model.py; `clone` is rwkv_clone_context of its C interface.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkv_np import arguments
from rwkv_np.compat.array import Array, plain
from rwkv_np.compat.rwkv_cpp.rwkv_cpp_shared_library import RWKVContext, RWKVSharedLibrary
from rwkv_np.errors import InputError
from rwkv_np.models.base import Tokens

NumpyArrayOrPyTorchTensor = Any  # the original's name for its arrays


class RWKVModel:
    """A loaded model file.

    shared_library   load_rwkv_shared_library() or RWKVSharedLibrary(path)
    model_path       the path of a model file
    thread_count     the most threads to use
    gpu_layer_count  ignored; gpu_layers_count is its old name
    Raises           InputError (a ValueError): no such file, not a model file, or a number is out of range
    """

    def __init__(
        self,
        shared_library: RWKVSharedLibrary,
        model_path: str,
        thread_count: int = max(1, multiprocessing.cpu_count() // 2),
        gpu_layer_count: int = 0,
        **kwargs: int,
    ) -> None:
        gpu_layer_count = kwargs.get("gpu_layers_count", gpu_layer_count)
        if not os.path.isfile(model_path):
            raise InputError(f"{model_path} is not a file")
        arguments.whole_number("thread_count", thread_count, 1)
        arguments.whole_number("gpu_layer_count", gpu_layer_count, 0)
        self._start(shared_library, shared_library.rwkv_init_from_file(model_path, thread_count, gpu_layer_count))

    def _start(self, library: RWKVSharedLibrary, context: RWKVContext) -> None:
        self._library, self._ctx, self._valid = library, context, True
        self._state_buffer_element_count = library.rwkv_get_state_buffer_element_count(context)
        self._logits_buffer_element_count = library.rwkv_get_logits_buffer_element_count(context)

    @property
    def n_vocab(self) -> int:
        """The number of ids."""
        return self._library.rwkv_get_n_vocab(self._context())

    @property
    def n_embed(self) -> int:
        """The number of channels."""
        return self._library.rwkv_get_n_embed(self._context())

    @property
    def n_layer(self) -> int:
        """The number of layers."""
        return self._library.rwkv_get_n_layer(self._context())

    def clone(self, thread_count: int | None = None) -> RWKVModel:
        """Another model with the same weights, for another thread; their calls wait for each other."""
        other = object.__new__(RWKVModel)
        other._start(self._library, self._library.rwkv_clone_context(self._context(), thread_count))
        return other

    def eval(
        self,
        token: int,
        state_in: NumpyArrayOrPyTorchTensor | None,
        state_out: NumpyArrayOrPyTorchTensor | None = None,
        logits_out: NumpyArrayOrPyTorchTensor | None = None,
        use_numpy: bool = False,
    ) -> tuple[NumpyArrayOrPyTorchTensor, NumpyArrayOrPyTorchTensor]:
        """Read one token after `state_in`; None is the empty state.

        Returns  logits (V,) and the state after the token (size of a state,), float32: `logits_out` and `state_out`,
                 or new ones. state_out may be state_in.
        Raises   InputError (a ValueError): freed, an id out of range, or an array of another shape or type
        """
        return self._read([token], state_in, state_out, logits_out)

    def eval_sequence(
        self,
        tokens: Sequence[int],
        state_in: NumpyArrayOrPyTorchTensor | None,
        state_out: NumpyArrayOrPyTorchTensor | None = None,
        logits_out: NumpyArrayOrPyTorchTensor | None = None,
        use_numpy: bool = False,
    ) -> tuple[NumpyArrayOrPyTorchTensor, NumpyArrayOrPyTorchTensor]:
        """The same for any number of tokens."""
        return self._read(tokens, state_in, state_out, logits_out)

    def eval_sequence_in_chunks(
        self,
        tokens: Sequence[int],
        state_in: NumpyArrayOrPyTorchTensor | None,
        state_out: NumpyArrayOrPyTorchTensor | None = None,
        logits_out: NumpyArrayOrPyTorchTensor | None = None,
        chunk_size: int = 16,
        use_numpy: bool = False,
    ) -> tuple[NumpyArrayOrPyTorchTensor, NumpyArrayOrPyTorchTensor]:
        """The same; the chunk size must be positive, and has no effect."""
        arguments.whole_number("chunk_size", chunk_size, 1)
        return self._read(tokens, state_in, state_out, logits_out)

    def free(self) -> None:
        """Release the weights. The model cannot be used afterwards. Raises InputError (a ValueError) if already
        freed."""
        if not self._valid:
            raise InputError("Already freed")
        self._valid = False
        self._library.rwkv_free(self._ctx)

    def _context(self) -> RWKVContext:
        if not self._valid:
            raise InputError("Model was freed")
        return self._ctx

    def _read(self, tokens: Tokens, state_in: Any, state_out: Any, logits_out: Any) -> tuple[Any, Any]:
        context, size = self._context(), self._state_buffer_element_count
        before = None if state_in is None else _buffer(state_in, "state_in", size)
        if state_out is None:
            state_out = np.empty(size, np.float32).view(Array)
        after = _buffer(state_out, "state_out", size)
        room = None if logits_out is None else _buffer(logits_out, "logits_out", self._logits_buffer_element_count)
        logits = context.read(tokens, before, after)
        if room is None:
            return logits.view(Array), state_out
        room[:] = logits
        return logits_out, state_out


def _buffer(given: object, name: str, size: int) -> np.ndarray:
    """The memory of an array or a CPU tensor. Raises InputError unless it is a buffer of that size."""
    x = plain(given)
    if x.dtype != np.float32:
        raise InputError(f"{name} is not of type float32")
    if x.shape != (size,):
        raise InputError(f"{name} has invalid shape {x.shape}, expected ({size},)")
    if not x.flags.c_contiguous:
        raise InputError(f"{name} is not contiguous")
    return x
