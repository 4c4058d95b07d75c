"""The common part of the NumPy graphs of all versions: embedding, first and last norm, head, one run at a time.

A version adds its layers (`v4.py`). These graphs are not for chatting: they are the reference that the
engine is tested against. Read them next to the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import ThreadpoolController

from rwkv_np.files.parameter import Parameter
from rwkv_np.models import head
from rwkv_np.models.base import CheckedRun, Model, Progress
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding, LayerNorm, Linear
from rwkv_np.models.state import Parts


class NumpyGraph(Model):
    """A graph over the parameters of a model file, any data type, float32 activations.

    threads    of NumPy's matrix products
    head_q8_0  see `head.py`
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
        self._threads, self._pools = threads, ThreadpoolController()
        self.emb = Embedding(parameters["emb.weight"])
        self.ln0, self.ln_out = (LayerNorm.of(parameters, name) for name in ("blocks.0.ln0", "ln_out"))
        self.head = Linear(head.loaded(parameters, head_q8_0))
        self._build_layers(parameters)

    def _build_layers(self, get: Mapping[str, Parameter]) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no layers")

    def _read_layers(self, x: np.ndarray, parts: Parts) -> np.ndarray:
        """x (T, C) through all layers; the parts of the state are changed in place."""
        raise NotImplementedError(f"{type(self).__name__} has no layers")

    def _read(self, runs: Sequence[CheckedRun], states: np.ndarray) -> np.ndarray:
        with self._pools.limit(limits=self._threads, user_api="blas"):
            rows = [self._read_run(run, states) for run in runs]
        return np.concatenate(rows)

    def _read_run(self, run: CheckedRun, states: np.ndarray) -> np.ndarray:
        if run.after != run.slot:
            states[run.after] = states[run.slot]
        parts = self.state_layout.parts(states[run.after])
        x = self._read_layers(self.ln0(self.emb(run.tokens)), parts)
        # The head is the largest matrix of a small model: compute only the requested logits.
        return self.head(self.ln_out(x[len(x) - run.n_wanted :]))
