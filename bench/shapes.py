"""The published sizes of models, by name.

Everything here is timed on weights of noise: speed and memory depend on the shapes alone.
Which parameters there are and how large, the architecture's record tells.
"""

from __future__ import annotations

from rwkv_np.models.architecture import Sizes
from rwkv_np.models.registry import ARCHITECTURES

ARCHITECTURE = "v4"  # of all of them
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


def sizes(shape: str) -> Sizes:
    """The sizes of a model of that shape."""
    n_layer, n_embd = SHAPES[shape]
    return Sizes(n_layer=n_layer, n_embd=n_embd, dim_ffn=4 * n_embd, vocab_size=vocab_size(shape))


def checkpoint_shapes(
    n_layer: int, n_embd: int, n_vocab: int, dim_ffn: int | None = None, architecture: str = ARCHITECTURE
) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint and its shape, in the order of BlinkDL's files."""
    found = Sizes(n_layer=n_layer, n_embd=n_embd, dim_ffn=dim_ffn or 4 * n_embd, vocab_size=n_vocab)
    return ARCHITECTURES[architecture].checkpoint_shapes(found)
