"""The state of an RWKV model after all tokens it has read: a few vectors or matrices per layer.

A state is one flat float32 array, so that kernels need only one address and a copy is one operation.
Its parts (`shift`, `wkv`) are named views. The architecture's record defines the parts. In memory the
last dimension of each part is padded to whole blocks of 32, as kernels need it; files contain the
parts without padding.

A state is complete: a copy of it is a saved conversation, and returning to it undoes everything that
came after. `Model.forward` never changes the given state; `Model.advance` does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import FileError, InputError, PathLike, StateFileError
from rwkv_np.files.archive import Archive, Damaged, open_archive
from rwkv_np.files.output import new_file
from rwkv_np.kernels.layout import BLOCK, round_up
from rwkv_np.models.config import ModelConfig

Parts = dict[str, np.ndarray]
"""The parts of a state by name, each (n_layer, ...) float32."""


@dataclass(frozen=True)
class Place:
    """Where a part is: `start` in float32 numbers; its shape, and its shape with padding."""

    start: int
    shape: tuple[int, ...]
    padded: tuple[int, ...]
    fill: float | np.ndarray

    @property
    def end(self) -> int:
        return self.start + math.prod(self.padded)

    @property
    def layer_size(self) -> int:
        """Numbers from one layer to the next."""
        return math.prod(self.padded[1:])


class StateLayout:
    """The memory layout of a model's states.

    places  the parts by name, in order
    size    float32 numbers of a state
    """

    def __init__(self, config: ModelConfig) -> None:
        self.architecture = config.architecture
        self.model = f"{config.n_layer} layers, n_embd {config.n_embd}"
        self.places: dict[str, Place] = {}
        self.size = 0
        for name, (shape, fill) in config.record.state_parts(config).items():
            padded = (*shape[:-1], round_up(shape[-1], BLOCK))
            self.places[name] = Place(self.size, shape, padded, fill)
            self.size = self.places[name].end

    @property
    def n_bytes(self) -> int:
        """Bytes of a state in memory."""
        return 4 * self.size

    def parts(self, data: np.ndarray) -> Parts:
        """Views of the flat array of one state."""
        return {
            name: data[place.start : place.end].reshape(place.padded)[..., : place.shape[-1]]
            for name, place in self.places.items()
        }

    def check(self, layout: StateLayout) -> None:
        """Raise InputError unless a model's `layout` is the same."""
        if self is layout:
            return
        _check("architecture", self.architecture, layout.architecture, layout)
        for name, place in layout.places.items():
            _check(name, self.places[name].shape, place.shape, layout)

    def clear(self, data: np.ndarray) -> None:
        """Set the flat array to the empty state."""
        for place in self.places.values():
            data[place.start : place.end].reshape(place.padded)[:] = place.fill


class State:
    """The memory of one conversation.

    data    (layout.size,) float32: the whole state
    parts   named views of it
    shift   (n_layer, 2, n_embd) float32: the last token's input to time mix and to channel mix
    wkv     v4: (n_layer, 3, n_embd) float32: numerator a, denominator b and their exponent p
            v5, v6, v7: (n_layer, n_head, N, N) float32: S of each head as [key][value], in memory and in
            saved files; the official package and rwkv.cpp store v7's S as [value][key]
    """

    def __init__(self, layout: StateLayout, data: np.ndarray | None = None) -> None:
        self.layout = layout
        self.data = np.empty(layout.size, np.float32) if data is None else data
        if data is None:
            layout.clear(self.data)

    @classmethod
    def from_parts(cls, layout: StateLayout, architecture: str, parts: Mapping[str, np.ndarray]) -> State:
        """A state with copies of those parts. Raises InputError: they do not fit such a model."""
        _check("architecture", architecture, layout.architecture, layout)
        state = cls(layout)
        for name, place in layout.places.items():
            part = np.asarray(parts.get(name, np.empty(0)))
            _check(name, part.shape, place.shape, layout)
            # Data from a file is checked before it reaches a kernel: another number type
            # would be read as float32 there.
            if part.dtype.newbyteorder("=") != np.float32:
                raise InputError(f"the state's {name} has {part.dtype} values; expected float32")
            arguments.finite(f"the state's {name}", part)
            state.parts[name][:] = part
        return state

    @property
    def architecture(self) -> str:
        return self.layout.architecture

    @property
    def parts(self) -> Parts:
        arguments.memory("the state", self.data, (self.layout.size,), changes=False)
        return self.layout.parts(self.data)

    @property
    def shift(self) -> np.ndarray:
        return self.parts["shift"]

    @property
    def wkv(self) -> np.ndarray:
        return self.parts["wkv"]

    @property
    def n_bytes(self) -> int:
        """Its size in memory, in bytes."""
        return self.data.nbytes

    def copy(self) -> State:
        """An independent copy."""
        return State(self.layout, self.data.copy())

    def __copy__(self) -> State:
        return self.copy()

    def check(self, layout: StateLayout, *, changes: bool = True) -> None:
        """Raise InputError unless this is a state for a model of that shape that kernels can read and write."""
        arguments.memory("the state", self.data, (self.layout.size,), changes=changes)
        self.layout.check(layout)

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """Write the state to `path` (an .npz file under any name). Raises OutputError."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: np.ascontiguousarray(part) for name, part in self.parts.items()}
        np.savez(buffer, architecture=np.array(self.architecture), **arrays)  # Any, since savez also has options
        with new_file(path, overwrite=overwrite, durable=True, mend="pass overwrite=True, or use another path") as file:
            file.write(buffer.getvalue())


def _check(name: str, found: object, expected: object, layout: StateLayout) -> None:
    if found != expected:
        raise InputError(
            f"the state belongs to another model: its {name} is {found}; this model ({layout.model}) expects {expected}"
        )


def load_state(path: PathLike, config: ModelConfig) -> State:
    """Read a state that `State.save` wrote, for a model of that shape. Raises StateFileError, OSError."""
    path = arguments.path("path", path)
    layout = StateLayout(arguments.one_of("config", config, ModelConfig, "a model's config"))
    try:
        with open_archive(path) as archive:
            architecture = archive.word("architecture")
            _check("architecture", architecture, layout.architecture, layout)
            return State.from_parts(layout, architecture, read_parts(archive, layout))
    except Damaged as error:
        raise StateFileError(
            path, f"is damaged or not a saved state ({error}); expected a file that State.save wrote"
        ) from error
    except (InputError, FileError) as error:
        raise StateFileError(path, error.problem if isinstance(error, FileError) else str(error)) from error


def read_parts(archive: Archive, layout: StateLayout, prefix: str = "") -> Parts:
    """The parts of a state in an archive, whose names begin with `prefix`.

    Raises  InputError: they have another shape, which is checked before unpacking; Damaged
    """
    parts = {}
    for name, place in layout.places.items():
        header = archive.header(prefix + name)
        _check(name, header.shape, place.shape, layout)
        parts[name] = archive.array(prefix + name, header.n_bytes)
    return parts
