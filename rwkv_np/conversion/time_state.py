"""Read the states made by state tuning: an initial state for a model that is itself unchanged.

Such a checkpoint has one `blocks.i.att.time_state` (n_head, N, N) per layer, with values as rows and keys as
columns; the last token's inputs are zero. Our states are transposed (models/v5.py, v7.py). torch is only
needed for these files, not for those of State.save.
"""

from __future__ import annotations

import os
import re

import numpy as np

from rwkv_np import arguments
from rwkv_np.conversion.checkpoint import read_tensors
from rwkv_np.errors import InputError, PathLike, StateFileError
from rwkv_np.files import sniff
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.state import State, StateLayout, load_state

_EXPECTED = "expected a state-tuned checkpoint (.pth or .safetensors), or a file that State.save wrote"


def load_start_state(path: PathLike, config: ModelConfig) -> State:
    """The initial state in `path`: a file of `State.save`, or a state-tuned checkpoint.

    Raises  StateFileError: it is neither, or is for a model of another shape; CheckpointError: damaged
            MissingPackageError: torch or safetensors is not installed; OSError
    """
    return load_state(path, config) if _is_ours(path) else load_time_state(path, config)


def load_time_state(path: PathLike, config: ModelConfig) -> State:
    """The state in a state-tuned checkpoint of RWKV-5, 6 or 7, for a model of that shape.

    Raises  as `load_start_state`
    """
    path = arguments.path("path", path)
    layout = StateLayout(arguments.one_of("config", config, ModelConfig, "a model's config"))
    place = layout.places["wkv"]
    if len(place.shape) != 4:
        raise StateFileError(path, f"cannot be used: {config.record.title} has no matrix-valued state to tune")
    if sniff.kind(os.fspath(path), StateFileError) not in ("checkpoint", "legacy", "safetensors"):
        raise StateFileError(path, f"is not a state; {_EXPECTED}")
    names = [f"blocks.{i}.att.time_state" for i in range(place.shape[0])]
    tensors = read_tensors(path)
    if other := next((name for name in tensors if not re.fullmatch(r"blocks\.\d+\.att\.time_state", name)), None):
        raise StateFileError(path, f"contains {other}, which is not part of a state; {_EXPECTED}")
    if set(tensors) != set(names):
        raise StateFileError(path, f"has states of {len(tensors)} layers; this model ({layout.model}) has {len(names)}")
    state = State(layout)
    for i, name in enumerate(names):
        _put(path, name, tensors[name].whole().numpy(), state.wkv[i])
    return state


def _put(path: PathLike, name: str, found: np.ndarray, to: np.ndarray) -> None:
    if found.shape != to.shape:
        raise StateFileError(path, f"{name} has the shape {found.shape}; this model expects {to.shape}")
    try:
        arguments.finite(name, found)
    except InputError as error:
        raise StateFileError(path, str(error)) from error
    to[:] = found.transpose(0, 2, 1)


def _is_ours(path: PathLike) -> bool:
    """Whether `State.save` wrote the file: it is a zip archive, as checkpoints are."""
    return sniff.kind(os.fspath(path), StateFileError) == "state"
