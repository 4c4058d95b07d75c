"""Open a model file of either container: rwkv.cpp's format, or GGUF. The first bytes say which it is."""

from __future__ import annotations

from rwkv_np.errors import PathLike
from rwkv_np.files.format import ModelFile, read_model_file
from rwkv_np.files.gguf import is_gguf
from rwkv_np.models.gguf import read_gguf


def read_model(path: PathLike) -> ModelFile:
    """Open the model file at `path`. Raises FormatError: it is not one that this version can read; OSError."""
    return read_gguf(path) if is_gguf(path) else read_model_file(path)
