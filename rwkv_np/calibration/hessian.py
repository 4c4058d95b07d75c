"""How much the errors of a matrix's columns matter together: H, the weighted second moments of its inputs.

An error E of the weights changes the output for the input x by E x; over the text, the squares of that add up to
tr(E H E^T), H = sum of w x x^T. The weight w of a token is its sensitivity (`fisher.py`): most of the loss comes
from few tokens. H is not centred. A matrix with very many columns gets H in diagonal parts, each for a run of
columns: four of 4096 need a quarter of the memory of one of 16384, and a sixteenth of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK = 32
RHO = 0.1  # the share of the weight that all tokens have in equal parts; 0.01 and 0.3 gave the same
DAMPING = 0.01  # of the mean of the diagonal, added to it; 0.001 and 0.03 gave the same


class Part(NamedTuple):
    """H of some columns, (n, n) float32."""

    columns: slice
    sums: np.ndarray


class Hessian:
    """Collects H of one matrix with `n_in` columns, in parts of at most `part` columns."""

    def __init__(self, n_in: int, part: int) -> None:
        n_parts = -(-n_in // max(BLOCK, part))
        step = -(-n_in // (n_parts * BLOCK)) * BLOCK
        starts = range(0, n_in, step)
        self.parts = [
            Part(slice(s, min(s + step, n_in)), np.zeros((min(step, n_in - s),) * 2, np.float32)) for s in starts
        ]

    def add(self, x: np.ndarray, weights: np.ndarray) -> None:
        """Add the inputs x (T, n_in) float32 of T tokens, with weights (T,)."""
        scaled = x * np.sqrt(weights, dtype=np.float32)[:, None]
        for columns, sums in self.parts:
            some = scaled[:, columns]
            sums += some.T @ some  # NumPy computes only half of a product with the array's own transpose

    def loss(self, error: np.ndarray) -> float:
        """tr(E H E^T) for errors (rows, n_in) of the weights."""
        return sum(float(np.vdot(error[:, c] @ sums, error[:, c])) for c, sums in self.parts)


def token_weights(sensitivity: np.ndarray) -> np.ndarray:
    """What a token counts, from its sensitivity (T,): mean 1; the sum over all tokens is T."""
    s = sensitivity.astype(np.float64)
    mean = s.mean()
    even = np.ones_like(s) if mean <= 0 else s / mean
    return ((1 - RHO) * even + RHO).astype(np.float32)


def damped(sums: np.ndarray) -> np.ndarray:
    """H with a share of the mean of its diagonal added to the diagonal; 1 where the inputs were all 0. float64."""
    h = sums.astype(np.float64)
    mean = float(np.trace(h)) / len(h)
    h[np.diag_indices(len(h))] += DAMPING * mean if mean > 0 else 1.0
    return h


def order(diagonal: np.ndarray) -> np.ndarray:
    """The columns (n,) in the order of rounding: blocks by falling sum, and inside a block by falling diagonal.

    What matters most comes first: the columns after it can still compensate its error.
    """
    blocks = diagonal.reshape(-1, BLOCK)
    first = np.argsort(-blocks.sum(axis=1), kind="stable")
    inside = np.argsort(-blocks, axis=1, kind="stable")
    return (first[:, None] * BLOCK + inside[first]).reshape(-1)


def inverse_factor(h: np.ndarray) -> np.ndarray:
    """U = F^-1, where h = F F^T and F is upper triangular: what GPTQ compensates with. float64.

    Raises  np.linalg.LinAlgError: h is not positive definite
    """
    lower = np.linalg.cholesky(h[::-1, ::-1])
    return _inverse_upper(np.ascontiguousarray(lower[::-1, ::-1]))


def _inverse_upper(f: np.ndarray) -> np.ndarray:
    """The inverse of an upper triangular matrix, by halves: NumPy has only that of a full one, 6 times the work."""
    n = len(f)
    if n <= 64:
        return np.triu(np.linalg.inv(f))
    half = n // 2
    out = np.zeros_like(f)
    out[:half, :half], out[half:, half:] = _inverse_upper(f[:half, :half]), _inverse_upper(f[half:, half:])
    out[:half, half:] = -out[:half, :half] @ (f[:half, half:] @ out[half:, half:])
    return out
