"""RWKV-4 "Dove" in NumPy: the reference, to be read next to the paper's equations.

Shapes are T tokens, C = n_embd channels, F = dim_ffn. The letters are the paper's: r w k v,
u for the bonus of the current token (`time_first`), a / b for the running weighted average
of v. The file's `time_decay` is already -exp(w'), so a layer's w is negative.

A sequence is read layer by layer, all matrices with T columns at once; only the WKV
recurrence goes token by token. One token is a sequence of one.

Source: "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048, equations 11-20
and appendix D (the stable form).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from threadpoolctl import ThreadpoolController

from rwkv_np.files.parameter import Parameter
from rwkv_np.models import head
from rwkv_np.models.base import Model, Progress
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import Embedding, LayerNorm, Linear, mix, sigmoid, squared_relu, token_shift
from rwkv_np.models.state import State

Shapes = Mapping[str, tuple[int, ...]]


def wkv(
    k: np.ndarray, v: np.ndarray, w: np.ndarray, u: np.ndarray, state: np.ndarray
) -> np.ndarray:
    """The weighted average of past values v, by keys k that fade with e^w a token.

    a and b are kept divided by e^p, p being the largest exponent so far, so that no
    exponential here exceeds 1, however large the keys.

    Shapes   k, v (T, C); w, u (C,); state (3, C) = a, b, p, changed in place; returns (T, C)
    """
    a, b, p = state
    out = np.empty_like(k)
    for t in range(len(k)):
        # === Read: the past, and the present with its bonus u === #
        q = np.maximum(p, u + k[t])
        past, present = np.exp(p - q), np.exp(u + k[t] - q)
        out[t] = (past * a + present * v[t]) / (past * b + present)
        # === Decay and write === #
        q = np.maximum(p + w, k[t])
        past, present = np.exp(p + w - q), np.exp(k[t] - q)
        a, b, p = past * a + present * v[t], past * b + present, q
    state[:] = a, b, p
    return out


class TimeMix:
    """Attention's place: r gates a running average of v."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str) -> None:
        self.mix_k, self.mix_v, self.mix_r = (get[f"{prefix}.time_mix_{c}"].array() for c in "kvr")
        self.w = get[f"{prefix}.time_decay"].array()
        self.u = get[f"{prefix}.time_first"].array()
        self.key, self.value, self.receptance, self.output = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("key", "value", "receptance", "output")
        )

    def __call__(self, x: np.ndarray, last: np.ndarray, state: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) and `state` (3, C) are changed in place."""
        before = token_shift(x, last)
        r = sigmoid(self.receptance(mix(x, before, self.mix_r)))
        k = self.key(mix(x, before, self.mix_k))
        v = self.value(mix(x, before, self.mix_v))
        last[:] = x[-1]
        return self.output(r * wkv(k, v, self.w, self.u, state))


class ChannelMix:
    """The feed-forward layer, with a squared ReLU and a gate."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str) -> None:
        self.mix_k, self.mix_r = (get[f"{prefix}.time_mix_{c}"].array() for c in "kr")
        self.key, self.value, self.receptance = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("key", "value", "receptance")
        )

    def __call__(self, x: np.ndarray, last: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) is changed in place."""
        before = token_shift(x, last)
        r = sigmoid(self.receptance(mix(x, before, self.mix_r)))
        k = squared_relu(self.key(mix(x, before, self.mix_k)))  # (T, F)
        last[:] = x[-1]
        return r * self.value(k)


class RWKV4(Model):
    """The RWKV-4 graph over the parameters of a model file."""

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
        get = parameters

        def norm(name: str) -> LayerNorm:
            return LayerNorm(get[f"{name}.weight"], get[f"{name}.bias"])

        blocks = [f"blocks.{i}" for i in range(config.n_layer)]
        self.emb = Embedding(get["emb.weight"])
        self.ln0 = norm("blocks.0.ln0")
        self.layers = [
            (norm(f"{b}.ln1"), TimeMix(get, f"{b}.att"), norm(f"{b}.ln2"), ChannelMix(get, f"{b}.ffn"))
            for b in blocks
        ]
        self.ln_out = norm("ln_out")
        self.head = Linear(head.held(get, head_q8_0))

    def _read(self, tokens: np.ndarray, state: State, full_output: bool) -> np.ndarray:
        with self._pools.limit(limits=self._threads, user_api="blas"):
            return self._logits(tokens, state, full_output)

    def _logits(self, tokens: np.ndarray, state: State, full_output: bool) -> np.ndarray:
        x = self.ln0(self.emb(tokens))
        for i, (ln1, time_mix, ln2, channel_mix) in enumerate(self.layers):
            x = x + time_mix(ln1(x), state.shift[i, 0], state.wkv[i])
            x = x + channel_mix(ln2(x), state.shift[i, 1])
        # The head is the largest matrix of a small model: it reads what is asked for alone.
        return self.head(self.ln_out(x if full_output else x[-1]))


def parameter_shapes(n_layer: int, n_embd: int, dim_ffn: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Every parameter of RWKV-4 and its shape in a model file, in the order of BlinkDL's checkpoints."""
    c, f = n_embd, dim_ffn
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (vocab_size, c)}
    for i in range(n_layer):
        b = f"blocks.{i}"
        norms = ("ln1", "ln2") if i else ("ln1", "ln2", "ln0")
        shapes |= {f"{b}.{ln}.{part}": (c,) for ln in norms for part in ("weight", "bias")}
        shapes |= {f"{b}.att.{name}": (c,) for name in ("time_decay", "time_first")}
        shapes |= {f"{b}.att.time_mix_{x}": (c,) for x in "kvr"}
        shapes |= {f"{b}.att.{name}.weight": (c, c) for name in ("key", "value", "receptance", "output")}
        shapes |= {f"{b}.ffn.time_mix_{x}": (c,) for x in "kr"}
        shapes |= {f"{b}.ffn.key.weight": (f, c), f"{b}.ffn.receptance.weight": (c, c)}
        shapes[f"{b}.ffn.value.weight"] = (c, f)
    return shapes | {"ln_out.weight": (c,), "ln_out.bias": (c,), "head.weight": (vocab_size, c)}


def sizes(shapes: Shapes) -> tuple[int, int, int, int]:
    """(n_layer, n_embd, dim_ffn, vocab_size) that parameters of those shapes suggest."""
    layers = {int(m[1]) for name in shapes if (m := re.match(r"blocks\.(\d{1,6})\.", name))}
    vocab_size, n_embd = (*shapes.get("emb.weight", ()), 0, 0)[:2]
    dim_ffn = (*shapes.get("blocks.0.ffn.key.weight", ()), 0)[0]
    return len(layers), n_embd, dim_ffn, vocab_size


def find_problem(shapes: Shapes) -> str | None:
    """What keeps parameters of those shapes from being an RWKV-4 model; None where nothing does."""
    expected = parameter_shapes(*sizes(shapes))
    if missing := [name for name in expected if name not in shapes]:
        return f"lacks the parameter {missing[0]}{_more(missing)}"
    if extra := [name for name in shapes if name not in expected]:
        return f"holds the parameter {extra[0]}{_more(extra)}, which RWKV-4 does not have"
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            return f"{name} has the shape {tuple(shapes[name])}; expected {shape}"
    return None


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
