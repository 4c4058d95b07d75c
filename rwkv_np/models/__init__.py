"""From a model file to a model that reads tokens: one architecture a module.

Here a file is held against the architecture that its parameters' names suggest; v5, v6 and
v7 become modules beside `v4.py` and rows of `ARCHITECTURES`.
"""

from __future__ import annotations

from rwkv_np.config import ModelConfig, identify
from rwkv_np.errors import FormatError, PathLike
from rwkv_np.format import ModelFile, read_model_file
from rwkv_np.models import v4
from rwkv_np.models.base import Model
from rwkv_np.quants import by_code

ARCHITECTURES = {"v4": v4.RWKV4}

_MEND = "Convert the checkpoint again: python tools/convert.py CHECKPOINT.pth MODEL.bin"


def load(path: PathLike, threads: int | None = None) -> Model:
    """Map the model file at `path` and return the model in it.

    threads  how many the matrix products may use; None leaves it to NumPy
    Raises   FormatError, InputError, OSError
    """
    file = read_model_file(path)
    config = model_config(file)
    return ARCHITECTURES[config.architecture](config, file.parameters, threads)


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


__all__ = ["ARCHITECTURES", "Model", "load", "model_config"]
