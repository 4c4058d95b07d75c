"""`RWKVSharedLibrary` of rwkv.cpp, without the library: its functions, implemented with this package.

Buffers are passed as addresses, as in rwkv.cpp; `RWKVContext.read` takes arrays, and `RWKVModel` calls it. Errors are
ValueErrors, as in rwkv.cpp, but with a message that says what is wrong. RWKV-5 uses rwkv.cpp's epsilon (1e-5) in the
norm of a head, to give the same results; `rwkv_np.load` uses the official package's.

Source: rwkv.cpp, python/rwkv_cpp/rwkv_cpp_shared_library.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from rwkv_np import __version__, arguments, models
from rwkv_np.compat.rwkv_cpp.state_buffer import StateBuffer
from rwkv_np.conversion.quantize import quantize
from rwkv_np.errors import InputError, PathLike, RwkvError
from rwkv_np.kernels.notes import say_once
from rwkv_np.models.base import Model, Tokens
from rwkv_np.models.containers import read_model

QUANTIZED_FORMAT_NAMES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_HEAD_EPSILON = 1e-5


class RWKVContext:
    """A model and one working state. A context is for one thread at a time; other threads need clones."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.buffer = StateBuffer(model.state_layout)
        self._state = model.initial_state()

    def read(self, tokens: Tokens, state_in: np.ndarray | None, state_out: np.ndarray) -> np.ndarray:
        """Read tokens from the state in one buffer, and write the new state into another buffer, or the same.

        Returns  the logits after the last token, (V,) float32. Raises InputError: no tokens, or one out of range
        """
        if state_in is None:
            self.model.state_layout.clear(self._state.data)
        else:
            self.buffer.read(state_in, self._state)
        logits = self.model.advance(tokens, self._state)
        self.buffer.write(self._state, state_out)
        return logits


class RWKVSharedLibrary:
    """The functions of rwkv.cpp's library; the path is ignored."""

    def __init__(self, shared_library_path: PathLike | None = None) -> None:
        self.nullptr = None

    def rwkv_init_from_file(self, model_file_path: PathLike, thread_count: int, offload_layers: int = 0) -> RWKVContext:
        """Load a model file. Too many threads are reduced to the most that are possible; all layers run on the CPU.

        Raises InputError: it cannot be loaded
        """
        if offload_layers > 0:
            say_once("GPU layers are ignored: all layers are computed on the CPU")
        try:
            return RWKVContext(_load(model_file_path, thread_count))
        except (RwkvError, OSError) as error:
            raise InputError(str(error)) from error

    def rwkv_clone_context(self, ctx: RWKVContext, thread_count: int | None = None) -> RWKVContext:
        """Another context with the same weights and the same number of threads."""
        return RWKVContext(ctx.model)

    def rwkv_eval(
        self,
        ctx: RWKVContext,
        token: int,
        state_in_address: int | None,
        state_out_address: int,
        logits_out_address: int,
    ) -> None:
        """Read one token. Raises InputError."""
        self.rwkv_eval_sequence(ctx, [token], state_in_address, state_out_address, logits_out_address)

    def rwkv_eval_sequence(
        self,
        ctx: RWKVContext,
        tokens: Sequence[int],
        state_in_address: int | None,
        state_out_address: int,
        logits_out_address: int,
    ) -> None:
        """Read several tokens. Raises InputError."""
        size = ctx.buffer.size
        state_in = _at(state_in_address, size) if state_in_address else None
        logits = ctx.read(tokens, state_in, _at(state_out_address, size))
        _at(logits_out_address, logits.size)[:] = logits

    def rwkv_eval_sequence_in_chunks(
        self,
        ctx: RWKVContext,
        tokens: Sequence[int],
        chunk_size: int,
        state_in_address: int | None,
        state_out_address: int,
        logits_out_address: int,
    ) -> None:
        """The same; the chunk size must be positive, and has no effect. Raises InputError."""
        arguments.whole_number("chunk_size", chunk_size, 1)
        self.rwkv_eval_sequence(ctx, tokens, state_in_address, state_out_address, logits_out_address)

    def rwkv_get_n_vocab(self, ctx: RWKVContext) -> int:
        """The number of ids."""
        return ctx.model.config.vocab_size

    def rwkv_get_n_embed(self, ctx: RWKVContext) -> int:
        """The number of channels."""
        return ctx.model.config.n_embd

    def rwkv_get_n_layer(self, ctx: RWKVContext) -> int:
        """The number of layers."""
        return ctx.model.config.n_layer

    def rwkv_get_state_buffer_element_count(self, ctx: RWKVContext) -> int:
        """The number of float32 values in a state."""
        return ctx.buffer.size

    def rwkv_get_logits_buffer_element_count(self, ctx: RWKVContext) -> int:
        """The number of float32 values in the logits."""
        return ctx.model.config.vocab_size

    def rwkv_free(self, ctx: RWKVContext) -> None:
        """Release the model; its memory is freed when no clone uses it."""
        del ctx.model

    def rwkv_quantize_model_file(self, model_file_path_in: str, model_file_path_out: str, format_name: str) -> None:
        """Quantize an FP16 or FP32 file; an existing file at the other path is replaced. Raises InputError."""
        if format_name not in QUANTIZED_FORMAT_NAMES:
            raise InputError(f"format_name is {format_name}; expected one of {', '.join(QUANTIZED_FORMAT_NAMES)}")
        try:
            quantize(model_file_path_in, model_file_path_out, format_name, overwrite=True)
        except (RwkvError, OSError) as error:
            raise InputError(str(error)) from error

    def rwkv_get_system_info_string(self) -> str:
        """The kernels that run on this machine."""
        from rwkv_np.kernels import dispatch  # imports llvmlite

        return f"rwkv_np {__version__}, kernels {dispatch.choose().path}"


def load_rwkv_shared_library() -> RWKVSharedLibrary:
    """The functions; no library is searched for."""
    return RWKVSharedLibrary()


def _load(path: PathLike, thread_count: int) -> Model:
    from rwkv_np.kernels.threads import most_threads  # imports numba

    threads = min(arguments.whole_number("thread_count", thread_count, 1), most_threads())
    is_v5 = models.model_config(read_model(arguments.path("model_path", path))).architecture.startswith("v5")
    return models.load(path, threads, head_epsilon=_HEAD_EPSILON if is_v5 else None)


def _at(address: int, size: int) -> np.ndarray:
    """The float32 values at an address."""
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
