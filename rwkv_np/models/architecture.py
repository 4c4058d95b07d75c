"""One version of RWKV as a record: everything the rest of the program needs to know about it.

Converter, checkpoint reader, state, loader, inspection and benchmarks do not depend on versions; they use
the record that `registry.py` identifies by a file's names. To add a version, write a module with a
record, a program (the steps for a token, `build.py`), a NumPy graph, and one recurrence kernel. This
module imports neither Numba nor torch: most uses need neither.
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
    """The numbers that determine all shapes of a model.

    dim_ffn    rows of `ffn.key`, 4 n_embd in every published RWKV-4 and RWKV-7
    head_size  channels of a head, since RWKV-5; 0 if there are no heads
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

    sources    names in the checkpoint; several are concatenated
    shape      in the model file
    transform  applied to the float32 values, a few rows at a time; None leaves them unchanged. Takes and
               returns a torch tensor
    is_vector  whether it stays FP32 in an FP16 file
    is_whole   whether `transform` needs the whole tensor in its own shape: only for small tensors
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
    title             as shown to users: "RWKV-4"
    marks             parameters of the first layer that distinguish it from earlier versions
    sizes             shapes of a file's parameters -> Sizes, as far as the shapes determine them
    parameter_shapes  Sizes -> every parameter and its shape in a model file, in the order of checkpoints
    checkpoint_shapes Sizes -> every tensor of a checkpoint and its shape, in the same order
    state_parts       Sizes -> the parts of a state by name, in their order in memory
    plan              shapes of a checkpoint's tensors -> the parameters to write, in the file's order
    is_quantizable    (name, shape in the file) -> whether quantizers convert it by default
    program           adds the steps for a token to a Builder
    graph             the NumPy graph: a Model, slow but easy to read
    ignored           Sizes -> parameters in some model files that no computation reads
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
        """A pickle contains only its name: some of its functions cannot be pickled."""
        return _known, (self.name,)

    def find_problem(self, shapes: Shapes) -> str | None:
        """Why parameters of those shapes are not a model of this version; None if they are."""
        sizes = self.sizes(shapes)
        expected, ignored = self.parameter_shapes(sizes), self.ignored(sizes)
        if missing := [name for name in expected if name not in shapes]:
            return f"lacks the parameter {missing[0]}{_more(missing)}"
        if extra := [name for name in shapes if name not in expected and name not in ignored]:
            return f"contains the parameter {extra[0]}{_more(extra)}, which {self.title} does not have"
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
    """A plan that makes one parameter from each tensor: (name, shape in the checkpoint) -> the parameter."""
    return lambda shapes: [planned(name, shape) for name, shape in shapes.items()]


def common_sizes(shapes: Shapes) -> Sizes:
    """The sizes that are found in the same way for every version; 0 if a parameter is missing."""
    layers = {int(m[1]) for name in shapes if (m := re.match(r"blocks\.(\d{1,6})\.", name))}
    vocab_size, n_embd = (*shapes.get("emb.weight", ()), 0, 0)[:2]
    dim_ffn = (*shapes.get("blocks.0.ffn.key.weight", ()), 0)[0]
    return Sizes(n_layer=len(layers), n_embd=n_embd, dim_ffn=dim_ffn, vocab_size=vocab_size)
