"""Models in the layout of the transformers library, as BlinkDL's checkpoints: other names, and some other shapes.

    RWKV-7    of flash-linear-attention (RWKV7ForCausalLM), whose thin matrices are transposed; and a naming like
              the checkpoints' (Rwkv7ForCausalLM)
    RWKV-5/6  Rwkv5ForCausalLM, Rwkv6ForCausalLM: names like the checkpoints'

The tensors are renamed, and views of the same bytes get the checkpoint's shapes and order. So the model file is
the same, to the byte, as one converted from the checkpoint. `config.json` is only used to refuse what
computes something else: sizes come from the tensors.

Source: the modelling code of flash-linear-attention 0.6 and rwkv7-hf 0.9, and files of both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rwkv_np.conversion.folder import Folder
from rwkv_np.conversion.mapped_tensor import MappedTensor
from rwkv_np.errors import CheckpointError
from rwkv_np.kernels.equations import HEAD_EPSILON
from rwkv_np.models.registry import ARCHITECTURES, identify
from rwkv_np.models.v7 import MIXES

Tensors = dict[str, MappedTensor]

_OTHERS = {
    "RwkvHybridForCausalLM": "ARWKV, a model with parts of Qwen2 in it",
    "RWKV6Qwen2ForCausalLM": "QRWKV6, a model with parts of Qwen2 in it",
    "RWKV6ForCausalLM": "flash-linear-attention's own RWKV-6, which is not BlinkDL's",
    "RwkvForCausalLM": "RWKV-4 in the transformers library",
}
_KNOWN = ("RWKV7ForCausalLM", "Rwkv7ForCausalLM", "Rwkv6ForCausalLM", "Rwkv5ForCausalLM")
# What flash-linear-attention can compute in another way, and the value that all RWKV-7 models have.
_FIXED = {
    "attn": None, "norm_first": True, "norm_bias": True, "hidden_act": "sqrelu", "tie_word_embeddings": False,
    "embedding_layer_norm_fused": False,
}  # fmt: skip

_FLA = (
    (r"model\.embeddings\.weight", r"emb.weight"),
    (r"lm_head\.weight", r"head.weight"),
    (r"model\.norm\.(weight|bias)", r"ln_out.\1"),
    (r"model\.layers\.0\.pre_norm\.(weight|bias)", r"blocks.0.ln0.\1"),
    (r"model\.layers\.(\d+)\.attn_norm\.(weight|bias)", r"blocks.\1.ln1.\2"),
    (r"model\.layers\.(\d+)\.ffn_norm\.(weight|bias)", r"blocks.\1.ln2.\2"),
    (r"model\.layers\.(\d+)\.attn\.g_norm\.(weight|bias)", r"blocks.\1.att.ln_x.\2"),
    (r"model\.layers\.(\d+)\.attn\.r_proj\.weight", r"blocks.\1.att.receptance.weight"),
    (r"model\.layers\.(\d+)\.attn\.k_proj\.weight", r"blocks.\1.att.key.weight"),
    (r"model\.layers\.(\d+)\.attn\.v_proj\.weight", r"blocks.\1.att.value.weight"),
    (r"model\.layers\.(\d+)\.attn\.o_proj\.weight", r"blocks.\1.att.output.weight"),
    (r"model\.layers\.(\d+)\.attn\.([wavg])_lora\.lora\.0\.weight", r"blocks.\1.att.\g<2>1"),
    (r"model\.layers\.(\d+)\.attn\.([wavg])_lora\.lora\.2\.weight", r"blocks.\1.att.\g<2>2"),
    (r"model\.layers\.(\d+)\.attn\.([wav])_lora\.lora\.2\.bias", r"blocks.\1.att.\g<2>0"),
    (r"model\.layers\.(\d+)\.attn\.(x_[rwkvagx]|k_k|k_a|r_k)", r"blocks.\1.att.\2"),
    (r"model\.layers\.(\d+)\.ffn\.(x_k|(?:key|value)\.weight)", r"blocks.\1.ffn.\2"),
)
_OWN = (
    (r"(?:rwkv|model)\.emb(?:eddings)?\.weight", r"emb.weight"),
    (r"head\.weight", r"head.weight"),
    (r"(?:rwkv|model)\.ln_out\.(weight|bias)", r"ln_out.\1"),
    (r"model\.pre_ln\.(weight|bias)", r"blocks.0.ln0.\1"),
    (r"(?:rwkv|model)\.(?:blocks|layers)\.0\.pre_ln\.(weight|bias)", r"blocks.0.ln0.\1"),
    (r"(?:rwkv|model)\.(?:blocks|layers)\.(\d+)\.(ln[12]\..+)", r"blocks.\1.\2"),
    (r"(?:rwkv|model)\.(?:blocks|layers)\.(\d+)\.attention\.(.+)", r"blocks.\1.att.\2"),
    (r"(?:rwkv|model)\.(?:blocks|layers)\.(\d+)\.(?:feed_forward|ffn)\.(.+)", r"blocks.\1.ffn.\2"),
)
# RWKV-5 has long names of the shares.
_MIXES_5 = {"time_mix_key": "time_mix_k", "time_mix_value": "time_mix_v", "time_mix_receptance": "time_mix_r",
            "time_mix_gate": "time_mix_g"}  # fmt: skip


def check_config(folder: Folder) -> None:
    """Raise CheckpointError if the config is that of another model, or of another computation."""
    config = folder.config
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in _KNOWN:
        found = _OTHERS.get(name, f"a model of the architecture {name!r}") if isinstance(name, str) else "unknown"
        raise CheckpointError(folder.path, f"is {found}; supported: {', '.join(_KNOWN)}")
    for key, expected in _FIXED.items():
        if key in config and config[key] != expected:
            raise CheckpointError(folder.path, f"its config says {key} = {config[key]!r}; supported: {expected!r}")
    values = config.get("value_dim")
    values = values if isinstance(values, list) else [values]
    if any(value is not None and value != config.get("hidden_size") for value in values):
        raise CheckpointError(folder.path, "its config says another value_dim than hidden_size, which is not supported")
    size, epsilon = config.get("head_dim"), config.get("norm_eps", 1e-5)
    if size is not None and not _is_close(size, epsilon):
        raise CheckpointError(
            folder.path,
            f"its config says head_dim {size!r} and norm_eps {epsilon!r}: the norm of a head would have another "
            f"epsilon than {HEAD_EPSILON:g}, that of all RWKV-7 models",
        )


def _is_close(size: Any, epsilon: Any) -> bool:
    """flash-linear-attention multiplies the two for the epsilon of a head's norm."""
    if not isinstance(size, int) or not isinstance(epsilon, float):
        return False
    return abs(size * epsilon - HEAD_EPSILON) < 1e-3 * HEAD_EPSILON


def as_checkpoint(tensors: Mapping[str, MappedTensor]) -> Tensors:
    """The tensors under BlinkDL's names, in the shapes and the order of his checkpoints. Unknown names stay."""
    is_fla = any("_lora.lora." in name for name in tensors)
    found: Tensors = {}
    for theirs, tensor in tensors.items():
        found |= _renamed(_name(theirs, _FLA if is_fla else _OWN), tensor, is_fla)
    return _in_order(found)


def _name(theirs: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, ours in table:
        if match := re.fullmatch(pattern, theirs):
            head, _, last = match.expand(ours).rpartition(".")
            return f"{head}.{_MIXES_5.get(last, last)}"
    return theirs


def _renamed(name: str, tensor: MappedTensor, is_fla: bool) -> Tensors:
    """The tensor in the checkpoint's shape, which is a view; the joined shares of RWKV-7 are six."""
    values, last = tensor.values, name.rpartition(".")[2]
    if last == "x_x" and values.shape[:1] == (len(MIXES),):
        rows = {name[:-1] + letter: values[i].reshape(1, 1, -1) for i, letter in enumerate(MIXES)}
        return {ours: replace(tensor, values=row) for ours, row in rows.items()}
    if is_fla and re.fullmatch(r"[wavg][12]", last):
        values = values.T
    elif values.ndim == 1 and re.fullmatch(r"[wav]0|k_k|k_a|x_[rwkvag]", last):
        values = values.reshape(1, 1, -1)
    return {name: replace(tensor, values=values)}


def _in_order(found: Tensors) -> Tensors:
    """Sorted as BlinkDL's checkpoints are; names that such a checkpoint does not have come last."""
    record = ARCHITECTURES.get(identify(found))
    if record is None:
        return found
    plan = record.plan({name: tensor.shape for name, tensor in found.items()})
    order = record.checkpoint_shapes(record.sizes({planned.name: planned.shape for planned in plan}))
    return {name: found[name] for name in order if name in found} | found
