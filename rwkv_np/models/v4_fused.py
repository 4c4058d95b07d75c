"""RWKV-4 for use: the graph of `v4.py` on packed weights, in one parallel region (`v4_graph.py`).

Loading packs each matrix into its place in one buffer, and reads the mapped file only once; the
embedding stays in the file, since a token needs one row of it. What is left to the file's own
pages can be dropped by the operating system at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numba
import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels import dispatch
from rwkv_np.kernels import layout as lay
from rwkv_np.kernels.activations import wants
from rwkv_np.kernels.pack import Place, pack, place_alone
from rwkv_np.kernels.threads import check_team, default_threads, most_threads, new_team, one_at_a_time
from rwkv_np.kernels.tiles import COUNTS, kernel_addresses
from rwkv_np.models import head
from rwkv_np.models import v4_graph as graph
from rwkv_np.models.base import Model, Progress
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding
from rwkv_np.models.state import State

# A model of fewer bytes is read by one thread, unless more are asked for. Its token takes less time than
# another program may keep a core for, and two threads then wait for the one that has lost its core:
# 200 short answers of a 9 MB model took 20 s beside another load, and 0.6 s with one thread. On a
# machine that has nothing else to do two are 1.5 times as fast, at ten thousand tokens a second.
SMALL = 2**24

# Tokens that go through the layers together. More would not fit into the caches.
CHUNK = 128

MATRICES = (
    "att.key", "att.value", "att.receptance", "att.output", "ffn.key", "ffn.receptance", "ffn.value",
)  # fmt: skip
VECTORS = (
    "ln1.weight", "ln1.bias", "att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "att.time_decay",
    "att.time_first", "ln2.weight", "ln2.bias", "ffn.time_mix_k", "ffn.time_mix_r",
)  # fmt: skip
OUTER_VECTORS = ("blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias")


def _no_progress(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def layout_of(parameter: Parameter) -> lay.Layout:
    """The layout of a parameter's bytes."""
    data_type = parameter.data_type
    is_old = 101 not in data_type.versions and f"{data_type.name}_v100" in lay.LAYOUTS
    return lay.LAYOUTS[f"{data_type.name}_v100" if is_old else data_type.name]


def _threads_for(parameters: Mapping[str, Parameter]) -> int:
    """How many threads a model is read by where nothing else is said."""
    n_bytes = sum(parameter.n_bytes for name, parameter in parameters.items() if name != "emb.weight")
    return 1 if n_bytes < SMALL else default_threads()


class FusedRWKV4(Model):
    """RWKV-4 over packed weights.

    threads    how many work on a token; None: the physical cores that the process may use, one if it is SMALL
    head_q8_0  whether to hold a float head as Q8_0
    progress   called with (what is being done, done, total) while loading
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Mapping[str, Parameter],
        threads: int | None = None,
        *,
        head_q8_0: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(config, threads)
        progress = progress or _no_progress
        self.kernels = dispatch.choose()
        self._n_threads = self._check_threads(_threads_for(parameters) if threads is None else threads)
        self._emb = Embedding(parameters["emb.weight"])
        self._emb_rows = _float_rows(parameters["emb.weight"])
        self._n_padded = lay.round_up(config.n_embd, lay.BLOCK)
        self._weights = self._pack(parameters, head_q8_0, progress)
        self._team = new_team(graph.n_phases(config.n_layer), self._n_threads)
        self._scratch = self._new_scratch(1)
        self._compile_graph(progress)

    def _check_threads(self, n_threads: int) -> int:
        if n_threads > most_threads():
            raise InputError(
                f"threads is {n_threads}; Numba was started with at most {most_threads()}. "
                f"To allow more: set NUMBA_NUM_THREADS={n_threads}"
            )
        return n_threads if n_threads == 1 or check_team(n_threads) else 1

    @property
    def n_threads(self) -> int:
        """How many threads work on a token."""
        return self._n_threads

    @property
    def tiles(self) -> np.ndarray:
        """All packed matrices, one behind the other (layout.py)."""
        return self._weights.tiles

    @property
    def n_bytes_per_token(self) -> int:
        """Bytes of weights that are read for a token and its logits: what bounds the speed."""
        return int(self._weights.tiles.size)

    def _compile_kernels(self, formats: list[str], progress: Progress) -> None:
        """Compile, or fetch from the cache, what these formats need."""
        for i, name in enumerate(formats):
            progress("compiling kernels", i, len(formats))
            kernel_addresses(name, self.kernels.path)
        progress("compiling kernels", len(formats), len(formats))

    def _compile_graph(self, progress: Progress) -> None:
        """Compile the graph, or fetch it from the cache, by reading no token through one layer."""
        progress("compiling the graph", 0, 1)
        shift, wkv = (np.zeros((1, n, self._n_padded), np.float32) for n in (2, 3))
        with one_at_a_time:
            numba.set_num_threads(self._n_threads)
            logits = np.empty((0, lay.TILE_ROWS), np.float32)
            self._team[:] = 0
            graph.read_tokens(
                self._team, self._n_threads, 0, self._weights, self._scratch, shift, wkv, logits
            )
        progress("compiling the graph", 1, 1)

    def _pack(
        self, parameters: Mapping[str, Parameter], head_q8_0: bool, progress: Progress
    ) -> graph.Weights:
        matrices = self._matrices(parameters, head_q8_0)
        self._compile_kernels(sorted({layout_of(p).name for p in matrices}), progress)
        places = _places(matrices)
        tiles = _aligned(max(place.start + place.n_tiles * place.stride for place in places))
        table, n_matrices = self._table(matrices, places), len(matrices)
        for i in range(n_matrices):
            progress("loading", i, n_matrices)
            # The last comes first: a head made in Q8_0 is held in memory until it is in its place.
            parameter, place = matrices.pop(), places.pop()
            raw = parameter.data.reshape(parameter.shape[0], -1)
            pack(raw, layout_of(parameter), parameter.shape[1], tiles, place)
        progress("loading", n_matrices, n_matrices)
        return graph.Weights(tiles, table, self._vectors(parameters), self.config.n_embd)

    def _matrices(self, parameters: Mapping[str, Parameter], head_q8_0: bool) -> list[Parameter]:
        """Every matrix in the order of `Weights.matrices`, the head last."""
        names = [f"blocks.{i}.{name}.weight" for i in range(self.config.n_layer) for name in MATRICES]
        return [parameters[name] for name in names] + [head.held(parameters, head_q8_0)]

    def _table(self, matrices: list[Parameter], places: list[Place]) -> np.ndarray:
        table = np.zeros((len(matrices), graph.KERNELS + len(COUNTS)), np.int64)
        for entry, parameter, place in zip(table, matrices, places):
            layout = layout_of(parameter)
            n_blocks = lay.n_blocks_of(parameter.shape[1])
            entry[: graph.KERNELS] = place.start, place.stride, place.n_tiles, n_blocks, wants(layout)
            entry[graph.KERNELS :] = kernel_addresses(layout.name, self.kernels.path)
        return table

    def _vectors(self, parameters: Mapping[str, Parameter]) -> np.ndarray:
        n_layer, n_embd = self.config.n_layer, self.config.n_embd
        vectors = np.zeros((n_layer + 1, len(VECTORS), self._n_padded), np.float32)
        for i in range(n_layer):
            for row, name in enumerate(VECTORS):
                vectors[i, row, :n_embd] = parameters[f"blocks.{i}.{name}"].array().reshape(-1)
        for row, name in enumerate(OUTER_VECTORS):
            vectors[n_layer, row, :n_embd] = parameters[name].array()
        return vectors

    def _new_scratch(self, n_tokens: int) -> graph.Scratch:
        c, f = self._n_padded, lay.round_up(self.config.dim_ffn, lay.BLOCK)
        rows = [np.zeros((n_tokens, lay.vector_bytes(n // lay.BLOCK)), np.uint8) for n in (c, c, c, c, f)]
        floats = [np.zeros(shape, np.float32) for shape in (
            (n_tokens, c), (n_tokens, c), c, (self._n_threads, 2, c),
            (self._n_threads, 3 * n_tokens * lay.TILE_ROWS),
        )]  # fmt: skip
        return graph.Scratch(*floats, *rows)

    def _read(self, tokens: np.ndarray, state: State, full_output: bool) -> np.ndarray:
        n_vocab = lay.round_up(self.config.vocab_size, lay.TILE_ROWS)
        logits = np.empty((len(tokens) if full_output else 1, n_vocab), np.float32)
        nothing = logits[:0]
        with one_at_a_time:
            numba.set_num_threads(self._n_threads)
            shift, wkv = self._padded(state.shift), self._padded(state.wkv)
            for start in range(0, len(tokens), CHUNK):
                ids = tokens[start : start + CHUNK]
                is_last = start + len(ids) == len(tokens)
                wanted = logits[start : start + len(ids)] if full_output else logits if is_last else nothing
                self._read_chunk(ids, shift, wkv, wanted)
            if shift is not state.shift:
                state.shift[:], state.wkv[:] = self._unpadded(shift), self._unpadded(wkv)
        logits = logits[:, : self.config.vocab_size]
        return logits if full_output else logits[0]

    def _read_chunk(self, ids: np.ndarray, shift: np.ndarray, wkv: np.ndarray, logits: np.ndarray) -> None:
        if len(ids) > len(self._scratch.x):
            self._scratch = self._new_scratch(min(CHUNK, lay.round_up(len(ids), 16)))
        scratch = self._scratch
        rows = self._emb(ids) if self._emb_rows is None else self._emb_rows[ids]
        scratch.x[: len(ids), : self.config.n_embd] = rows
        self._team[:] = 0
        graph.read_tokens(self._team, self._n_threads, len(ids), self._weights, scratch, shift, wkv, logits)

    def _padded(self, state: np.ndarray) -> np.ndarray:
        """The state with zeros behind the channels where those do not fill a block of 32."""
        missing = self._n_padded - self.config.n_embd
        if not missing:
            return state
        return np.ascontiguousarray(np.pad(state, ((0, 0), (0, 0), (0, missing))))

    def _unpadded(self, state: np.ndarray) -> np.ndarray:
        return state[:, :, : self.config.n_embd]


def _aligned(n_bytes: int) -> np.ndarray:
    """An uninitialized buffer that begins with a cache line."""
    buffer = np.empty(n_bytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + n_bytes]


def _float_rows(parameter: Parameter) -> np.ndarray | None:
    """The rows of a float matrix as they lie in the mapped file, which NumPy converts by itself."""
    if parameter.data_type.is_quantized:
        return None
    return np.asarray(parameter.blocks())


def _places(matrices: list[Parameter]) -> list[Place]:
    """Each matrix behind the one before, but the three that one thread reads together interleaved."""
    places: list[Place] = []
    start = 0
    while len(places) < len(matrices):
        # A layer begins with key, value and receptance; the head is the last, and alone.
        together = 3 if len(places) % graph.N_MATRICES == 0 and len(places) + 3 <= len(matrices) else 1
        group = [place_alone(layout_of(p), *p.shape) for p in matrices[len(places) : len(places) + together]]
        stride = sum(place.tile_bytes for place in group)
        for place in group:
            places.append(replace(place, start=start, stride=stride))
            start += place.tile_bytes
        start += stride * (group[0].n_tiles - 1)
    return places
