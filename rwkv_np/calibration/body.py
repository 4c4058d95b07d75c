"""Encodes the matrices of a model one after the other, each on what the matrices before it, already rounded, let pass.

Layer by layer, only one layer's weights are in memory, beside the hidden vectors of all windows. A half of a layer
is run once for each group of matrices whose inputs depend on each other, and once more at its end. Finished matrices
go to a store (`unfinished.py`), so an interrupted run continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from rwkv_np.calibration import gptq
from rwkv_np.calibration.hessian import Hessian, token_weights
from rwkv_np.calibration.layers import HALVES, Hidden, Layer, Matrix
from rwkv_np.files.format import ModelFile
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding, LayerNorm

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")  # with integers and scales of their own; Q8_0 gains nothing
TOGETHER = 8  # windows whose inputs are collected before they are added to H


_T = TypeVar("_T")


class Store(Protocol):
    """Where finished matrices are."""

    def load(self, name: str, shape: tuple[int, ...], data_type: DataType) -> Parameter | None:
        """The finished matrix, if there is one."""

    def save(self, name: str, shape: tuple[int, ...], data_type: DataType, blocks: np.ndarray) -> Parameter:
        """Keep a finished matrix."""


class Encoded(NamedTuple):
    """A finished matrix; its loss tr(E H E^T), None if it is from an earlier run."""

    name: str
    parameter: Parameter
    loss: float | None


Progress = Callable[[str, int, int], None]
"""Called with the name of a matrix, the weights done, and their total."""


class Body:
    """All layers of a source file, on some windows.

    sensitivities  by matrix, (tokens,): what each token counts (`fisher.py`)
    part           the columns that H has together, at most (`hessian.py`)
    """

    def __init__(
        self, file: ModelFile, config: ModelConfig, windows: Sequence[np.ndarray],
        sensitivities: Mapping[str, np.ndarray], threads: int, part: int,
    ) -> None:  # fmt: skip
        self._parameters, self._config, self._threads, self._part = file.parameters, config, threads, part
        self._means = {name: float(s.mean()) for name, s in sensitivities.items()}
        self._weights = {name: token_weights(s) for name, s in sensitivities.items()}
        self._graph = config.record.graph(config, file.parameters)
        self._starts = np.cumsum([0, *map(len, windows)])
        emb = Embedding(file.parameters["emb.weight"])
        ln0 = LayerNorm.of(file.parameters, "blocks.0.ln0")
        self._hidden = [Hidden(ln0(emb(ids.astype(np.int64)))) for ids in windows]

    def encode(self, types: Mapping[str, DataType], store: Store, progress: Progress) -> list[Encoded]:
        """Encode the matrices named in `types`, and keep them in the store."""
        total = sum(self._parameters[name].n_weights for name in types)
        done, results = 0, []
        for i in range(self._config.n_layer):
            layer = Layer(self._config, self._parameters, self._graph, i)
            for half in range(len(HALVES)):
                for stage in layer.stages(half):
                    for found in self._stage(layer, half, stage, types, store):
                        results.append(found)
                        done += found.parameter.n_weights
                        progress(found.name, done, total)
                self._each(lambda j: layer.add(half, self._hidden[j]), range(len(self._hidden)))
        return results

    def losses(self, types: Sequence[DataType], names: Collection[str], progress: Progress) -> dict[str, list[float]]:
        """The KL divergence that each of those matrices is expected to add in each of the types, all others exact."""
        total = sum(self._parameters[name].n_weights for name in names)
        found: dict[str, list[float]] = {}
        for i in range(self._config.n_layer):
            layer = Layer(self._config, self._parameters, self._graph, i)
            for half in range(len(HALVES)):
                for matrix, hessian in self.hessians(layer, half, layer.of_half(half, names)):
                    found[matrix.name] = self._losses(matrix, hessian, types)
                    progress(matrix.name, sum(self._parameters[name].n_weights for name in found), total)
                self._each(lambda j: layer.add(half, self._hidden[j]), range(len(self._hidden)))
        return found

    def _losses(self, matrix: Matrix, hessian: Hessian, types: Sequence[DataType]) -> list[float]:
        searched = [t.format for t in types if t.name in FORMATS]
        sums = dict(zip((f.name for f in searched), gptq.losses(searched, matrix.weight, hessian, self._threads)))
        for t in types:
            if t.name not in FORMATS:
                sums[t.name] = hessian.loss(_decoded(t, matrix.weight) - matrix.weight)
        # Half of the second derivative, which `fisher.py` estimates.
        return [0.5 * self._means[matrix.name] * sums[t.name] for t in types]

    def _stage(
        self, layer: Layer, half: int, stage: list[Matrix], types: Mapping[str, DataType], store: Store
    ) -> list[Encoded]:
        results, open_ones = [], []
        for matrix in stage:
            if matrix.name not in types:
                continue
            found = store.load(matrix.name, matrix.weight.shape, types[matrix.name])
            if found is None and types[matrix.name].format.name not in FORMATS:
                found = store.save(matrix.name, matrix.weight.shape, *_plain(types[matrix.name], matrix.weight))
            if found is None:
                open_ones.append(matrix)
            else:
                matrix.weight = found.array()
                results.append(Encoded(matrix.name, found, None))
        for matrix, hessian in self.hessians(layer, half, open_ones):
            data_type = types[matrix.name]
            encoded = gptq.encode(data_type.format, matrix.weight, hessian, self._threads)
            kept = store.save(matrix.name, matrix.weight.shape, data_type, encoded.blocks)
            matrix.weight = kept.array()
            results.append(Encoded(matrix.name, kept, encoded.loss))
        return results

    def hessians(self, layer: Layer, half: int, matrices: list[Matrix]) -> list[tuple[Matrix, Hessian]]:
        """H of each of these matrices of a half, over all windows."""
        found = {matrix.name: Hessian(matrix.weight.shape[1], self._part) for matrix in matrices}
        for first in range(0, len(self._hidden) if matrices else 0, TOGETHER):
            group = range(first, min(first + TOGETHER, len(self._hidden)))
            inputs = self._each(lambda j: layer.inputs(half, found, self._hidden[j]), group)
            tokens = slice(self._starts[group.start], self._starts[group.stop])
            for name, hessian in found.items():
                x = np.concatenate([one.pop(name) for one in inputs])
                hessian.add(x, self._weights[name][tokens] / np.float32(self._starts[-1]))
        return [(matrix, found[matrix.name]) for matrix in matrices]

    def _each(self, job: Callable[[int], _T], windows: range) -> list[_T]:
        """`job` of each window, on all threads."""
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(job, windows))


def _plain(data_type: DataType, weight: np.ndarray) -> tuple[DataType, np.ndarray]:
    encode = data_type.format.encode
    assert encode is not None
    return data_type, encode(weight.reshape(len(weight), -1, data_type.format.block_size))


def _decoded(data_type: DataType, weight: np.ndarray) -> np.ndarray:
    return data_type.format.decode(_plain(data_type, weight)[1]).reshape(weight.shape)
