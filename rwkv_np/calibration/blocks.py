"""A layer of each RWKV version as operations on a tape: the equations of `rwkv_np/models/`, with gradients.

A layer takes the values that enter it and returns those that leave it. That is the residual stream x, and in RWKV-7
also the first layer's v. Every sequence starts from an empty state. The letters are the papers'; the models'
modules explain them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rwkv_np.calibration import tape as t
from rwkv_np.calibration.tape import Value


class Block:
    """The parameters of one layer, by their names without "blocks.0.".

    epsilon  of the head norm
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], n_head: int, epsilon: float) -> None:
        self.arrays, self.n_head, self.epsilon = arrays, n_head, epsilon

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def norm(self, name: str, x: Value) -> Value:
        """A layer norm, such as "ln1"."""
        return t.layer_norm(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def linear(self, name: str, x: Value) -> Value:
        """The product with a matrix, such as "att.key"; the names of thin ones do not end in "weight"."""
        name = name if name in self.arrays else f"{name}.weight"
        return t.linear(x, self[name], name)


Layer = Callable[[Block, list[Value]], list[Value]]


def gated_channel_mix(p: Block, x: Value, share: str, mixed: Callable[[Value, Value, np.ndarray], Value]) -> Value:
    """The feed-forward layer of RWKV-4 to 6 (`layers.GatedChannelMix`)."""
    before = t.token_shift(x)
    r = t.sigmoid(p.linear("ffn.receptance", mixed(x, before, p[f"ffn.{share}_r"])))
    k = t.squared_relu(p.linear("ffn.key", mixed(x, before, p[f"ffn.{share}_k"])))
    return r * p.linear("ffn.value", k)


def _time_mix4(p: Block, x: Value) -> Value:
    before = t.token_shift(x)
    r = t.sigmoid(p.linear("att.receptance", t.mix(x, before, p["att.time_mix_r"])))
    k = p.linear("att.key", t.mix(x, before, p["att.time_mix_k"]))
    v = p.linear("att.value", t.mix(x, before, p["att.time_mix_v"]))
    return p.linear("att.output", r * t.wkv4(k, v, p["att.time_decay"], p["att.time_first"]))


def _layer4(p: Block, values: list[Value]) -> list[Value]:
    (x,) = values
    x = x + _time_mix4(p, p.norm("ln1", x))
    return [x + gated_channel_mix(p, p.norm("ln2", x), "time_mix", t.mix)]


# --- RWKV-5 and 6 ------------------------------------------------------------------------------------


def _heads(p: Block, *values: Value) -> list[Value]:
    """(T, C) as (T, H, N)."""
    return [x.reshape(len(x.array), p.n_head, -1) for x in values]


def _head_norm(p: Block, x: Value) -> Value:
    """The head norm, (T, H, N) -> (T, H, N)."""
    weight, bias = (p[f"att.ln_x.{part}"].reshape(p.n_head, -1) for part in ("weight", "bias"))
    return t.group_norm(x, weight, bias, p.epsilon)


def _time_mix5(p: Block, x: Value) -> Value:
    before = t.token_shift(x)
    names = {"r": "receptance", "k": "key", "v": "value"}
    r, k, v = (p.linear(f"att.{name}", t.mix(x, before, p[f"att.time_mix_{c}"])) for c, name in names.items())
    bonus = "time_faaaa" if "att.gate.weight" in p.arrays else "time_first"
    w, u = (p[f"att.{name}"].reshape(p.n_head, -1) for name in ("time_decay", bonus))
    r, k, v = _heads(p, r, k, v)
    y = _head_norm(p, t.wkv5(r, k, v, w, u)).reshape(*x.shape)
    if "att.gate.weight" in p.arrays:
        y = y * t.silu(p.linear("att.gate", t.mix(x, before, p["att.time_mix_g"])))
    return p.linear("att.output", y)


def _layer5(p: Block, values: list[Value]) -> list[Value]:
    (x,) = values
    x = x + _time_mix5(p, p.norm("ln1", x))
    return [x + gated_channel_mix(p, p.norm("ln2", x), "time_mix", t.mix)]


def _mixes6(p: Block, x: Value, before: Value) -> list[Value]:
    """x_w, x_k, x_v, x_r, x_g: the shares of the token before depend on both tokens."""
    z = t.tanh(p.linear("att.time_maa_w1", t.lerp(x, before, p["att.time_maa_x"])))
    rank, mixes = p["att.time_maa_w2"].shape[2], []
    for i, letter in enumerate("wkvrg"):
        share = t.linear(z.columns(slice(i * rank, (i + 1) * rank)), p["att.time_maa_w2"][i], "att.time_maa_w2")
        mixes.append(t.lerp(x, before, share + p[f"att.time_maa_{letter}"]))
    return mixes


def _time_mix6(p: Block, x: Value) -> Value:
    x_w, x_k, x_v, x_r, x_g = _mixes6(p, x, t.token_shift(x))
    r, k, v = p.linear("att.receptance", x_r), p.linear("att.key", x_k), p.linear("att.value", x_v)
    slow = p.linear("att.time_decay_w2", t.tanh(p.linear("att.time_decay_w1", x_w)))
    w = t.decay6(slow + p["att.time_decay"].reshape(-1))
    r, k, v, w = _heads(p, r, k, v, w)
    out = _head_norm(p, t.wkv5(r, k, v, w, p["att.time_faaaa"].reshape(p.n_head, -1)))
    y = out.reshape(*x.shape) * t.silu(p.linear("att.gate", x_g))
    return p.linear("att.output", y)


def _layer6(p: Block, values: list[Value]) -> list[Value]:
    (x,) = values
    x = x + _time_mix6(p, p.norm("ln1", x))
    return [x + gated_channel_mix(p, p.norm("ln2", x), "time_maa", t.lerp)]


# --- RWKV-7 ------------------------------------------------------------------------------------------


def _low_rank7(p: Block, letter: str, x: Value, between: Callable[[Value], Value] = lambda x: x) -> Value:
    """W2 f(W1 x), plus a start if there is one (`v7.LowRank`)."""
    y = p.linear(f"att.{letter}2", between(p.linear(f"att.{letter}1", x)))
    start = f"att.{letter}0"
    return y + p[start].reshape(-1) if start in p.arrays else y


def _time_mix7(p: Block, x: Value, v_first: Value | None) -> tuple[Value, Value]:
    before = t.token_shift(x)
    x_r, x_w, x_k, x_v, x_a, x_g = (t.lerp(x, before, share.reshape(-1)) for share in p["att.x_rwkvag"])
    r, k, v = p.linear("att.receptance", x_r), p.linear("att.key", x_k), p.linear("att.value", x_v)
    w = t.decay7(_low_rank7(p, "w", x_w, t.tanh))
    a = t.sigmoid(_low_rank7(p, "a", x_a))
    g = _low_rank7(p, "g", x_g, t.sigmoid)
    if v_first is None:
        v_first = v
    else:
        v = t.lerp(v, v_first, t.sigmoid(_low_rank7(p, "v", x_v)))
    k_k, k_a = (p[f"att.{name}"].reshape(-1) for name in ("k_k", "k_a"))
    kk, k = k * k_k, k * (a * k_a + (1 - k_a))  # 1 + (a - 1) k_a
    r, w, k, v, kk, a = _heads(p, r, w, k, v, kk, a)
    out = _head_norm(p, t.wkv7(r, w, k, v, t.unit_length(kk), a)) + t.bonus7(r, k, v, p["att.r_k"])
    return p.linear("att.output", out.reshape(*x.shape) * g), v_first


def _layer7(p: Block, values: list[Value]) -> list[Value]:
    x = values[0]
    out, v_first = _time_mix7(p, p.norm("ln1", x), values[1] if len(values) > 1 else None)
    x = x + out
    normed = p.norm("ln2", x)
    mixed = t.lerp(normed, t.token_shift(normed), p["ffn.x_k"].reshape(-1))
    return [x + p.linear("ffn.value", t.squared_relu(p.linear("ffn.key", mixed))), v_first]


LAYERS: dict[str, Layer] = {"v4": _layer4, "v5.1": _layer5, "v5.2": _layer5, "v6": _layer6, "v7": _layer7}
"""The layer of each version, by the name of its record."""
