"""All supported architectures, and how the names of parameters identify them.

The header of a model file has no field for the version, and a checkpoint has no header: only the
names of the parameters identify it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rwkv_np.files.sniff import is_time_state
from rwkv_np.models import v4, v5, v6, v7
from rwkv_np.models.architecture import Architecture, Sizes

# From the oldest to the newest: a version also has the names of earlier ones.
ARCHITECTURES: dict[str, Architecture] = {
    record.name: record for record in (v4.RECORD, v5.RECORD_5_1, v5.RECORD_5_2, v6.RECORD, v7.RECORD)
}

_MARKS = tuple((record.name, record.marks) for record in reversed(ARCHITECTURES.values()))

# Other names of a version: the official package's numbers for 5, and those in file names since 6.
_OTHER_NAMES = {"v5.1": "5.0 in the official package", "v5.2": "5.1 or 5.2 in the official package",
                "v6": "x060", "v7": "x070"}  # fmt: skip

# The names of the ranks of thin matrices, in the order of `Sizes.ranks`.
_RANKS = {"v6": ("mix", "decay"), "v7": tuple(v7.RANKS)}

# Variants that have all names of a version but compute something else, recognized by an additional name.
_VARIANTS = (
    ("a model with a tuned state (time_state) inside, which programs use in different ways", r"\.att\.time_state$"),
    ("RWKV-8", r"\.ffn\.enn\."),
    ("RWKV-7b (RWKV-7 with DeepEmbed and DeepEmbed attention)", r"\.qkv\."),
    ("RWKV-7a (RWKV-7 with DeepEmbed)", r"\.ffn\.s_emb"),
    ("x060a (RWKV-6 with a low-rank gate)", r"\.att\.gate_w[12]$"),
    ("x060b (RWKV-6 with other mixes)", r"\.att\.time_maa_rkvw_w[12]$"),
)


def identify(names: Collection[str]) -> str:
    """What these parameter names belong to: a key of ARCHITECTURES, or a description of something else."""
    if any(re.search(r"lora_[AB]|\.lora\.|\.bone$", name) for name in names):
        return "a LoRA adapter (weights to add to a model, not a model)"
    if any(re.match(r"rwkv\.blocks\.|model\.layers\.\d+\.attn\.", name) for name in names):
        return "a model with the parameter names of the transformers library (to convert it, give its folder)"
    if is_time_state(names):
        return "the state of a state-tuned RWKV (time_state), not a model"
    for found, mark in _VARIANTS:
        if any(re.search(mark, name) for name in names):
            return found
    for found, marks in _MARKS:
        if any(f"blocks.0.{mark}" in names for mark in marks):
            return found
    if "emb.weight" in names and "head.weight" in names:
        return "an RWKV-like model of an unknown version"
    return "something other than an RWKV model"


def title_of(found: str) -> str:
    """The title of what `identify` found."""
    return ARCHITECTURES[found].title if found in ARCHITECTURES else found


def other_name_of(found: str) -> str | None:
    """The name that other programs have for what `identify` found; None if it is the same."""
    return _OTHER_NAMES.get(found)


def named_ranks(found: str, sizes: Sizes) -> dict[str, int]:
    """The ranks of the thin matrices (LoRA) of a model of that architecture, by name."""
    return dict(zip(_RANKS.get(found, ()), sizes.ranks))


def titles() -> str:
    """The versions that can be run: "RWKV-4, RWKV-5.1, ..."."""
    return ", ".join(record.title for record in ARCHITECTURES.values())
