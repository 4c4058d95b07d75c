"""One version of RWKV as a record: everything that the rest of the program needs to know about it.

Converter, checkpoint reader, state, loader, inspection and bench do not know versions; they ask the
record of the version that a file's names identify (`registry.py`). A new version is a module with a
record, a program (what a token goes through, `build.py`), a NumPy graph, and one recurrence
kernel. No Numba and no torch here: most uses need neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from rwkv_np.models.base import Model
    from rwkv_np.models.build import Builder

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that all shapes of a model follow from.

    dim_ffn    rows of `ffn.key`, 4 n_embd in every published RWKV-4 and RWKV-7
    head_size  channels of a head, from RWKV-5 on; 0 where there are no heads
    ranks      of the low-rank matrices, in the architecture's own order
    """

    n_layer: int
    n_embd: int
    dim_ffn: int
    vocab_size: int
    head_size: int = 0
    ranks: tuple[int, ...] = ()

    @property
    def n_head(self) -> int:
        """The number of heads; 0 if the channels do not divide evenly."""
        return self.n_embd // self.head_size if self.head_size and self.n_embd % self.head_size == 0 else 0


class Part(NamedTuple):
    """One part of a state: its shape (n_layer, ...), and its initial value.

    `fill` is a number, or an array that fits the shape's last dimensions.
    """

    shape: tuple[int, ...]
    fill: float | np.ndarray = 0.0


class Planned(NamedTuple):
    """A parameter of a model file, and its sources in a checkpoint.

    sources    names in the checkpoint; several follow each other
    shape      in the model file
    transform  applied to the float32 values, a piece of rows at a time; None leaves them. Takes and
               returns a torch tensor
    is_vector  whether it stays FP32 in an FP16 file
    is_whole   whether `transform` needs the whole tensor in its own shape: for small ones alone
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    is_vector: bool
    transform: Callable[[Any], Any] | None = None
    is_whole: bool = False


@dataclass(frozen=True)
class Architecture:
    """One version of RWKV.

    name              as in ModelConfig.architecture: "v4"
    title             for people: "RWKV-4"
    marks             parameters of the first layer that distinguish it from earlier versions
    sizes             shapes of a file's parameters -> Sizes, as far as they tell
    parameter_shapes  Sizes -> every parameter and its shape in a model file, in the order of checkpoints
    checkpoint_shapes Sizes -> every tensor of a checkpoint and its shape, in the same order
    state_parts       Sizes -> the parts of a state by name, in their order in memory
    plan              shapes of a checkpoint's tensors -> what the converter makes of them, in the file's order
    is_quantizable    (name, shape in the file) -> whether quantizers touch it when not told otherwise
    program           writes what a token goes through into a Builder
    graph             the NumPy graph: a Model, slow and to be read
    ignored           Sizes -> parameters that some files have and no computation reads, in the model file
    """

    name: str
    title: str
    marks: tuple[str, ...]
    sizes: Callable[[Shapes], Sizes]
    parameter_shapes: Callable[[Sizes], dict[str, tuple[int, ...]]]
    checkpoint_shapes: Callable[[Sizes], dict[str, tuple[int, ...]]]
    state_parts: Callable[[Sizes], dict[str, Part]]
    plan: Callable[[Shapes], list[Planned]]
    is_quantizable: Callable[[str, tuple[int, ...]], bool]
    program: Callable[[Builder], None]
    graph: Callable[..., Model]
    ignored: Callable[[Sizes], dict[str, tuple[int, ...]]] = lambda sizes: {}

    def __reduce__(self) -> tuple[Callable[[str], Architecture], tuple[str]]:
        """In a pickle it is its name: its functions are the code's, and some of them have no name."""
        return _known, (self.name,)

    def find_problem(self, shapes: Shapes) -> str | None:
        """Why parameters of those shapes are not a model of this version; None if they are."""
        sizes = self.sizes(shapes)
        expected, ignored = self.parameter_shapes(sizes), self.ignored(sizes)
        if missing := [name for name in expected if name not in shapes]:
            return f"lacks the parameter {missing[0]}{_more(missing)}"
        if extra := [name for name in shapes if name not in expected and name not in ignored]:
            return f"holds the parameter {extra[0]}{_more(extra)}, which {self.title} does not have"
        for name, shape in (ignored | expected).items():
            if name in shapes and tuple(shapes[name]) != shape:
                return f"{name} has the shape {tuple(shapes[name])}; expected {shape}"
        return None


def _known(name: str) -> Architecture:
    from rwkv_np.models.registry import ARCHITECTURES  # which imports this

    return ARCHITECTURES[name]


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def each_tensor(planned: Callable[[str, tuple[int, ...]], Planned]) -> Callable[[Shapes], list[Planned]]:
    """A plan that makes one parameter of each tensor: (name, shape in the checkpoint) -> what becomes of it."""
    return lambda shapes: [planned(name, shape) for name, shape in shapes.items()]


def common_sizes(shapes: Shapes) -> Sizes:
    """The sizes that every version's parameters tell in the same way; 0 where one is missing."""
    layers = {int(m[1]) for name in shapes if (m := re.match(r"blocks\.(\d{1,6})\.", name))}
    vocab_size, n_embd = (*shapes.get("emb.weight", ()), 0, 0)[:2]
    dim_ffn = (*shapes.get("blocks.0.ffn.key.weight", ()), 0)[0]
    return Sizes(n_layer=len(layers), n_embd=n_embd, dim_ffn=dim_ffn, vocab_size=vocab_size)
