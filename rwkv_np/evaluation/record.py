"""The scores of each position: four numbers per model, and no logits.

With a vocabulary of 65536 the logits of a million tokens take 262 GB; these scores take 25 MB per model.
From them every figure is computed at the end, over all positions, by its plain formula: percentiles and
covariances need no streaming approximation, and after Ctrl-C the results are those of a shorter text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwkv_np.evaluation.divergence import Scores


class Record:
    """Scores of `n_models`, the base first, over up to `n_positions`; the first `n` are known."""

    def __init__(self, n_models: int, n_positions: int) -> None:
        self.n = 0
        self.n_positions = n_positions
        kinds = (np.float64, np.float64, np.float64, np.bool_)
        self._arrays = [[np.zeros(n_positions, kind) for kind in kinds] for _ in range(n_models)]

    def append(self, scores: Sequence[Scores]) -> None:
        """Add the next positions, a Scores of each model. Ctrl-C in here leaves them out for all models."""
        end = self.n + len(scores[0].nll)
        for arrays, of_one in zip(self._arrays, scores):
            for array, new in zip(arrays, of_one):
                array[self.n : end] = new
        self.n = end

    def scores(self, model: int) -> Scores:
        """A model's scores so far, as views."""
        return Scores(*(array[: self.n] for array in self._arrays[model]))


def by_position(x: np.ndarray, first: int = 0, n_bins: int = 40) -> list[tuple[int, int, float]]:
    """Means of x (n,), whose first position is `first`, over up to `n_bins` runs of positions.

    Returns  (first position, last position + 1, mean) of each run
    """
    edges = np.linspace(0, len(x), min(n_bins, len(x)) + 1).astype(int)
    return [(first + int(a), first + int(b), float(x[a:b].mean())) for a, b in zip(edges[:-1], edges[1:])]
