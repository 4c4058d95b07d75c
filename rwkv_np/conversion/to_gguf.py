"""Convert a model file of RWKV-6 or RWKV-7 to GGUF, which llama.cpp and programs built on it run.

Every type stays as it is. The vocabulary must be World's: a model file has none, and llama.cpp needs one.
Matrices of RWKV-6 are not divided as in llama.cpp's own files (`rescale_every_n_layers` is 0): its CPU and GPU
code adds in float32, and dividing would change small numbers of half precision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_np import arguments
from rwkv_np.conversion.convert import CHUNK, Converted, Progress
from rwkv_np.errors import FormatError, PathLike
from rwkv_np.files.format import read_model_file
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.gguf_output import Planned, Strings, header, padded, write_data
from rwkv_np.files.output import check_destination, new_file
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType
from rwkv_np.models import model_config
from rwkv_np.models.architecture import Architecture
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.gguf import FAMILIES, their_tensors
from rwkv_np.tokenizers.gguf import MODEL, TOKENS, TYPES, world_tokens
from rwkv_np.tokenizers.world import VOCAB_SIZE, VOCABULARY, load_vocabulary

TEMPLATE = Path(__file__).parents[1] / "data" / "rwkv-world.jinja"
_TYPES = {t.format.name: t for t in GGML_TYPES.values()}
# llama.cpp's numbers for `general.file_type`.
_FILE_TYPES = {
    "FP32": 0, "FP16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
_CONTEXT = 1048576  # what llama.cpp's converter writes; the state has no limit


def to_gguf(
    source: PathLike,
    destination: PathLike,
    *,
    vocabulary: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write the model file `source` as a GGUF file.

    vocabulary  the `tokenizer.*` pairs of the metadata, for a model with another vocabulary than World's
    Raises      FormatError: not RWKV-6 or 7, a type that GGUF lacks, another vocabulary; OutputError, InputError
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    overwrite = arguments.switch("overwrite", overwrite)
    check_destination(destination, source, overwrite)
    file = read_model_file(source)
    config = model_config(file)
    architecture_of(file.path, config.record)
    pairs = world_vocabulary(file.path, config) if vocabulary is None else vocabulary
    return write_gguf(file.parameters, config, destination, file.path, pairs, overwrite=overwrite, progress=progress)


def write_gguf(
    parameters: Mapping[str, Parameter],
    config: ModelConfig,
    destination: str,
    source: str,
    vocabulary: Mapping[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write these parameters of a model; `source` is its name in messages and metadata. Raises as `to_gguf`."""
    architecture = architecture_of(source, config.record)
    plan = [
        (Planned(name, shape, _type(source, sources[0])), sources)
        for name, shape, sources in their_tensors(config.record, parameters)
    ]
    start = header(_metadata(source, config, architecture) | dict(vocabulary), [planned for planned, _ in plan])
    n_bytes = len(start) + sum(padded(planned.n_bytes) for planned, _ in plan)
    check_destination(destination, None, overwrite, n_bytes)
    with new_file(destination, overwrite=overwrite) as out:
        out.write(start)
        for planned, sources in plan:
            write_data(out, planned, (piece.data for p in sources for piece in _pieces(p)))
            if progress:
                progress(planned.name, out.tell(), n_bytes)
    return Converted(len(plan), sum(p.n_weights for _, sources in plan for p in sources), n_bytes)


def architecture_of(source: str, record: Architecture) -> str:
    """GGUF's name of it. Raises FormatError: it has none."""
    found = next((name for name, family in FAMILIES.items() if family.record is record), None)
    if found is None:
        titles = " and ".join(family.record.title for family in FAMILIES.values())
        raise FormatError(source, f"is {record.title}; llama.cpp runs {titles} only")
    return found


def _type(path: str, p: Parameter) -> DataType:
    found = _TYPES.get(p.data_type.format.name)
    if found is None:
        raise FormatError(
            path,
            f"{p.name} is {p.data_type.name} of a version 100 file, which GGUF does not have. Quantize the FP16 file "
            "again: rwkv-np quantize MODEL-FP16.bin MODEL-Q4_1.bin Q4_1",
        )
    return found


def _pieces(p: Parameter) -> Iterator[np.ndarray]:
    step = max(1, CHUNK // p.shape[-1])
    for start in range(0, p.n_weights // p.shape[-1], step):
        yield np.ascontiguousarray(p.blocks(slice(start, start + step))).view(np.uint8)


def _metadata(source: str, config: ModelConfig, architecture: str) -> dict[str, Any]:
    general = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": os.path.splitext(os.path.basename(source))[0],
        "general.file_type": _FILE_TYPES[config.data_type],
        "general.quantization_version": 2,
    }
    own = {
        "context_length": _CONTEXT,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.dim_ffn,
        "wkv.head_size": config.head_size,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.head_count": 0,
    }
    ranks = {
        "rwkv6": ("time_mix_extra_dim", "time_decay_extra_dim"),
        "rwkv7": tuple(f"attention.{name}_lora_rank" for name in ("decay", "iclr", "value_residual_mix", "gate")),
    }
    own |= dict(zip(ranks[architecture], config.ranks))
    if architecture == "rwkv6":
        own["rescale_every_n_layers"] = 0
    return general | {f"{architecture}.{name}": value for name, value in own.items()}


def check_vocabulary(source: str, vocab_size: int) -> None:
    """Raise FormatError if it is not the size of World's."""
    if vocab_size != VOCAB_SIZE:
        raise FormatError(
            source, f"has a vocabulary of {vocab_size:,}; only World's, of {VOCAB_SIZE:,}, can be written in GGUF"
        )


def world_vocabulary(source: str, config: ModelConfig) -> dict[str, Any]:
    """The metadata of World's tokenizer. Raises FormatError: the model has another vocabulary."""
    check_vocabulary(source, config.vocab_size)
    tokens, types = world_tokens(load_vocabulary(VOCABULARY))
    return {
        MODEL: "rwkv",
        TOKENS: Strings(tokens),
        TYPES: types,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        # A blank line: as llama.cpp's converter, since many World models end their answers with it.
        "tokenizer.ggml.eot_token_id": tokens.index(rb"\n\n"),
        "tokenizer.chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }
