"""What a model file holds: header, parameters, sizes by type, and the tokenizer it wants.

A file that can be read but not run (of another architecture, or with a parameter missing) is
still shown, with what is wrong with it: finding that out is what one inspects it for.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.format import ModelFile, read_model_file
from rwkv_np.files.quants import by_code
from rwkv_np.models import model_config
from rwkv_np.models.registry import identify
from rwkv_np.tokenizers import NAME_OF_SIZE, PILE_SIZE

Report = dict[str, Any]


def inspect(path: PathLike) -> Report:
    """Everything about the model file at `path`, as plain values for JSON. Raises FormatError, OSError."""
    file = read_model_file(path)
    header_type = by_code(file.header.data_type, file.header.version)
    return {
        "path": file.path,
        "bytes": file.n_bytes,
        "header": asdict(file.header) | {"data_type": header_type.name if header_type else None},
        "architecture": identify(file.parameters),
        "problem": _problem(file),
        "tokenizer": _tokenizer(file.header.n_vocab),
        "types": _by_type(file),
        "parameters": [
            {"name": p.name, "shape": list(p.shape), "type": p.data_type.name, "bytes": p.n_bytes}
            for p in file.parameters.values()
        ],
    }


def _tokenizer(vocab_size: int) -> str:
    if vocab_size == PILE_SIZE:
        return "20B, unless a tokenizer.json lies beside it"
    name = {"bytes": "bytes", "20b": "20B", "world": "World"}.get(NAME_OF_SIZE.get(vocab_size, ""))
    return name or "the model's own: a tokenizer.json beside it, or --tokenizer PATH"


def _problem(file: ModelFile) -> str | None:
    try:
        model_config(file)
    except FormatError as error:
        return error.problem
    return None


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
