"""From a model file to a model that reads tokens.

Here a file is compared with the architecture that its parameters' names suggest. An architecture is
described by its record (`architecture.py`); each version is a module in this folder.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from rwkv_np import arguments
from rwkv_np.errors import FormatError, InputError, PathLike
from rwkv_np.files.format import ModelFile
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.quants import by_code
from rwkv_np.kernels.equations import HEAD_EPSILON
from rwkv_np.models.base import Model, Progress, Run
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.containers import read_model
from rwkv_np.models.pool import StatePool
from rwkv_np.models.registry import ARCHITECTURES, identify, titles

ENGINES = ("fused", "numpy")

_MEND = "Convert the checkpoint again: rwkv-np convert CHECKPOINT.pth MODEL.bin"


def load(
    path: PathLike,
    threads: int | None = None,
    *,
    engine: str = "fused",
    head_q8_0: bool | None = None,
    head_epsilon: float | None = None,
    progress: Progress | None = None,
) -> Model:
    """Map the model file at `path` and return the model in it.

    threads    how many work on a token; default: the physical cores that the process may use, or one for a small model
    engine     "fused": kernels on packed weights; "numpy": the plain graph, slow but easy to read
    head_q8_0  convert an FP16 or FP32 head to 8 bits: fewer bytes to read per token; default: if the
               other matrices are quantized (head.py explains the cost)
    head_epsilon  of the head norm, if it differs from the official package's: 1e-5 for RWKV-5 models from
               before November 2023, or to compare with rwkv.cpp (models/v5.py); only for RWKV-5
    progress   called with (what is being done, done, total) while kernels compile and weights load
    Raises     FormatError, InputError, OSError
    """
    path = arguments.path("path", path)
    options = _checked(threads, engine, head_q8_0, head_epsilon)
    file = read_model(path)
    config = model_config(file, options["head_epsilon"])
    # models/head.py explains the default for quantized models.
    as_q8_0 = config.is_quantized if options["head_q8_0"] is None else options["head_q8_0"]
    make = _engine_of(config, engine)
    model: Model = make(config, file.parameters, options["threads"], head_q8_0=as_q8_0, progress=progress)
    model._load_again = functools.partial(load, os.path.abspath(path), **options)
    return model


def _checked(threads: int | None, engine: str, head_q8_0: bool | None, head_epsilon: float | None) -> dict[str, Any]:
    """The options of `load`, checked before a file is opened. Raises InputError."""
    if not isinstance(engine, str) or engine not in ENGINES:
        raise InputError(f"engine is {arguments.shown(engine)}; expected fused or numpy")
    return {
        "threads": None if threads is None else arguments.whole_number("threads", threads, 1),
        "engine": engine,
        "head_q8_0": None if head_q8_0 is None else arguments.switch("head_q8_0", head_q8_0),
        "head_epsilon": None if head_epsilon is None else arguments.number("head_epsilon", head_epsilon, 0, 1),
    }


def _engine_of(config: ModelConfig, engine: str) -> Callable[..., Model]:
    if engine == "numpy":
        return config.record.graph
    # Numba takes half a second to import: inspecting or converting a file does not wait for it.
    from rwkv_np.models.engine import Engine

    return Engine


def model_config(file: ModelFile, head_epsilon: float | None = None) -> ModelConfig:
    """The sizes and types of the model, after comparing header and parameters with each other.

    Raises FormatError; InputError: `head_epsilon` is given for a version with a fixed one
    """
    record = ARCHITECTURES.get(found := identify(file.parameters))
    if record is None:
        raise FormatError(file.path, f"contains {found}; supported: {titles()}")
    shapes = {name: parameter.shape for name, parameter in file.parameters.items()}
    sizes = record.sizes(shapes)
    _check_header(file, {"n_layer": sizes.n_layer, "n_embed": sizes.n_embd, "n_vocab": sizes.vocab_size})
    if problem := record.find_problem(shapes):
        raise FormatError(file.path, f"{problem}. {'Copy or download it again' if file.gguf else _MEND}")
    if head_epsilon is not None and not record.name.startswith("v5"):
        raise InputError(f"{file.path}: head_epsilon is only for RWKV-5, and this is {record.title}; leave it out")
    types = {p.data_type.code: p.data_type.name for p in file.parameters.values()}
    return ModelConfig(
        **vars(sizes),
        head_epsilon=HEAD_EPSILON if head_epsilon is None else head_epsilon,
        record=record,
        file_version=file.header.version,
        data_type=data_type(file),
        data_types=tuple(types[code] for code in sorted(types)),
    )


def header_type(file: ModelFile) -> str:
    """The type of most matrices, according to the header."""
    if file.gguf:
        return GGML_TYPES[file.header.data_type].name
    found = by_code(file.header.data_type, file.header.version)
    assert found is not None  # the reader refuses unknown codes
    return found.name


def data_type(file: ModelFile) -> str:
    """The type of the matrices: the header's, unless no matrix has that type; then the type of most weights.

    The header may name another type than most matrices have: some are left unchanged, or their type was chosen by
    name. A type that no matrix has is not an error: a quantizer writes it if no row is a multiple of 32 weights.
    """
    record = ARCHITECTURES.get(identify(file.parameters))
    n_weights: Counter[str] = Counter()
    for name, p in file.parameters.items():
        if record and record.is_quantizable(name, p.shape):
            n_weights[p.data_type.name] += p.n_weights
    said = header_type(file)
    return said if said in n_weights or not n_weights else n_weights.most_common(1)[0][0]


def _check_header(file: ModelFile, found: dict[str, int]) -> None:
    for name, size in found.items():
        if (said := getattr(file.header, name)) != size:
            mend = "Copy or download it again" if file.gguf else _MEND
            raise FormatError(file.path, f"the header says {name} = {said}, but the parameters have {size}. {mend}")


__all__ = ["ENGINES", "Model", "ModelConfig", "Progress", "Run", "StatePool", "load", "model_config"]
