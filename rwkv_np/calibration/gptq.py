"""One matrix: the integers and scales whose output differs least from the matrix's own, given H of its inputs.

GPTQ (arXiv 2210.17323) with scales that are searched when a block is reached, on weights that already compensate the
errors of the blocks before. Then sweeps over all blocks: scale and minimum by least squares, and each integer in turn,
given all others. Rows are independent: each thread takes some, and the large products are BLAS's.
`kernels/search.py` and `kernels/feedback.py` do a block; `hessian.py` has H and its factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from rwkv_np.calibration.hessian import BLOCK, Hessian, damped, inverse_factor, order
from rwkv_np.kernels.blocks import pack
from rwkv_np.kernels.formats import Format

N_SWEEPS = 8  # 20 and 30 gave no less
RUN = 256  # columns whose errors reach the later ones in one product: fewer passes over them
ROWS = 1024  # at most, in a thread's turn: what it works on stays near 100 MB


_Done = tuple[np.ndarray, float]
"""The blocks of some rows, and their loss."""


class Encoded(NamedTuple):
    """A matrix as blocks (rows, blocks in a row), and its loss tr(E H E^T)."""

    blocks: np.ndarray
    loss: float


def encode(format: Format, weight: np.ndarray, hessian: Hessian, threads: int, n_sweeps: int = N_SWEEPS) -> Encoded:
    """weight (rows, columns) float32 in blocks of Q4_0, Q4_1, Q5_0 or Q5_1."""
    parts = [_Problem(sums).encode(format, weight[:, columns], threads, n_sweeps) for columns, sums in hessian.parts]
    return Encoded(np.concatenate([part.blocks for part in parts], axis=1), sum(part.loss for part in parts))


def losses(formats: Sequence[Format], weight: np.ndarray, hessian: Hessian, threads: int) -> list[float]:
    """The loss in each of those formats, without sweeps: enough to compare matrices and formats."""
    found = np.zeros(len(formats))
    for columns, sums in hessian.parts:
        problem = _Problem(sums)
        found += [problem.encode(format, weight[:, columns], threads, 0).loss for format in formats]
    return found.tolist()


class _Problem:
    """H and U of some columns (n, n) float32, in the order of rounding: `places` (n,)."""

    def __init__(self, sums: np.ndarray) -> None:
        self.places = order(np.diagonal(sums))
        h = damped(sums[np.ix_(self.places, self.places)])
        self.u = inverse_factor(h).astype(np.float32)
        self.h = h.astype(np.float32)

    def encode(self, format: Format, weight: np.ndarray, threads: int, n_sweeps: int) -> Encoded:
        """weight (rows, n) float32."""
        task = _Task(format, self.h, self.u, n_sweeps)
        back, block_of = np.argsort(self.places), self.places[::BLOCK] // BLOCK

        def job(rows: slice) -> _Done:
            w = np.ascontiguousarray(weight[rows].T[self.places])
            solution = task.solve(w)
            # Back from the order of rounding to that of the file.
            q = np.ascontiguousarray(solution.q[back].T).reshape(w.shape[1], -1, BLOCK)
            d, m = np.empty_like(solution.d), np.empty_like(solution.m)
            d[block_of], m[block_of] = solution.d, solution.m
            blocks = pack(format.block, q, d.T, m.T)
            _check(format, blocks, solution, self.places)
            return blocks, solution.loss

        found = list(_on_threads(job, len(weight), threads))
        return Encoded(np.concatenate([blocks for blocks, _ in found]), sum(loss for _, loss in found))


def _on_threads(job: Callable[[slice], _Done], n_rows: int, threads: int) -> Iterable[_Done]:
    """The results of `job` for all rows, in order. Each thread has its own products, so BLAS starts no more threads."""
    step = min(ROWS, max(BLOCK, -(-n_rows // threads)))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(job, [slice(start, start + step) for start in range(0, n_rows, step)])


def _check(format: Format, blocks: np.ndarray, solution: Solution, places: np.ndarray) -> None:
    """What will be read from the file is what was judged: Numba has removed a rounding to float16 before."""
    decoded = format.decode(blocks).reshape(len(blocks), -1).T[places]
    largest = np.abs(decoded).max(initial=0)
    if not np.allclose(decoded, solution.weights(), rtol=1e-5, atol=1e-6 * largest):
        raise AssertionError(f"the blocks of {format.name} decode to other weights than those that were judged")


class Solution(NamedTuple):
    """The integers q (columns, rows) uint8, and d and m (blocks, rows), in the order of rounding."""

    q: np.ndarray
    d: np.ndarray
    m: np.ndarray
    loss: float

    def weights(self) -> np.ndarray:
        """(columns, rows) float32"""
        return self.q * np.repeat(self.d, BLOCK, axis=0) + np.repeat(self.m, BLOCK, axis=0)


class _Task:
    """All that the rows of a matrix share: format, H and U (n, n) float32, in the order of rounding."""

    def __init__(self, format: Format, h: np.ndarray, u: np.ndarray, n_sweeps: int) -> None:
        self.format, self.h, self.u, self.n_sweeps = format, h, u, n_sweeps
        self.share = np.diagonal(h).copy()
        self.top = 2**format.layout.bits - 1
        self.zero = -1 if format.layout.has_min else format.layout.zero

    def solve(self, w: np.ndarray) -> Solution:
        """w (columns, rows) float32, some rows of the matrix."""
        found = self._round(w.copy())
        gradient = self.h @ (found.weights() - w)
        for _ in range(self.n_sweeps):
            self._sweep(found, gradient)
        error = found.weights() - w
        return found._replace(loss=float(np.vdot(error, self.h @ error)))

    def _round(self, w: np.ndarray) -> Solution:
        from rwkv_np.kernels.feedback import round_block
        from rwkv_np.kernels.search import search

        n, rows = w.shape
        q = np.empty((n, rows), np.uint8)
        d, m = np.empty((n // BLOCK, rows), np.float32), np.empty((n // BLOCK, rows), np.float32)
        for start in range(0, n, RUN):
            end = min(start + RUN, n)
            errors = np.empty((end - start, rows), np.float32)
            for at in range(start, end, BLOCK):
                these, b = slice(at, at + BLOCK), at // BLOCK
                d[b], m[b] = search(self.format, w[these], self.share[these])
                error = errors[at - start : at - start + BLOCK]
                corner = np.ascontiguousarray(self.u[these, these])
                round_block(w[these], d[b], m[b], corner, self.top, q[these], error)
                w[at + BLOCK : end] -= self.u[these, at + BLOCK : end].T @ error
            w[end:] -= self.u[start:end, end:].T @ errors
        return Solution(q, d, m, 0.0)

    def _sweep(self, found: Solution, gradient: np.ndarray) -> None:
        """Improve every block once; `gradient` is H times the error of the weights, and is kept so."""
        from rwkv_np.kernels.feedback import refine_block

        n, rows = found.q.shape
        for start in range(0, n, RUN):
            end = min(start + RUN, n)
            changes = np.empty((end - start, rows), np.float32)
            for at in range(start, end, BLOCK):
                these, b = slice(at, at + BLOCK), at // BLOCK
                change = changes[at - start : at - start + BLOCK]
                corner = np.ascontiguousarray(self.h[these, these])
                refine_block(
                    gradient[these], corner, self.zero, self.top, found.q[these], found.d[b], found.m[b], change
                )
                gradient[start:end] += self.h[start:end, these] @ change
            gradient[:start] += self.h[:start, start:end] @ changes
            gradient[end:] += self.h[end:, start:end] @ changes
