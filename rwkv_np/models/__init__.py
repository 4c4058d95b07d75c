"""From a model file to a model that reads tokens: one architecture a module.

Here a file is held against the architecture that its parameters' names suggest; v5, v6 and
v7 become modules beside `v4.py` and rows of `ENGINES`.
"""

from __future__ import annotations

import importlib

from rwkv_np.errors import FormatError, InputError, PathLike
from rwkv_np.files.format import ModelFile, read_model_file
from rwkv_np.files.quants import by_code
from rwkv_np.models import v4
from rwkv_np.models.base import Model, Progress
from rwkv_np.models.config import ModelConfig, identify

# (architecture, engine) -> where its class is. Numba takes half a second to import: who only
# looks at a file, or converts one, does not wait for it.
ENGINES = {
    ("v4", "fused"): ("rwkv_np.models.v4_fused", "FusedRWKV4"),
    ("v4", "numpy"): ("rwkv_np.models.v4", "RWKV4"),
}
ARCHITECTURES = {architecture for architecture, _ in ENGINES}

_MEND = "Convert the checkpoint again: python tools/convert.py CHECKPOINT.pth MODEL.bin"


def load(
    path: PathLike,
    threads: int | None = None,
    *,
    engine: str = "fused",
    head_q8_0: bool | None = None,
    progress: Progress | None = None,
) -> Model:
    """Map the model file at `path` and return the model in it.

    threads    how many work on a token; None: the physical cores that the process may use, one for a small model
    engine     "fused": kernels on packed weights; "numpy": the plain graph, slow and to be read
    head_q8_0  hold an FP16 or FP32 head in 8 bits: fewer bytes to read for a token; None: where the
               other matrices are quantized (head.py says what it costs)
    progress   called with (what is being done, done, total) while kernels compile and weights load
    Raises     FormatError, InputError, OSError
    """
    file = read_model_file(path)
    config = model_config(file)
    if (config.architecture, engine) not in ENGINES:
        raise InputError(f"engine is {engine!r}; expected fused or numpy")
    module, name = ENGINES[config.architecture, engine]
    build = getattr(importlib.import_module(module), name)
    if head_q8_0 is None:
        head_q8_0 = config.is_quantized  # models/head.py says why
    model: Model = build(config, file.parameters, threads, head_q8_0=head_q8_0, progress=progress)
    return model


def model_config(file: ModelFile) -> ModelConfig:
    """What the file holds, once header and parameters have been held against each other."""
    architecture = identify(file.parameters)
    if architecture not in ARCHITECTURES:
        raise FormatError(file.path, f"holds {architecture}; RWKV-4 is what can be run")
    shapes = {name: parameter.shape for name, parameter in file.parameters.items()}
    _check_header(file, *v4.sizes(shapes))
    if problem := v4.find_problem(shapes):
        raise FormatError(file.path, f"{problem}. {_MEND}")
    n_layer, n_embd, dim_ffn, vocab_size = v4.sizes(shapes)
    types = {p.data_type.code: p.data_type.name for p in file.parameters.values()}
    header_type = by_code(file.header.data_type, file.header.version)
    assert header_type is not None  # the reader has refused any other code
    return ModelConfig(
        architecture, n_layer, n_embd, dim_ffn, vocab_size,
        file.header.version, header_type.name, tuple(types[code] for code in sorted(types)),
    )  # fmt: skip


def _check_header(file: ModelFile, n_layer: int, n_embd: int, dim_ffn: int, vocab_size: int) -> None:
    header = file.header
    said = {"n_layer": header.n_layer, "n_embed": header.n_embed, "n_vocab": header.n_vocab}
    found = {"n_layer": n_layer, "n_embed": n_embd, "n_vocab": vocab_size}
    for name, size in said.items():
        if size != found[name]:
            raise FormatError(
                file.path, f"the header says {name} = {size}, its parameters {found[name]}. {_MEND}"
            )


__all__ = ["ENGINES", "Model", "load", "model_config"]
