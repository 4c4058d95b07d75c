"""RWKV-7 "Goose": its record, its program, and its NumPy graph, which can be read beside the paper.

The letters are those of the paper: r w k v, a for how much of the memory's value for a key is replaced,
g for the gate, kk for the key that is looked up and replaced. Small products of two thin matrices
("LoRA": w1 and w2, a1 and a2, ...) give w, a, g and the share of the first layer's v. Their shape in a
model file is (out, in), like that of any matrix; in a checkpoint it is (in, out).

The memory S of a head is stored as [key][value] here, in a state and in a saved file, so that a kernel
needs no sum across lanes. The paper, the official package and rwkv.cpp use [value][key].

A sequence is read layer by layer, all matrices with T columns at once; only the memory goes token by
token. `v_first` is the first layer's v of each token; it is not part of the state.

Source: "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv 2503.14456, and BlinkDL's
RWKV-LM, RWKV-v7/rwkv_v7_demo.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import (
    decay7,
    group_norm,
    lerp,
    sigmoid,
    squared_relu,
    token_shift,
    unit_length,
    wkv7,
)
from rwkv_np.models.architecture import Architecture, Part, Planned, Shapes, Sizes, common_sizes
from rwkv_np.models.layers import LayerNorm, Linear
from rwkv_np.models.numpy_graph import NumpyGraph
from rwkv_np.models.state import Parts

if TYPE_CHECKING:
    from rwkv_np.models.build import Builder

MIXES = "rwkvag"  # the order of x_rwkvag's rows
RANKS = "wavg"  # the order of Sizes.ranks


class LowRank:
    """W2 f(W1 x), plus `start` if there is one."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str, letter: str) -> None:
        self.first, self.second = (Linear(get[f"{prefix}.{letter}{i}"]) for i in (1, 2))
        start = get.get(f"{prefix}.{letter}0")
        self.start = np.float32(0) if start is None else start.array().reshape(-1)

    def __call__(self, x: np.ndarray, between: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
        """x (T, C) -> (T, C)"""
        return self.start + self.second(between(self.first(x)))


class TimeMix:
    """RWKV's replacement for attention: a memory that each head looks up, corrects and reads."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str, n_head: int, is_first: bool) -> None:
        self.n_head, self.is_first = n_head, is_first
        self.mixes = dict(zip(MIXES, get[f"{prefix}.x_rwkvag"].array().reshape(len(MIXES), -1)))
        self.k_k, self.k_a, self.r_k = (get[f"{prefix}.{name}"].array() for name in ("k_k", "k_a", "r_k"))
        self.receptance, self.key, self.value, self.output = (
            Linear(get[f"{prefix}.{name}.weight"]) for name in ("receptance", "key", "value", "output")
        )
        self.w, self.a, self.g = (LowRank(get, prefix, letter) for letter in "wag")
        self.v = None if is_first else LowRank(get, prefix, "v")
        self.norm = [get[f"{prefix}.ln_x.{part}"].array().reshape(n_head, -1) for part in ("weight", "bias")]

    def __call__(
        self, x: np.ndarray, last: np.ndarray, state: np.ndarray, v_first: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x (T, C) -> (T, C) and v_first (T, C); `last` (C,) and `state` (H, N, N) are changed in place."""
        before = token_shift(x, last)
        x_r, x_w, x_k, x_v, x_a, x_g = (lerp(x, before, self.mixes[c]) for c in MIXES)
        last[:] = x[-1]
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        w = decay7(self.w(x_w, np.tanh))
        a = sigmoid(self.a(x_a))
        g = self.g(x_g, sigmoid)
        v_first = v if v_first is None else v_first
        if self.v is not None:
            v = lerp(v, v_first, sigmoid(self.v(x_v)))
        k_k, k_a = self.k_k.reshape(-1), self.k_a.reshape(-1)
        kk, k = k * k_k, k * (1 + (a - 1) * k_a)
        r, w, k, v, kk, a = (y.reshape(len(y), self.n_head, -1) for y in (r, w, k, v, kk, a))
        out = group_norm(wkv7(r, w, k, v, unit_length(kk), a, state), *self.norm)
        out += (r * k * self.r_k).sum(axis=-1, keepdims=True) * v
        return self.output(out.reshape(x.shape) * g), v_first


class ChannelMix:
    """The feed-forward layer, with a squared ReLU."""

    def __init__(self, get: Mapping[str, Parameter], prefix: str) -> None:
        self.mix = get[f"{prefix}.x_k"].array().reshape(-1)
        self.key, self.value = (Linear(get[f"{prefix}.{name}.weight"]) for name in ("key", "value"))

    def __call__(self, x: np.ndarray, last: np.ndarray) -> np.ndarray:
        """x (T, C) -> (T, C); `last` (C,) is changed in place."""
        before = token_shift(x, last)
        last[:] = x[-1]
        return self.value(squared_relu(self.key(lerp(x, before, self.mix))))


class RWKV7(NumpyGraph):
    """The RWKV-7 graph over the parameters of a model file."""

    def _build_layers(self, get: Mapping[str, Parameter]) -> None:
        n_head, blocks = self.config.n_head, [f"blocks.{i}" for i in range(self.config.n_layer)]
        self.layers = [
            (
                LayerNorm.of(get, f"{b}.ln1"), TimeMix(get, f"{b}.att", n_head, b == blocks[0]),
                LayerNorm.of(get, f"{b}.ln2"), ChannelMix(get, f"{b}.ffn"),
            )
            for b in blocks
        ]  # fmt: skip

    def _read_layers(self, x: np.ndarray, parts: Parts) -> np.ndarray:
        v_first = None
        for i, (ln1, time_mix, ln2, channel_mix) in enumerate(self.layers):
            out, v_first = time_mix(ln1(x), parts["shift"][i, 0], parts["wkv"][i], v_first)
            x = x + out
            x = x + channel_mix(ln2(x), parts["shift"][i, 1])
        return x


def program(b: Builder) -> None:
    """The steps for a token, as phases: a phase begins when the phase before is done."""
    x, n_embd = b.x, b.config.n_embd
    # All layers except the first have v1 and v2.
    letters = RANKS if b.config.n_layer > 1 else RANKS.replace("v", "")
    x_r, x_w, x_k, x_v, x_a, x_g = mixed = [
        b.rows(*names) for names in
        (("att.receptance",), ("att.w1",), ("att.key", "ffn.key"), ("att.value", "att.v1"), ("att.a1",), ("att.g1",))
    ]  # fmt: skip
    thin = {letter: b.rows(f"att.{letter}2") for letter in letters}
    r, w, k, v, a, gate, first, share = (b.floats(n_embd) for _ in range(8))
    out, hidden, work = b.rows("att.output"), b.rows("ffn.value"), b.room_for_heads()
    b.phase(b.norm(x, "blocks.0.ln0"))
    for p in b.layers():
        att, ffn, wkv = p.state("shift", 0), p.state("shift", 1), p.state("wkv")
        p.phase(p.norm_and_lerp(x, "ln1", att, "att.x_rwkvag", mixed))
        value = first if p.is_first else v
        products = [p.put("att.receptance", x_r, r), p.put("att.key", x_k, k), p.put("att.value", x_v, value)]
        products += [p.to_rows("att.w1", x_w, thin["w"], "tanh"), p.to_rows("att.a1", x_a, thin["a"])]
        products += [] if p.is_first else [p.to_rows("att.v1", x_v, thin["v"])]
        p.phase(*products, p.to_rows("att.g1", x_g, thin["g"], "sigmoid"), p.keep(att))
        products = [p.put("att.w2", thin["w"], w), p.put("att.a2", thin["a"], a), p.put("att.g2", thin["g"], gate)]
        p.phase(*products, *([] if p.is_first else [p.put("att.v2", thin["v"], share)]))
        p.phase(p.heads7((r, w, k, value, a, gate, first, share), wkv, work, out))
        p.phase(p.add("att.output", out, x))
        p.phase(p.norm_and_lerp(x, "ln2", ffn, "ffn.x_k", [x_k]))
        p.phase(p.squared_relu("ffn.key", x_k, hidden), p.keep(ffn))
        p.phase(p.add_sparse("ffn.value", hidden, x))
    b.head(x, "ln_out", "head")


def _sizes(shapes: Shapes) -> Sizes:
    """The head size from r_k, the ranks from w1, a1, v1 and g1."""
    head_size = (*shapes.get("blocks.0.att.r_k", ()), 0, 0)[1]
    return replace(common_sizes(shapes), head_size=head_size, ranks=tuple(_rank(shapes, letter) for letter in RANKS))


def _rank(shapes: Shapes, letter: str) -> int:
    """Rows of a letter's first matrix, or 0; the first layer may lack that of v."""
    for i in (1, 0):
        shape = shapes.get(f"blocks.{i}.att.{letter}1", ())
        if len(shape) == 2:
            return shape[0]
    return 0


def _low_rank_shapes(sizes: Sizes, block: str, letter: str) -> dict[str, tuple[int, ...]]:
    c, rank = sizes.n_embd, sizes.ranks[RANKS.index(letter)]
    return {f"{block}.att.{letter}1": (rank, c), f"{block}.att.{letter}2": (c, rank)}


def _share_of_first(sizes: Sizes, block: str) -> dict[str, tuple[int, ...]]:
    """The parameters for the share of the first layer's v."""
    shapes = _low_rank_shapes(sizes, block, "v")
    return dict(reversed(shapes.items())) | {f"{block}.att.v0": (1, 1, sizes.n_embd)}


def parameter_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every parameter of RWKV-7 and its shape in a model file, in the order of BlinkDL's checkpoints."""
    c, f, v = sizes.n_embd, sizes.dim_ffn, sizes.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (v, c)}
    for i in range(sizes.n_layer):
        b = f"blocks.{i}"
        norms = ("ln1", "ln2") if i else ("ln1", "ln2", "ln0")
        shapes |= {f"{b}.{ln}.{part}": (c,) for ln in norms for part in ("weight", "bias")}
        shapes |= {f"{b}.att.x_rwkvag": (len(MIXES), 1, c), f"{b}.att.w0": (1, 1, c)}
        shapes[f"{b}.att.r_k"] = (sizes.n_head, sizes.head_size)
        shapes |= _low_rank_shapes(sizes, b, "w") | _low_rank_shapes(sizes, b, "a")
        shapes |= {f"{b}.att.a0": (1, 1, c)} | _low_rank_shapes(sizes, b, "g")
        shapes |= _share_of_first(sizes, b) if i else {}
        shapes |= {f"{b}.att.{name}": (1, 1, c) for name in ("k_k", "k_a")}
        shapes |= {f"{b}.att.{name}.weight": (c, c) for name in ("receptance", "key", "value", "output")}
        shapes |= {f"{b}.att.ln_x.{part}": (c,) for part in ("weight", "bias")}
        shapes |= {f"{b}.ffn.x_k": (1, 1, c), f"{b}.ffn.key.weight": (f, c), f"{b}.ffn.value.weight": (c, f)}
    return shapes | {"ln_out.weight": (c,), "ln_out.bias": (c,), "head.weight": (v, c)}


def _ignored(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The first layer has no earlier v to mix in, but some checkpoints of 2026 have the parameters for it."""
    return _share_of_first(sizes, "blocks.0")


def checkpoint_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The same in a checkpoint: six separate x_*, and low-rank matrices as (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in parameter_shapes(sizes).items():
        if name.endswith("x_rwkvag"):
            shapes |= {name.replace("rwkvag", letter): (1, *shape[1:]) for letter in MIXES}
        else:
            shapes[name] = shape[::-1] if _is_low_rank(name) else shape
    return shapes


def _state_parts(sizes: Sizes) -> dict[str, Part]:
    """The last token's input to time mix and to channel mix; the memory S of each head, [key][value]."""
    n = sizes.head_size
    return {
        "shift": Part((sizes.n_layer, 2, sizes.n_embd)),
        "wkv": Part((sizes.n_layer, sizes.n_head, n, n)),
    }


def _is_low_rank(name: str) -> bool:
    return re.fullmatch(r"blocks\.\d+\.att\.[wavg][12]", name) is not None


def _plan(shapes: Shapes) -> list[Planned]:
    """Six x_* become one parameter in the place of the first; low-rank matrices are transposed.

    They are found by name. rwkv.cpp joins the six in the order of the file, so if the file is sorted by name,
    its model is wrong.
    """
    plan: list[Planned] = []
    joined: set[str] = set()
    for name, shape in shapes.items():
        if match := re.fullmatch(r"(blocks\.\d+\.att\.x_)([rwkvag])", name):
            if (prefix := match[1]) not in joined:
                joined.add(prefix)
                plan.append(_joined(prefix, shapes))
        elif _is_low_rank(name):
            plan.append(Planned(name, (name,), shape[::-1], False, lambda x: x.T, is_whole=True))
        else:
            plan.append(Planned(name, (name,), shape, is_vector=len(shape) != 2 or name.endswith("r_k")))
    return plan


def _joined(prefix: str, shapes: Shapes) -> Planned:
    """x_rwkvag. A wrong shape or a missing source results in a wrong shape."""
    sources = tuple(name for letter in MIXES if (name := prefix + letter) in shapes)
    found = {shapes[name] for name in sources}
    shape = found.pop() if len(found) == 1 else ()
    return Planned(f"{prefix}rwkvag", sources, (len(sources), *shape[1:]), is_vector=True)


def _is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    is_outer = name in ("emb.weight", "head.weight")
    return len(shape) == 2 and not is_outer and not _is_low_rank(name) and not name.endswith(".r_k")


RECORD = Architecture(
    name="v7",
    title="RWKV-7",
    marks=("att.r_k", "att.k_k"),
    sizes=_sizes,
    parameter_shapes=parameter_shapes,
    checkpoint_shapes=checkpoint_shapes,
    state_parts=_state_parts,
    plan=_plan,
    is_quantizable=_is_quantizable,
    program=program,
    graph=RWKV7,
    ignored=_ignored,
)
