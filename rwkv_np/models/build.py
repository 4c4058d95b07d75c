"""From equations to jobs: turns an architecture's program into the table that kernels run.

A program, such as the one in `v4.py`, names parameters and operations on them. Each call here is one
line of an equation and becomes a job of `kernels/program.py`. `places.py` assigns the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rwkv_np.kernels import column_products, heads, lora_mix, mixing, products, wkv4
from rwkv_np.kernels import wkv5 as recurrence5
from rwkv_np.kernels.activations import WANTS_FLOAT, Rows
from rwkv_np.kernels.batch import MOST, MOST_KEPT
from rwkv_np.kernels.layout import BLOCK, round_up
from rwkv_np.kernels.mixing import Floats, Mix
from rwkv_np.kernels.products import Matrix, Vectors
from rwkv_np.kernels.program import Job, Program, assemble
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.places import KEPT_LANES, Places
from rwkv_np.models.state import StateLayout


class StatePart(NamedTuple):
    """One layer's part of a state: its start in bytes, and the float32 numbers of a row, including padding."""

    start: int
    n_padded: int


class Builder:
    """Collects the program of a model; `layers` gives a builder for each layer that adds its name prefix."""

    def __init__(self, config: ModelConfig, places: Places, state: StateLayout) -> None:
        self.config, self._at, self._state = config, places, state
        self._phases: list[list[Job]] = []
        self._again: list[list[Job]] = []
        self._trails: dict[int, Floats] = {}
        self._layer = 0
        self._prefix = ""

    def layers(self) -> Iterator[Builder]:
        """A builder for each layer: names are given without "blocks.0."."""
        for i in range(self.config.n_layer):
            layer = Builder(self.config, self._at, self._state)
            layer._phases, layer._layer, layer._prefix = self._phases, i, f"blocks.{i}."
            layer._again, layer._trails = self._again, self._trails
            self._again.append([])
            yield layer

    def phase(self, *jobs: Job) -> None:
        """Add jobs that can run at the same time, after all earlier phases."""
        self._phases.append(list(jobs))

    def program(self) -> Program:
        """All phases, as arrays for Numba."""
        return assemble(self._phases)

    def replay(self) -> Program:
        """The jobs that change the state, a phase for each layer: they run again to cut a pass (kernels/batch.py)."""
        return assemble(self._again)

    def _changes_state(self, job: Job) -> Job:
        self._again[-1].append(job)
        return job

    def _trail(self, shift: StatePart) -> Floats:
        """Where the normed vectors of a pass that may be cut are kept."""
        if shift.start not in self._trails:
            self._trails[shift.start] = self._at.kept_rows(self.config.n_embd)
        return self._trails[shift.start]

    # --- what jobs read and write

    @property
    def x(self) -> Floats:
        """The residual stream, (tokens, n_embd): at first the embeddings."""
        return self._at.x

    def floats(self, n: int) -> Floats:
        """A buffer of n float32 numbers per token."""
        return self._at.floats(n)

    def rows(self, *matrices: str) -> Rows:
        """A buffer for the input vectors of the matrices with those names."""
        return self._at.rows(*matrices)

    def state(self, part: str, row: int = 0) -> StatePart:
        """A row of this layer's part of a state."""
        place = self._state.places[part]
        n_padded = place.padded[-1]
        return StatePart(4 * (place.start + self._layer * place.layer_size + row * n_padded), n_padded)

    def matrices(self, *names: str) -> list[Matrix]:
        """Matrices with the same number of rows; a thread reads the same tile of each."""
        return self._at.matrices_together(*(self._prefix + name for name in names))

    def _vector(self, name: str, n_row: int = 0) -> int:
        return self._at.vector(self._prefix + name, n_row)

    @property
    def is_first(self) -> bool:
        """Whether this is the first layer."""
        return self._layer == 0

    # --- jobs

    def norm(self, x: Floats, name: str) -> Job:
        """x = layer norm of x"""
        return mixing.norm_job(x, self._at.norm(self._prefix + name))

    def norm_and_mix(
        self, x: Floats, norm: str, shift: StatePart, mixes: Mapping[str, Rows],
        equation: str = "mix", kept: Floats | None = None,
    ) -> Job:  # fmt: skip
        """Layer norm of x, mixed with the token before: one mix for each share, written to its rows.

        equation  "lerp" if the shares are those of the token before, as in RWKV-6 and later
        kept      a buffer for the normed vectors themselves
        """
        found = [Mix(self._vector(share), rows) for share, rows in mixes.items()]
        at = self._at
        place = at.norm(self._prefix + norm)
        trail = self._trail(shift)
        return mixing.norm_and_mix_job(x, place, at.normed, shift.start, at.last, trail, found, equation, kept)

    def norm_and_lerp(self, x: Floats, norm: str, shift: StatePart, shares: str, rows: Sequence[Rows]) -> Job:
        """Layer norm of x, moved towards the token before by each row of `shares`; the results go to the rows."""
        at, n = self._at, self.config.n_embd
        place = self._vector(shares, n)
        found = [Mix(place + 4 * i * round_up(n, BLOCK), of) for i, of in enumerate(rows)]
        normed = at.norm(self._prefix + norm)
        trail = self._trail(shift)
        return mixing.norm_and_mix_job(x, normed, at.normed, shift.start, at.last, trail, found, "lerp")

    def keep(self, shift: StatePart) -> Job:
        """shift = the normed vector of the last token; must be in the phase after the mixes."""
        job = mixing.keep_job(self._at.last, self._trail(shift), shift.start, shift.n_padded)
        return self._changes_state(job)

    def wkv4(
        self, kvr: Sequence[Matrix], rows: Sequence[Rows], decay: str, bonus: str, state: StatePart, out: Rows
    ) -> Job:
        """out = sigmoid(r) * wkv(k, v), k, v and r being products"""
        w, u = self._vector(decay), self._vector(bonus)
        lanes = self._at.kept_areas(self._at.lanes, kvr[0].n_tiles, KEPT_LANES)
        return self._changes_state(wkv4.wkv4_job(kvr, rows, lanes, w, u, state.start, state.n_padded, out))

    def wkv5(
        self, products: Mapping[str, Rows], lanes: Floats, decay: str, bonus: str, norm: str, state: StatePart,
        out: Rows,
    ) -> Job:  # fmt: skip
        """out = norm of wkv(r, k, v), times silu(g) if there is a g.

        products  of r, k, v, then of g if there is one, then of the thin matrix for the decay if there is one
        """
        c, at = self.config, self._at
        matrices = self.matrices(*products)
        found = [recurrence5.Product(matrix, rows) for matrix, rows in zip(matrices, products.values())]
        w, u = (at.vector_of_channels(self._prefix + name, c.n_embd) for name in (decay, bonus))
        weight_and_bias = at.norm(self._prefix + norm)[:2]
        areas = at.kept_areas(lanes, self._heads5.n_items, self._heads5.room(len(found), MOST_KEPT))
        job = recurrence5.time_mix_job(
            self._heads5, found, areas, w, u, weight_and_bias, c.head_epsilon, state.start, out,
            is_gated=len(found) > 3, is_moving=len(found) > 4,
        )  # fmt: skip
        return self._changes_state(job)

    @property
    def _heads5(self) -> recurrence5.Heads:
        return recurrence5.Heads.of(self.config.n_head, self.config.head_size)

    def room_for_wkv5(self, n_products: int) -> Floats:
        """The work area of each thread for `wkv5`."""
        return self._at.per_thread(self._heads5.room(n_products, MOST))

    def lora_mix(self, x: Floats, shift: StatePart, z: Floats, matrices: str, mixes: Mapping[str, Rows]) -> Job:
        """For each mix: share += thin matrix @ slice of z; then x is mixed by this share into its rows."""
        found, thin = [], self._at.slices_together(self._prefix + matrices)
        for i, (share, rows) in enumerate(mixes.items()):
            found.append(lora_mix.LoraMix(thin[i], self._slice(z, i, thin[i]), self._vector(share), rows))
        return lora_mix.lora_mix_job(x, shift.start, self._at.lanes, found)

    def _slice(self, z: Floats, i: int, matrix: Matrix) -> Rows:
        """A slice of z as input of a float matrix."""
        return Rows(0, z.start + 4 * i * self.config.ranks[0], z.stride, matrix.n_blocks, WANTS_FLOAT, 1)

    def tanh(self, matrix: str, rows: Rows, out: Floats) -> Job:
        """out = tanh(W rows)"""
        return products.tanh_job(*self._product(matrix, rows), out)

    def _product(self, name: str, rows: Rows) -> tuple[Matrix, Vectors]:
        return self.matrices(name)[0], Vectors(rows, self._at.lanes)

    def add(self, matrix: str, rows: Rows, out: Floats) -> Job:
        """out += W rows"""
        return products.add_job(*self._product(matrix, rows), out)

    def add_gated(self, matrix: str, rows: Rows, gate: Floats, out: Floats) -> Job:
        """out += gate * W rows"""
        return products.add_gated_job(*self._product(matrix, rows), out, gate)

    def add_sparse(self, matrix: str, rows: Rows, out: Floats) -> Job:
        """out += W rows, where rows are mostly zero and never negative"""
        found = self._at.by_columns(self._prefix + matrix)
        if found is None:
            return self.add(matrix, rows, out)
        return column_products.add_job(found, Vectors(rows, self._at.column_lanes), out)

    def add_gated_sparse(self, matrix: str, rows: Rows, gate: Floats, out: Floats) -> Job:
        """out += gate * W rows, where rows are mostly zero and never negative"""
        found = self._at.by_columns(self._prefix + matrix)
        if found is None:
            return self.add_gated(matrix, rows, gate, out)
        return column_products.add_gated_job(found, Vectors(rows, self._at.column_lanes), out, gate)

    def sigmoid(self, matrix: str, rows: Rows, out: Floats) -> Job:
        """out = sigmoid(W rows)"""
        return products.sigmoid_job(*self._product(matrix, rows), out)

    def squared_relu(self, matrix: str, rows: Rows, out: Rows) -> Job:
        """out = max(W rows, 0)^2"""
        return products.squared_relu_job(*self._product(matrix, rows), out)

    def put(self, matrix: str, rows: Rows, out: Floats) -> Job:
        """out = W rows"""
        return products.put_job(*self._product(matrix, rows), out)

    def to_rows(self, matrix: str, rows: Rows, out: Rows, ending: str = "") -> Job:
        """out = W rows, or "tanh" or "sigmoid" of it"""
        return products.rows_job(*self._product(matrix, rows), out, ending)

    def room_for_heads(self) -> Floats:
        """The work area of each thread for `heads7`."""
        return self._at.per_thread(self._heads.work_bytes)

    @property
    def _heads(self) -> heads.Heads:
        return heads.Heads.of(self.config.n_head, self.config.head_size)

    def heads7(self, inputs: Sequence[Floats], state: StatePart, work: Floats, out: Rows) -> Job:
        """out = gate * (norm of the RWKV-7 memory's output + bonus); see `heads.heads_job` for the inputs."""
        names = ["w0", "a0", "" if self.is_first else "v0", "k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias"]
        places = [self._vector(f"att.{name}", self.config.head_size) if name else 0 for name in names]
        vectors = heads.Vectors(*places)
        areas = self._at.kept_areas(work, self._heads.n_items, self._heads.kept_bytes)
        return self._changes_state(
            heads.heads_job(self._heads, inputs, vectors, not self.is_first, state.start, areas, out)
        )

    def head(self, x: Floats, norm: str, name: str) -> None:
        """The last norm and the logits, for the tokens that need them."""
        rows = self.rows(name)
        self.phase(mixing.norm_wanted_job(x, self._at.norm(norm), self._at.normed, rows))
        self.phase(products.logits_job(self.matrices(name)[0], rows))
