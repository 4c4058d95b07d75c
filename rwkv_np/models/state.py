"""What an RWKV model remembers of everything it has read: a few vectors a layer.

The state is small (2.6 MB at 7B) and complete: a copy of it is a saved conversation, and
going back to it undoes whatever came after. `Model.forward` never changes one that it is
given, so a state may be kept, shared and returned to freely.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import InputError, PathLike, StateFileError
from rwkv_np.files.output import new_file
from rwkv_np.models.config import ModelConfig


@dataclass
class State:
    """The memory of one conversation.

    shift  (n_layer, 2, n_embd) float32: the last token's input to time mix and to channel mix
    wkv    v4: (n_layer, 3, n_embd) float32: numerator a, denominator b and their exponent p
    """

    architecture: str
    shift: np.ndarray
    wkv: np.ndarray

    def copy(self) -> State:
        """A state that shares nothing with this one."""
        return State(self.architecture, self.shift.copy(), self.wkv.copy())

    def check(self, config: ModelConfig) -> None:
        """Raise InputError unless this is a state of a model of that shape."""
        found = {"architecture": self.architecture, "shift": self.shift.shape, "wkv": self.wkv.shape}
        expected = {"architecture": config.architecture, **_shapes(config)}
        for name, value in found.items():
            if value != expected[name]:
                raise InputError(
                    f"the state belongs to another model: its {name} is {value}; this model "
                    f"({config.n_layer} layers, n_embd {config.n_embd}) expects {expected[name]}"
                )

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """Write the state to `path` (an .npz file under any name). Raises OutputError."""
        buffer = io.BytesIO()
        np.savez(buffer, architecture=np.array(self.architecture), shift=self.shift, wkv=self.wkv)
        with new_file(path, overwrite=overwrite, durable=True) as file:
            file.write(buffer.getvalue())


def load_state(path: PathLike, config: ModelConfig) -> State:
    """Read a state that `State.save` wrote, for a model of that shape. Raises StateFileError."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            state = State(str(arrays["architecture"]), arrays["shift"], arrays["wkv"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise StateFileError(
            path, "is damaged, or no saved state; expected a file that State.save wrote"
        ) from error
    try:
        state.check(config)
    except InputError as error:
        raise StateFileError(path, str(error)) from error
    if state.shift.dtype != np.float32 or state.wkv.dtype != np.float32:
        raise StateFileError(path, f"holds {state.wkv.dtype} values; expected float32")
    return state


def initial_state(config: ModelConfig) -> State:
    """The state of a model that has read nothing."""
    shapes = _shapes(config)
    wkv = np.zeros(shapes["wkv"], np.float32)
    wkv[:, 2] = -1e30  # the exponent of an empty sum: any real key exceeds it
    return State(config.architecture, np.zeros(shapes["shift"], np.float32), wkv)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {"shift": (config.n_layer, 2, config.n_embd), "wkv": (config.n_layer, 3, config.n_embd)}
