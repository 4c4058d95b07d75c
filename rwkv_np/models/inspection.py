"""The content of a model file: header, parameters, sizes by type, size of a state, and the tokenizer.

A file that can be read but not run (another architecture, or a missing parameter) is still shown,
together with the problem: that is the purpose of an inspection.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rwkv_np.errors import FormatError, PathLike, TokenizerError, as_line
from rwkv_np.files.format import ModelFile
from rwkv_np.files.gguf_reader import Array, Value
from rwkv_np.models import data_type, header_type, model_config
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.containers import read_model
from rwkv_np.models.registry import identify, named_ranks, other_name_of, title_of
from rwkv_np.models.state import StateLayout
from rwkv_np.tokenizers import NAME_OF_SIZE, PILE_SIZE
from rwkv_np.tokenizers.gguf import other_kind, tokenizer_of

Report = dict[str, Any]


def inspect(path: PathLike) -> Report:
    """Everything about the model file at `path`, as plain values for JSON. Raises FormatError, OSError."""
    file = read_model(path)
    said, kept = header_type(file), data_type(file)
    found, (config, problem) = identify(file.parameters), _config(file)
    return {
        "path": file.path,
        "bytes": file.n_bytes,
        "header": asdict(file.header) | {"data_type": said},
        "data_type": kept,
        "warning": None if said == kept else f"the header says {said}, but no matrix has that type; most are {kept}",
        "architecture": found,
        "title": title_of(found),
        "other_name": other_name_of(found),
        "problem": problem,
        "sizes": _sizes(config) if config else None,
        "tokenizer": _tokenizer(file),
        "gguf": _gguf(file),
        "types": _by_type(file),
        "parameters": [
            {"name": p.name, "shape": list(p.shape), "type": p.data_type.name, "bytes": p.n_bytes}
            for p in file.parameters.values()
        ],
    }


def _gguf(file: ModelFile) -> dict[str, Any] | None:
    """The metadata of a GGUF file; an array is shown by its length, and a long text by its beginning."""
    if file.gguf is None:
        return None
    return {key: _shown(value) for key, value in file.gguf.metadata.items()}


def _shown(value: Value) -> Any:
    if isinstance(value, Array):
        return f"an array of {len(value):,}"
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
        return str(value)
    return as_line(value, 80) if isinstance(value, str) else value


def _tokenizer(file: ModelFile) -> str:
    try:
        if file.gguf and (found := tokenizer_of(file.gguf)):
            return found.name if found.name == "World" else "the file's own"
    except TokenizerError as error:
        return f"none that can be used: {error.problem}"
    if file.gguf and (kind := other_kind(file.gguf)):
        return f"{kind}, which is not read from GGUF files: a tokenizer.json next to it, or --tokenizer PATH"
    vocab_size = file.header.n_vocab
    if vocab_size == PILE_SIZE:
        return "20B, unless there is a tokenizer.json next to the model"
    name = {"bytes": "bytes", "20b": "20B", "world": "World"}.get(NAME_OF_SIZE.get(vocab_size, ""))
    return name or "the model's own: a tokenizer.json next to it, or --tokenizer PATH"


def _config(file: ModelFile) -> tuple[ModelConfig | None, str | None]:
    """The config of the file, or its problem."""
    try:
        return model_config(file), None
    except FormatError as error:
        return None, error.problem


def _sizes(config: ModelConfig) -> Report:
    """Sizes that are not in the header; `state_bytes` is the size of a conversation's state in memory."""
    return {
        "dim_ffn": config.dim_ffn,
        "n_head": config.n_head,
        "head_size": config.head_size,
        "ranks": named_ranks(config.architecture, config),
        "state_bytes": StateLayout(config).n_bytes,
    }


def _by_type(file: ModelFile) -> list[Report]:
    rows: dict[str, Report] = {}
    for p in file.parameters.values():
        row = rows.setdefault(
            p.data_type.name,
            {"type": p.data_type.name, "bits_per_weight": p.data_type.format.bits_per_weight,
             "parameters": 0, "weights": 0, "bytes": 0},
        )  # fmt: skip
        row["parameters"] += 1
        row["weights"] += p.n_weights
        row["bytes"] += p.n_bytes
    return sorted(rows.values(), key=lambda row: -int(row["bytes"]))
