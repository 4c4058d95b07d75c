"""Whether a calibrated model is better than a plainly rounded one: the KL divergence of both from the source.

Two texts judge. The part of the user's text that was kept back shows whether calibration generalizes to that kind of
text. What the model itself writes shows whether that kind of text is the model's own: a foreign text makes a model
better on more of the same, and worse at everything else.

The models are compared layer by layer, with float32 activations, so only one layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from rwkv_np.calibration.layers import HALVES, Hidden, Layer
from rwkv_np.errors import PathLike
from rwkv_np.evaluation.divergence import score
from rwkv_np.files.format import ModelFile
from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType
from rwkv_np.models.base import Run
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding, LayerNorm, Linear

N_OWN, OWN_TOKENS = 32, 256  # sequences that the model writes, and their tokens
AT_ONCE = 128  # tokens whose logits are compared together


class Compared(NamedTuple):
    """The mean KL divergence from the source on one text, and one standard error of the difference (by windows)."""

    text: str
    plain: float
    calibrated: float
    error: float

    @property
    def is_better(self) -> bool:
        """Whether calibration gained more than a standard error."""
        return self.calibrated + self.error < self.plain

    def __str__(self) -> str:
        change = 100 * (self.calibrated / self.plain - 1) if self.plain else 0.0
        return (
            f"{self.text}: mean KL {self.calibrated:.3g} calibrated, {self.plain:.3g} plain ({change:+.0f} %, "
            f"difference {self.calibrated - self.plain:+.2g} ± {self.error:.1g})"
        )


def compare(
    text: str, file: ModelFile, config: ModelConfig, types: Mapping[str, DataType],
    calibrated: Mapping[str, Parameter], windows: Sequence[np.ndarray], threads: int,
) -> Compared:  # fmt: skip
    """Compare the calibrated matrices with plain ones of the same types on those windows."""
    sources = [file.parameters, PlainlyRounded(file.parameters, types), dict(file.parameters) | dict(calibrated)]
    windows = [ids.astype(np.int64) for ids in windows]
    last = _read(file, config, sources, windows, threads)
    found = [_divergences(sources, [hidden[j] for hidden in last], ids) for j, ids in enumerate(windows)]
    plain, ours = (np.concatenate([pair[k] for pair in found]) for k in range(2))
    return Compared(text, float(plain.mean()), float(ours.mean()), _error([pair[1] - pair[0] for pair in found]))


def _error(differences: list[np.ndarray]) -> float:
    """One standard error of their mean: from the windows, as neighbours are not independent, if there are some."""
    x = np.array([part.mean() for part in differences]) if len(differences) >= 4 else np.concatenate(differences)
    return float(x.std(ddof=1) / np.sqrt(len(x)))


class PlainlyRounded(Mapping[str, Parameter]):
    """The parameters of a source file, with some matrices rounded as rwkv.cpp does it, when they are asked for."""

    def __init__(self, parameters: Mapping[str, Parameter], types: Mapping[str, DataType]) -> None:
        self._parameters, self._types = parameters, types

    def __getitem__(self, name: str) -> Parameter:
        found = self._parameters[name]
        return rounded(found, self._types[name]) if name in self._types else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def rounded(parameter: Parameter, data_type: DataType) -> Parameter:
    """The matrix in that type, as rwkv.cpp writes it, in memory."""
    from rwkv_np.kernels.encode import encode

    parts = [
        encode(data_type.format, np.ascontiguousarray(x.reshape(-1, data_type.format.block_size)))[0]
        for _, x in parameter.chunks()
    ]
    return Parameter(parameter.name, parameter.shape, data_type, InMemory(np.concatenate(parts).view(np.uint8)))


def _read(
    file: ModelFile, config: ModelConfig, sources: Sequence[Mapping[str, Parameter]],
    windows: Sequence[np.ndarray], threads: int,
) -> list[list[Hidden]]:  # fmt: skip
    """What leaves the last layer in each window, for the matrices of each source."""
    ln0 = LayerNorm.of(file.parameters, "blocks.0.ln0")
    states = [[Hidden(ln0(Embedding(source["emb.weight"])(ids))) for ids in windows] for source in sources]
    graphs = [config.record.graph(config, file.parameters) for _ in sources]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for i in range(config.n_layer):
            for source, graph, hidden in zip(sources, graphs, states):
                layer = Layer(config, source, graph, i)
                for half in range(len(HALVES)):
                    list(pool.map(lambda one: layer.add(half, one), hidden))
    return states


def _divergences(
    sources: Sequence[Mapping[str, Parameter]], hidden: Sequence[Hidden], ids: np.ndarray
) -> list[np.ndarray]:
    """The KL divergences (T - 1,) of all sources but the first from the first, in one window."""
    ln_out = LayerNorm.of(sources[0], "ln_out")
    heads = [Linear(source["head.weight"]) for source in sources]
    parts = []
    for start in range(0, len(ids) - 1, AT_ONCE):
        some = slice(start, min(start + AT_ONCE, len(ids) - 1))
        rows = [head(ln_out(one.x[some])) for head, one in zip(heads, hidden)]
        parts.append([scores.kl for scores in score(rows, ids[some.start + 1 : some.stop + 1])[1:]])
    return [np.concatenate(kl) for kl in zip(*parts)]


def own_text(path: PathLike, seed: int, threads: int | None) -> list[np.ndarray]:
    """What the model at `path` writes from its empty state after the end of a text (id 0): windows of token ids."""
    from rwkv_np.models import load

    model, rng = load(path, threads), np.random.default_rng(seed)
    pool = model.new_pool(N_OWN)
    slots, ids = [pool.take() for _ in range(N_OWN)], np.zeros((OWN_TOKENS, N_OWN), np.int32)
    for t in range(1, OWN_TOKENS):
        logits = model.read([Run(int(last), slot) for last, slot in zip(ids[t - 1], slots)], pool)
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        ids[t] = (logits - np.log(-np.log(rng.random(logits.shape, np.float32) + 1e-12) + 1e-12)).argmax(axis=1)
    return list(ids.T.copy())
