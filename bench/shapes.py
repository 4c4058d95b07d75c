"""The published sizes of RWKV-4, by name.

Everything here is timed on weights of noise: speed and memory depend on the shapes alone.
Which parameters there are and how large is told by `rwkv_np.models.v4`; what is added here
is how BlinkDL's checkpoints differ from a model file: some vectors are (1, 1, C).
"""

from __future__ import annotations

from rwkv_np.models.v4 import parameter_shapes

# name -> (n_layer, n_embd)
SHAPES = {
    "toy": (2, 64),
    "169m": (12, 768),
    "430m": (24, 1024),
    "1b5": (24, 2048),
    "3b": (32, 2560),
    "7b": (32, 4096),
    "14b": (40, 5120),
}
VOCAB_SIZE = 50277  # the 20B tokenizer's, padding included
TOY_VOCAB_SIZE = 256  # bytes


def vocab_size(shape: str) -> int:
    """The vocabulary that a model of that shape has where nothing else is said."""
    return TOY_VOCAB_SIZE if shape == "toy" else VOCAB_SIZE


def checkpoint_shapes(
    n_layer: int, n_embd: int, n_vocab: int, dim_ffn: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint and its shape, in the order of BlinkDL's files."""
    shapes = parameter_shapes(n_layer, n_embd, dim_ffn or 4 * n_embd, n_vocab)
    return {name: (1, 1, n_embd) if ".time_mix_" in name else shape for name, shape in shapes.items()}
