"""RWKV-6 "Finch": its record, its program, and its NumPy graph, which can be read beside the paper.

The memory is that of RWKV-5 (`v5.py`, `equations.wkv5`). What is new: the tokens themselves decide how much of
the token before is mixed in, and how fast each channel of the memory decays. Both use pairs of thin matrices
(LoRA): five slices of `time_maa_w1` and `time_maa_w2` for the mixes, in the order w k v r g, and `time_decay_w1`
and `time_decay_w2` for the decay. A share is that of the token before, not of this one as in RWKV-4 and 5.

In a model file the thin matrices are transposed, and are FP32 unless they are quantized. `time_decay` is as
in the checkpoint: w = exp(-exp(time_decay + ...)) is computed for each token.

Source: "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", arXiv 2404.05892.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import group_norm, lerp, silu, token_shift, wkv5
from rwkv_np.kernels.layout import BLOCK
from rwkv_np.models.architecture import Architecture, Planned, Shapes, Sizes
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import GatedChannelMix, LayerNorm, Linear
from rwkv_np.models.numpy_graph import NumpyGraph
from rwkv_np.models.state import Parts
from rwkv_np.models.v5 import common_shapes, head_sizes, is_quantizable, per_channel, state_parts

if TYPE_CHECKING:
    from rwkv_np.models.build import Builder

MIXES = "wkvrg"  # the order of the slices
MIX = "time_maa"


class TimeMix:
    """RWKV's replacement for attention: RWKV-5.2 with mixes and decay that depend on the token."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str, config: ModelConfig) -> None:
        self.n_head, self.epsilon = config.n_head, config.head_epsilon
        self.maa_x = get[f"{prefix}.{MIX}_x"].array()
        self.maa = np.stack([get[f"{prefix}.{MIX}_{c}"].array() for c in MIXES])  # (5, C)
        self.maa_w1, self.maa_w2 = Linear(get[f"{prefix}.{MIX}_w1"]), get[f"{prefix}.{MIX}_w2"].array()
        self.decay = get[f"{prefix}.time_decay"].array().reshape(-1)
        self.decay_w1, self.decay_w2 = (Linear(get[f"{prefix}.time_decay_w{i}"]) for i in (1, 2))
        self.u = get[f"{prefix}.time_faaaa"].array().reshape(self.n_head, -1)
        self.receptance, self.key, self.value, self.gate, self.output = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("receptance", "key", "value", "gate", "output")
        )
        self.norm = [get[f"{prefix}.ln_x.{part}"].array().reshape(self.n_head, -1) for part in ("weight", "bias")]

    def __call__(self, x: np.ndarray, last: np.ndarray, state: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) and `state` (H, N, N) are changed in place."""
        before, heads = token_shift(x, last), (len(x), self.n_head, -1)
        z = np.tanh(self.maa_w1(lerp(x, before, self.maa_x))).reshape(len(x), len(MIXES), -1)  # (T, 5, R)
        shares = self.maa[:, None] + np.matmul(z.transpose(1, 0, 2), self.maa_w2.transpose(0, 2, 1))  # (5, T, C)
        x_w, x_k, x_v, x_r, x_g = (lerp(x, before, share) for share in shares)
        w = np.exp(-np.exp(self.decay + self.decay_w2(np.tanh(self.decay_w1(x_w)))))
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        out = wkv5(*(a.reshape(heads) for a in (r, k, v, w)), self.u, state)
        y = group_norm(out, *self.norm, self.epsilon).reshape(x.shape) * silu(self.gate(x_g))
        last[:] = x[-1]
        return self.output(y)


class RWKV6(NumpyGraph):
    """The RWKV-6 graph over the parameters of a model file."""

    def _build_layers(self, get: Mapping[str, Parameter]) -> None:
        blocks = [f"blocks.{i}" for i in range(self.config.n_layer)]
        self.layers = [
            (
                LayerNorm.of(get, f"{b}.ln1"), TimeMix(get, f"{b}.att", self.config),
                LayerNorm.of(get, f"{b}.ln2"), GatedChannelMix(get, f"{b}.ffn", MIX, lerp),
            )
            for b in blocks
        ]  # fmt: skip

    def _read_layers(self, x: np.ndarray, parts: Parts) -> np.ndarray:
        for i, (ln1, time_mix, ln2, channel_mix) in enumerate(self.layers):
            x = x + time_mix(ln1(x), parts["shift"][i, 0], parts["wkv"][i])
            x = x + channel_mix(ln2(x), parts["shift"][i, 1])
        return x


def program(b: Builder) -> None:
    """The steps for a token, as phases: a phase begins when the phase before is done."""
    c = b.config
    x, normed, gate, lanes = b.x, b.floats(c.n_embd), b.floats(c.n_embd), b.room_for_wkv5(len(MIXES))
    z = b.floats(len(MIXES) * c.ranks[0] + BLOCK)  # slices are read in whole blocks
    first, w, k = b.rows(f"att.{MIX}_w1"), b.rows("att.time_decay_w1"), b.rows("att.key", "ffn.key")
    v, r, g = b.rows("att.value"), b.rows("att.receptance", "ffn.receptance"), b.rows("att.gate")
    slow, out, hidden = b.rows("att.time_decay_w2"), b.rows("att.output"), b.rows("ffn.value")
    products = {"receptance": r, "key": k, "value": v, "gate": g, "time_decay_w2": slow}
    b.phase(b.norm(x, "blocks.0.ln0"))
    for p in b.layers():
        att, ffn, wkv = p.state("shift", 0), p.state("shift", 1), p.state("wkv")
        p.phase(p.norm_and_mix(x, "ln1", att, {f"att.{MIX}_x": first}, equation="lerp", kept=normed))
        p.phase(p.tanh(f"att.{MIX}_w1", first, z))
        mixes = {f"att.{MIX}_{letter}": rows for letter, rows in zip(MIXES, (w, k, v, r, g))}
        p.phase(p.lora_mix(normed, att, z, f"att.{MIX}_w2", mixes))
        p.phase(p.to_rows("att.time_decay_w1", w, slow, "tanh"), p.keep(att))
        heads = {f"att.{name}": rows for name, rows in products.items()}
        p.phase(p.wkv5(heads, lanes, "att.time_decay", "att.time_faaaa", "att.ln_x", wkv, out))
        p.phase(p.add("att.output", out, x))
        p.phase(p.norm_and_mix(x, "ln2", ffn, {f"ffn.{MIX}_k": k, f"ffn.{MIX}_r": r}, equation="lerp"))
        p.phase(p.squared_relu("ffn.key", k, hidden), p.sigmoid("ffn.receptance", r, gate), p.keep(ffn))
        p.phase(p.add_gated_sparse("ffn.value", hidden, gate, x))
    b.head(x, "ln_out", "head")


# --- the content of a file -------------------------------------------------------------------------


def _sizes(shapes: Shapes) -> Sizes:
    """The sizes; the ranks are those of a mix and of the decay."""
    found = head_sizes(shapes, "time_decay")
    ranks = ((*shapes.get(f"blocks.0.att.{name}", ()), 0, 0, 0)[at] for name, at in
             ((f"{MIX}_w2", 2), ("time_decay_w1", 0)))  # fmt: skip
    return dataclasses.replace(found, ranks=tuple(ranks))


def _attention(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    c, (mix, decay), n_mixes = sizes.n_embd, sizes.ranks, len(MIXES)
    return {f"{MIX}_{x}": (c,) for x in "x" + MIXES} | {
        f"{MIX}_w1": (n_mixes * mix, c),
        f"{MIX}_w2": (n_mixes, c, mix),
        "time_decay": (sizes.n_head, sizes.head_size, 1),
        "time_decay_w1": (decay, c),
        "time_decay_w2": (c, decay),
        "time_faaaa": per_channel(sizes.n_head, sizes.head_size),
    }


def parameter_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every parameter of RWKV-6 and its shape in a model file, in the order of BlinkDL's checkpoints."""
    return common_shapes(sizes, MIX, _attention(sizes), ("receptance", "key", "value", "output", "gate"))


def checkpoint_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The same in a checkpoint, where the thin matrices are transposed."""
    shapes = parameter_shapes(sizes)
    for name, shape in shapes.items():
        last = name.rpartition(".")[2]
        if last == "time_decay" or (last.startswith(MIX) and len(shape) == 1):
            shapes[name] = (1, 1, sizes.n_embd)
        elif last == "time_faaaa":
            shapes[name] = (sizes.n_head, sizes.head_size)
        elif last in _TRANSPOSED:
            shapes[name] = (*shape[:-2], shape[-1], shape[-2])
    return shapes


# --- converting a checkpoint -------------------------------------------------------

_TRANSPOSED = (f"{MIX}_w1", f"{MIX}_w2", "time_decay_w1", "time_decay_w2")


def _plan(shapes: Shapes) -> list[Planned]:
    n_head = (*shapes.get("blocks.0.att.time_faaaa", ()), 0)[0]
    return [_planned(name, shape, n_head) for name, shape in shapes.items()]


def _planned(name: str, shape: tuple[int, ...], n_head: int) -> Planned:
    """Every parameter with `.time_` in its name and all vectors stay FP32."""
    last = name.rpartition(".")[2]
    if last in _TRANSPOSED and len(shape) > 1:
        turned = (*shape[:-2], shape[-1], shape[-2])
        return Planned(name, (name,), turned, True, lambda x: x.transpose(-1, -2), is_whole=True)
    if last == "time_decay" and n_head and shape:
        shape = (n_head, shape[-1] // n_head, 1)
    elif last == "time_faaaa" and len(shape) == 2:
        shape = per_channel(*shape)
    elif last.startswith("time_maa_"):
        shape = tuple(n for n in shape if n != 1)
    return Planned(name, (name,), shape, is_vector=len(shape) == 1 or ".time_" in name)


RECORD = Architecture(
    name="v6",
    title="RWKV-6",
    marks=("att.time_maa_x", "att.time_maa_w1"),
    sizes=_sizes,
    parameter_shapes=parameter_shapes,
    checkpoint_shapes=checkpoint_shapes,
    state_parts=state_parts,
    plan=_plan,
    is_quantizable=is_quantizable,
    program=program,
    graph=RWKV6,
)
