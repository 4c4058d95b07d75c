"""llama.cpp on a GGUF file, through the C interface of its shared library (llama.h), for `peers.py`.

The interface passes structures by value, and they grow with almost every version. Only their defaults are needed,
so here they are opaque: memory that is larger than any of them. The defaults include the repacking of weights
for the processor. A path to `llama-bench`, or to any other program of a build, stands for the library next to it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import click
import numpy as np

LIBRARY = "libllama.so"
ROOM = 2048  # bytes; the structures of 2026 have at most 200
MOST_TOKENS = 512  # of one call, by default
_NO_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class Opaque(ctypes.Structure):
    """A structure of llama.h with its defaults."""

    _fields_ = (("bytes", ctypes.c_byte * ROOM),)


def library_of(path: Path) -> Path:
    """The shared library that `path` names, or that is in the same folder as the program `path`."""
    found = path if ".so" in path.name or path.suffix in (".dylib", ".dll") else path.parent / LIBRARY
    if not found.is_file():
        raise click.ClickException(f"{path}: {found} does not exist; expected a build with shared libraries")
    return found


class LlamaCpp:
    """A model in llama.cpp: `decode` reads one token, `prefill` a sequence; both keep the state, and give logits."""

    title = "llama.cpp"
    has_sequence = True

    def __init__(self, path: Path, model: Path, threads: int) -> None:
        self.lib = _declared(ctypes.CDLL(str(library_of(path).resolve())))
        self.lib.llama_log_set(_NO_LOG, None)
        self.lib.llama_backend_init()
        loaded = self.lib.llama_model_load_from_file(str(model).encode(), self.lib.llama_model_default_params())
        if not loaded:
            raise click.ClickException(f"llama.cpp cannot load {model}; run its llama-bench to see why")
        self.context = self.lib.llama_init_from_model(loaded, self.lib.llama_context_default_params())
        self.n_vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(loaded))
        self.lib.llama_set_n_threads(self.context, threads, threads)

    def decode(self, token: int) -> np.ndarray:
        """Read one token."""
        return self.prefill(np.array([token]))

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """Read a sequence of up to MOST_TOKENS at once; the logits after its last token, float32."""
        ids = np.ascontiguousarray(tokens, np.int32)
        if code := self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(ids.ctypes.data, len(ids))):
            raise click.ClickException(f"llama_decode failed with {code}")
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.n_vocab,)).copy()

    def forget(self) -> None:
        """Start a new sequence."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of the functions that are called."""
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    for name, result, *arguments in (
        ("llama_log_set", None, type(_NO_LOG), pointer),
        ("llama_backend_init", None),
        ("llama_model_default_params", Opaque),
        ("llama_context_default_params", Opaque),
        ("llama_model_load_from_file", pointer, ctypes.c_char_p, Opaque),
        ("llama_init_from_model", pointer, pointer, Opaque),
        ("llama_model_get_vocab", pointer, pointer),
        ("llama_vocab_n_tokens", number, pointer),
        ("llama_set_n_threads", None, pointer, number, number),
        ("llama_batch_get_one", Opaque, pointer, number),
        ("llama_decode", number, pointer, Opaque),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), pointer, number),
        ("llama_get_memory", pointer, pointer),
        ("llama_memory_clear", None, pointer, ctypes.c_bool),
    ):
        try:
            function = getattr(lib, name)
        except AttributeError as error:
            raise click.ClickException(f"{name} is missing: expected llama.cpp of May 2025 or later") from error
        function.restype, function.argtypes = result, arguments
    return lib
