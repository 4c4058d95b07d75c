"""What is evaluated: a model file, its head type and engine. Each is a row of the report.

One file may give several candidates: unchanged; with its head in 8 bits; and with the NumPy graph,
which multiplies the same weights with float32 activations, while the kernels round activations to 8
bits. The difference between these two is the cost of the 8-bit activations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rwkv_np.errors import InputError
from rwkv_np.models import head, load, model_config
from rwkv_np.models.base import Model
from rwkv_np.models.containers import read_model


@dataclass(frozen=True)
class Candidate:
    """A row of the report.

    head_type  the type of the head in memory; head_q8_0 is the option for `load`
    head_epsilon  as in `load`
    """

    name: str
    path: str
    data_type: str
    is_quantized: bool
    vocab_size: int
    head_type: str
    other_head_type: str | None = None
    variant_of: str | None = None
    head_q8_0: bool | None = None
    head_epsilon: float | None = None
    has_float32_activations: bool = False

    def load(self, threads: int | None) -> Model:
        """The model, ready to read."""
        engine = "numpy" if self.has_float32_activations else "fused"
        return load(self.path, threads, engine=engine, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `load` for any engine."""
        return {"head_q8_0": self.head_q8_0, "head_epsilon": self.head_epsilon}

    def variants(self, float32_activations: bool, both_heads: bool) -> Iterator[Candidate]:
        """This one, and the requested variants that differ from it."""
        yield self
        if float32_activations and self.is_quantized:
            name = f"{self.name}, float32 activations"
            yield replace(self, name=name, variant_of=self.name, has_float32_activations=True)
        if both_heads and self.other_head_type:
            name, is_q8_0 = f"{self.name}, {self.other_head_type} head", self.other_head_type == "Q8_0"
            yield replace(self, name=name, variant_of=self.name, head_type=self.other_head_type, head_q8_0=is_q8_0)


def candidate(path: str, name: str | None = None, head_epsilon: float | None = None) -> Candidate:
    """The model file at `path` as it is loaded by default. Raises FormatError, InputError, OSError."""
    file = read_model(path)
    config, matrix = model_config(file, head_epsilon), file.parameters[head.NAME]
    head_type, other = matrix.data_type.name, "Q8_0" if head.can_be_q8_0(matrix) else None
    if other and config.is_quantized:
        head_type, other = other, head_type
    return Candidate(
        name or config.data_type, os.fspath(path), config.data_type, config.is_quantized,
        config.vocab_size, head_type, other, head_epsilon=head_epsilon,
    )  # fmt: skip


def candidates(paths: Sequence[str], head_epsilon: float | None = None) -> list[Candidate]:
    """Files under the shortest names that distinguish them: their types, otherwise their file names, otherwise paths.

    Raises InputError: different vocabularies, or models without a `head_epsilon`; FormatError, OSError.
    """
    found = [candidate(path, head_epsilon=head_epsilon) for path in dict.fromkeys(map(os.path.normpath, paths))]
    for other in found[1:]:
        check_vocabulary(other, found[0])
    stems = [stem(c.path) for c in found]
    for names in ([c.data_type for c in found], stems):
        if len(set(names)) == len(names):
            return [replace(c, name=name) for c, name in zip(found, names)]
    return [replace(c, name=c.path) for c in found]


def check_vocabulary(one: Candidate, other: Candidate) -> None:
    """Raise InputError unless both predict the same tokens."""
    if one.vocab_size != other.vocab_size:
        raise InputError(
            f"{one.path} has a vocabulary of {one.vocab_size}, {other.path} has {other.vocab_size}: "
            "predictions of different vocabularies cannot be compared"
        )


def stem(path: str) -> str:
    """A file's name without its folder and extension."""
    return os.path.splitext(os.path.basename(path))[0]
