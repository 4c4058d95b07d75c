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


LAYERS: dict[str, Layer] = {"v4": _layer4}
"""The layer of each version that has one, by the name of its record."""
