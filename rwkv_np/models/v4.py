"""RWKV-4 "Dove": its record, its program, and its NumPy graph, which can be read beside the paper.

The letters are the paper's: r w k v, u for the bonus of the current token (`time_first`), a / b
for the running weighted average of v. The file's `time_decay` is already -exp(w'), so a layer's
w is negative. The equations are in `kernels/equations.py`.

A sequence is read layer by layer, all matrices with T columns at once; only the WKV recurrence goes
token by token. A single token is a sequence of length one.

Source: "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048, equations 11-20
and appendix D (the stable form).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import mix, sigmoid, token_shift, wkv4
from rwkv_np.models.architecture import Architecture, Part, Planned, Sizes, common_sizes, each_tensor
from rwkv_np.models.layers import GatedChannelMix, LayerNorm, Linear
from rwkv_np.models.numpy_graph import NumpyGraph
from rwkv_np.models.state import Parts

if TYPE_CHECKING:
    from rwkv_np.models.build import Builder


class TimeMix:
    """RWKV's replacement for attention: r gates a running average of v."""

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
        return self.output(r * wkv4(k, v, self.w, self.u, state))


class RWKV4(NumpyGraph):
    """The RWKV-4 graph over the parameters of a model file."""

    def _build_layers(self, get: Mapping[str, Parameter]) -> None:
        blocks = [f"blocks.{i}" for i in range(self.config.n_layer)]
        self.layers = [
            (
                LayerNorm.of(get, f"{b}.ln1"), TimeMix(get, f"{b}.att"),
                LayerNorm.of(get, f"{b}.ln2"), GatedChannelMix(get, f"{b}.ffn", "time_mix", mix),
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
    x, gate = b.x, b.floats(b.config.n_embd)
    r, k, v = b.rows("att.receptance", "ffn.receptance"), b.rows("att.key", "ffn.key"), b.rows("att.value")
    out, hidden = b.rows("att.output"), b.rows("ffn.value")
    b.phase(b.norm(x, "blocks.0.ln0"))
    for p in b.layers():
        att, ffn, wkv = p.state("shift", 0), p.state("shift", 1), p.state("wkv")
        p.phase(p.norm_and_mix(x, "ln1", att, {"att.time_mix_k": k, "att.time_mix_v": v, "att.time_mix_r": r}))
        kvr = p.matrices("att.key", "att.value", "att.receptance")
        p.phase(p.wkv4(kvr, (k, v, r), "att.time_decay", "att.time_first", wkv, out), p.keep(att))
        p.phase(p.add("att.output", out, x))
        p.phase(p.norm_and_mix(x, "ln2", ffn, {"ffn.time_mix_k": k, "ffn.time_mix_r": r}))
        p.phase(p.squared_relu("ffn.key", k, hidden), p.sigmoid("ffn.receptance", r, gate), p.keep(ffn))
        p.phase(p.add_gated_sparse("ffn.value", hidden, gate, x))
    b.head(x, "ln_out", "head")


def parameter_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every parameter of RWKV-4 and its shape in a model file, in the order of BlinkDL's checkpoints."""
    c, f, v = sizes.n_embd, sizes.dim_ffn, sizes.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (v, c)}
    for i in range(sizes.n_layer):
        b = f"blocks.{i}"
        norms = ("ln1", "ln2") if i else ("ln1", "ln2", "ln0")
        shapes |= {f"{b}.{ln}.{part}": (c,) for ln in norms for part in ("weight", "bias")}
        shapes |= {f"{b}.att.{name}": (c,) for name in ("time_decay", "time_first")}
        shapes |= {f"{b}.att.time_mix_{x}": (c,) for x in "kvr"}
        shapes |= {f"{b}.att.{name}.weight": (c, c) for name in ("key", "value", "receptance", "output")}
        shapes |= {f"{b}.ffn.time_mix_{x}": (c,) for x in "kr"}
        shapes |= {f"{b}.ffn.key.weight": (f, c), f"{b}.ffn.receptance.weight": (c, c)}
        shapes[f"{b}.ffn.value.weight"] = (c, f)
    return shapes | {"ln_out.weight": (c,), "ln_out.bias": (c,), "head.weight": (v, c)}


def checkpoint_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The same in a checkpoint, where the shares of a mix are (1, 1, C)."""
    return {name: (1, 1, *shape) if ".time_mix_" in name else shape for name, shape in parameter_shapes(sizes).items()}


def _state_parts(sizes: Sizes) -> dict[str, Part]:
    """The last token's input to time mix and to channel mix; numerator a, denominator b, exponent p."""
    # The exponent of an empty sum: any real key exceeds it.
    empty = np.array([[0], [0], [-1e30]], np.float32)
    return {
        "shift": Part((sizes.n_layer, 2, sizes.n_embd)),
        "wkv": Part((sizes.n_layer, 3, sizes.n_embd), empty),
    }


def _planned(name: str, shape: tuple[int, ...]) -> Planned:
    """Vectors stay FP32; those of the time mix are (1, 1, C) in a checkpoint, and the decay is w'."""
    if ".time_" in name:
        shape = tuple(n for n in shape if n != 1)
    decay = (lambda w: -w.exp()) if name.endswith(".time_decay") else None
    return Planned(name, (name,), shape, is_vector=len(shape) == 1, transform=decay)


def _is_quantizable(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and name not in ("emb.weight", "head.weight")


RECORD = Architecture(
    name="v4",
    title="RWKV-4",
    marks=("att.time_mix_k", "att.time_first", "att.time_decay"),
    sizes=common_sizes,
    parameter_shapes=parameter_shapes,
    checkpoint_shapes=checkpoint_shapes,
    state_parts=_state_parts,
    plan=each_tensor(_planned),
    is_quantizable=_is_quantizable,
    program=program,
    graph=RWKV4,
)
