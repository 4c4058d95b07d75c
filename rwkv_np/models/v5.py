"""RWKV-5 "Eagle": its records, their programs, and the NumPy graph, which can be read beside the paper.

Models of two forms were published. The names are those of rwkv.cpp:

    5.1  no gate; a decay and a bonus for each head         (the official package calls it 5.0)
    5.2  a gate; a decay and a bonus for each channel

The model file format has only these. Two more kinds of checkpoint are converted to them: the "r2" of 5.0,
whose bonus `time_faaaa` is not an exponent, becomes 5.1; and the official 5.1, with a gate and one decay per
head, becomes 5.2 with the head's value in each channel. In a file `time_decay` is w = exp(-exp(w')) itself.

The state of a head is a matrix S [key][value], so a layer's memory is n_embd * head_size numbers. The head norm
has the epsilon 64e-5. Models trained before November 2023 had 1e-5, and rwkv.cpp still uses 1e-5 for all of
RWKV-5. A file does not say which: use `--head-epsilon 1e-5`, or `rwkv_np.load(path, head_epsilon=1e-5)`.

Source: "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", arXiv 2404.05892.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import group_norm, mix, silu, token_shift, wkv5
from rwkv_np.models.architecture import Architecture, Part, Planned, Shapes, Sizes, common_sizes
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.layers import GatedChannelMix, LayerNorm, Linear
from rwkv_np.models.numpy_graph import NumpyGraph
from rwkv_np.models.state import Parts

if TYPE_CHECKING:
    from rwkv_np.models.build import Builder

MIX = "time_mix"  # the prefix of the names of the shares; other versions have another one


class TimeMix:
    """RWKV's replacement for attention: r reads from a matrix that k and v write; 5.2 gates the result."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str, config: ModelConfig) -> None:
        self.n_head, self.epsilon = config.n_head, config.head_epsilon
        self.mix_r, self.mix_k, self.mix_v = (get[f"{prefix}.{MIX}_{c}"].array() for c in "rkv")
        self.receptance, self.key, self.value, self.output = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("receptance", "key", "value", "output")
        )
        bonus = "time_faaaa" if config.record is RECORD_5_2 else "time_first"
        self.w, self.u = (get[f"{prefix}.{c}"].array().reshape(self.n_head, -1) for c in ("time_decay", bonus))
        self.norm = [get[f"{prefix}.ln_x.{part}"].array().reshape(self.n_head, -1) for part in ("weight", "bias")]
        self.gate = None
        if config.record is RECORD_5_2:
            self.mix_g, self.gate = get[f"{prefix}.{MIX}_g"].array(), Linear(get[f"{prefix}.gate.weight"])

    def __call__(self, x: np.ndarray, last: np.ndarray, state: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) and `state` (H, N, N) are changed in place."""
        before, heads = token_shift(x, last), (len(x), self.n_head, -1)
        r = self.receptance(mix(x, before, self.mix_r)).reshape(heads)
        k = self.key(mix(x, before, self.mix_k)).reshape(heads)
        v = self.value(mix(x, before, self.mix_v)).reshape(heads)
        y = group_norm(wkv5(r, k, v, self.w, self.u, state), *self.norm, self.epsilon).reshape(x.shape)
        if self.gate:
            y = y * silu(self.gate(mix(x, before, self.mix_g)))
        last[:] = x[-1]
        return self.output(y)


class RWKV5(NumpyGraph):
    """The graph of RWKV-5.1 and 5.2 over the parameters of a model file."""

    def _build_layers(self, get: Mapping[str, Parameter]) -> None:
        blocks = [f"blocks.{i}" for i in range(self.config.n_layer)]
        self.layers = [
            (
                LayerNorm.of(get, f"{b}.ln1"), TimeMix(get, f"{b}.att", self.config),
                LayerNorm.of(get, f"{b}.ln2"), GatedChannelMix(get, f"{b}.ffn", MIX, mix),
            )
            for b in blocks
        ]  # fmt: skip

    def _read_layers(self, x: np.ndarray, parts: Parts) -> np.ndarray:
        for i, (ln1, time_mix, ln2, channel_mix) in enumerate(self.layers):
            x = x + time_mix(ln1(x), parts["shift"][i, 0], parts["wkv"][i])
            x = x + channel_mix(ln2(x), parts["shift"][i, 1])
        return x


def program(b: Builder, is_gated: bool) -> None:
    """The steps for a token, as phases: a phase begins when the phase before is done."""
    decay, bonus, letters = _time_names(is_gated)
    matrices = [f"att.{name}" for name in ("receptance", "key", "value", "gate")[: len(letters)]]
    x, gate, lanes = b.x, b.floats(b.config.n_embd), b.room_for_wkv5(len(letters))
    r, k = b.rows("att.receptance", "ffn.receptance"), b.rows("att.key", "ffn.key")
    rkvg = [r, k, b.rows("att.value"), b.rows("att.gate") if is_gated else None][: len(letters)]
    out, hidden = b.rows("att.output"), b.rows("ffn.value")
    b.phase(b.norm(x, "blocks.0.ln0"))
    for p in b.layers():
        att, ffn, wkv = p.state("shift", 0), p.state("shift", 1), p.state("wkv")
        p.phase(p.norm_and_mix(x, "ln1", att, {f"att.{MIX}_{c}": rows for c, rows in zip(letters, rkvg)}))
        products = dict(zip(matrices, rkvg))
        p.phase(p.wkv5(products, lanes, f"att.{decay}", f"att.{bonus}", "att.ln_x", wkv, out), p.keep(att))
        p.phase(p.add("att.output", out, x))
        p.phase(p.norm_and_mix(x, "ln2", ffn, {f"ffn.{MIX}_k": k, f"ffn.{MIX}_r": r}))
        p.phase(p.squared_relu("ffn.key", k, hidden), p.sigmoid("ffn.receptance", r, gate), p.keep(ffn))
        p.phase(p.add_gated_sparse("ffn.value", hidden, gate, x))
    b.head(x, "ln_out", "head")


# --- the content of a file -------------------------------------------------------------------------


def _time_names(is_gated: bool) -> tuple[str, str, str]:
    """Decay, bonus, and the letters of the mixes."""
    return ("time_decay", "time_faaaa", "rkvg") if is_gated else ("time_decay", "time_first", "rkv")


def per_channel(n_head: int, head_size: int) -> tuple[int, ...]:
    """The shape in a file of one number per channel; rwkv.cpp's converter drops the dimension of a single head."""
    return (n_head, head_size, 1) if n_head > 1 else (head_size, 1)


def head_sizes(shapes: Shapes, parameter: str) -> Sizes:
    """The sizes of a model with heads; their number is the first dimension of `parameter`."""
    heads = shapes.get(f"blocks.0.att.{parameter}", ())
    n_head = heads[0] if len(heads) == 3 else min(1, len(heads))
    found = common_sizes(shapes)
    return dataclasses.replace(found, head_size=found.n_embd // n_head if n_head else 0)


def _sizes(shapes: Shapes) -> Sizes:
    return head_sizes(shapes, "time_decay")


def common_shapes(
    sizes: Sizes, mix_name: str, attention: Mapping[str, tuple[int, ...]], matrices: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Every parameter and its shape, in the order of BlinkDL's checkpoints.

    attention  the first parameters of a layer's time mix; `matrices` (C, C) and the head norm follow
    """
    c, f, v = sizes.n_embd, sizes.dim_ffn, sizes.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (v, c)}
    for i in range(sizes.n_layer):
        b = f"blocks.{i}"
        norms = ("ln1", "ln2") if i else ("ln1", "ln2", "ln0")
        shapes |= {f"{b}.{ln}.{part}": (c,) for ln in norms for part in ("weight", "bias")}
        shapes |= {f"{b}.att.{name}": shape for name, shape in attention.items()}
        shapes |= {f"{b}.att.{name}.weight": (c, c) for name in matrices}
        shapes |= {f"{b}.att.ln_x.{part}": (c,) for part in ("weight", "bias")}
        shapes |= {f"{b}.ffn.{mix_name}_{x}": (c,) for x in "kr"}
        shapes |= {f"{b}.ffn.key.weight": (f, c), f"{b}.ffn.receptance.weight": (c, c)}
        shapes[f"{b}.ffn.value.weight"] = (c, f)
    return shapes | {"ln_out.weight": (c,), "ln_out.bias": (c,), "head.weight": (v, c)}


def _parameter_shapes(sizes: Sizes, is_gated: bool) -> dict[str, tuple[int, ...]]:
    decay, bonus, letters = _time_names(is_gated)
    shape = per_channel(sizes.n_head, sizes.head_size) if is_gated else (max(1, sizes.n_head), 1, 1)
    attention = {decay: shape, bonus: shape} | {f"{MIX}_{x}": (sizes.n_embd,) for x in "kvrg" if x in letters}
    matrices = ("receptance", "key", "value", "output", "gate")
    return common_shapes(sizes, MIX, attention, matrices if is_gated else matrices[:-1])


def _checkpoint_shapes(sizes: Sizes, is_gated: bool) -> dict[str, tuple[int, ...]]:
    """The same in a checkpoint: the shares of a mix are (1, 1, C), decay and bonus (H, N) or (H,)."""
    shapes = _parameter_shapes(sizes, is_gated)
    decay, bonus, _ = _time_names(is_gated)
    heads = (sizes.n_head, sizes.head_size) if is_gated else (sizes.n_head,)
    for name, shape in shapes.items():
        if f".{MIX}_" in name:
            shapes[name] = (1, 1, *shape)
        elif name.endswith((decay, bonus)):
            shapes[name] = heads
    return shapes


def state_parts(sizes: Sizes) -> dict[str, Part]:
    """The last token's input to time mix and to channel mix; the matrix S of each head, [key][value]."""
    return {
        "shift": Part((sizes.n_layer, 2, sizes.n_embd)),
        "wkv": Part((sizes.n_layer, sizes.n_head, sizes.head_size, sizes.head_size)),
    }


# --- converting a checkpoint -------------------------------------------------------


def _plan(shapes: Shapes) -> list[Planned]:
    n_embd = (*shapes.get("emb.weight", ()), 0, 0)[1]
    return [_planned(name, shape, n_embd, "blocks.0.att.gate.weight" in shapes) for name, shape in shapes.items()]


def _planned(name: str, shape: tuple[int, ...], n_embd: int, is_gated: bool) -> Planned:
    """Every parameter with `.time_` in its name and all vectors stay FP32."""
    last = name.rpartition(".")[2]
    if last in ("time_decay", "time_first", "time_faaaa"):
        return _planned_heads(name, shape, n_embd, is_gated)
    if ".time_" in name:
        shape = tuple(n for n in shape if n != 1)
    return Planned(name, (name,), shape, is_vector=len(shape) == 1 or ".time_" in name)


def _planned_heads(name: str, shape: tuple[int, ...], n_embd: int, is_gated: bool) -> Planned:
    """Decay and bonus: (H, N) or (H,) in a checkpoint, one number per channel or per head in a file."""
    n_head = shape[0] if shape else 0
    head_size = n_embd // n_head if n_head else 0
    target, found = name, shape
    transform = _TRANSFORMS[name.rpartition(".")[2]]
    if not is_gated:
        target, found = name.replace("time_faaaa", "time_first"), (*shape, 1, 1)
    elif len(shape) == 1:  # the official 5.1
        found = per_channel(n_head, head_size)
        return Planned(target, (name,), found, True, functools.partial(_repeated, transform, head_size), is_whole=True)
    elif len(shape) == 2:
        found = per_channel(*shape)
    return Planned(target, (name,), found, True, transform)


def _decay(w: Any) -> Any:
    # Use torch's exp both times, as rwkv.cpp does: another library's differs in the last bit of half the values.
    return (-w.exp()).exp()


_TRANSFORMS: dict[str, Callable[[Any], Any] | None] = {
    "time_decay": _decay,
    "time_first": lambda u: u.exp(),
    "time_faaaa": None,
}


def _repeated(transform: Callable[[Any], Any] | None, head_size: int, values: Any) -> Any:
    return (transform(values) if transform else values).repeat_interleave(head_size)


def is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name not in ("emb.weight", "head.weight")


def _record(name: str, title: str, is_gated: bool) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        marks=("att.gate.weight",) if is_gated else ("att.ln_x.weight",),
        sizes=_sizes,
        parameter_shapes=functools.partial(_parameter_shapes, is_gated=is_gated),
        checkpoint_shapes=functools.partial(_checkpoint_shapes, is_gated=is_gated),
        state_parts=state_parts,
        plan=_plan,
        is_quantizable=is_quantizable,
        program=functools.partial(program, is_gated=is_gated),
        graph=RWKV5,
    )


RECORD_5_1 = _record("v5.1", "RWKV-5.1", is_gated=False)
RECORD_5_2 = _record("v5.2", "RWKV-5.2", is_gated=True)
