"""What is true of a model: its sizes and types, as its file says and its parameters bear out.

The architectures are told apart by the names of their parameters alone, in a checkpoint as in
a model file: the header of the format has no field for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model.

    architecture  "v4"
    dim_ffn       rows of `ffn.key`, 4 n_embd in every published RWKV-4
    data_type     the header's: the type of most matrices
    data_types    the types that occur, in order of their codes
    """

    architecture: str
    n_layer: int
    n_embd: int
    dim_ffn: int
    vocab_size: int
    file_version: int
    data_type: str
    data_types: tuple[str, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether most matrices are of a type of blocks."""
        return self.data_type not in ("FP16", "FP32")


# A parameter of the first layer that no earlier architecture has; newest first.
_MARKS = (
    ("RWKV v7", ("att.r_k", "att.k_k")),
    ("RWKV v6", ("att.time_maa_x", "att.time_maa_w1")),
    ("RWKV v5.2", ("att.gate.weight",)),
    ("RWKV v5", ("att.ln_x.weight",)),
    ("v4", ("att.time_mix_k", "att.time_first", "att.time_decay")),
)


def identify(names: Collection[str]) -> str:
    """The architecture that has parameters of those names; "v4" is the one that runs here."""
    if any("lora_A" in name or "lora_B" in name or ".lora." in name for name in names):
        return "a LoRA adapter (weights to add to a model, not a model)"
    if any(name.startswith("rwkv.blocks.") for name in names):
        return "RWKV under the names of the transformers library (BlinkDL's own .pth has those expected here)"
    for architecture, marks in _MARKS:
        if any(f"blocks.0.{mark}" in names for mark in marks):
            return architecture
    if "emb.weight" in names and "head.weight" in names:
        return "an RWKV-like model of no known version"
    return "no RWKV model"
