"""The published model sizes, by name.

The benchmarks use random weights: speed and memory depend only on the shapes. The record of the
architecture knows which parameters exist and their sizes.
"""

from __future__ import annotations

from rwkv_np.models.architecture import Sizes
from rwkv_np.models.registry import ARCHITECTURES

ARCHITECTURE = "v4"  # of all names that do not begin with a version
# name -> (n_layer, n_embd, ranks of thin matrices: RWKV-6: mix and decay; RWKV-7: w, a, v and g)
SHAPES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "toy": (2, 64, ()),
    "169m": (12, 768, ()),
    "430m": (24, 1024, ()),
    "1b5": (24, 2048, ()),
    "3b": (32, 2560, ()),
    "7b": (32, 4096, ()),
    "14b": (40, 5120, ()),
    "v5.1-toy": (2, 128, ()),
    "v5.1-0b1": (12, 768, ()),
    "v5.2-toy": (2, 128, ()),
    "v5.2-1b5": (24, 2048, ()),
    "v5.2-3b": (32, 2560, ()),
    "v5.2-7b": (32, 4096, ()),
    "v6-toy": (2, 128, (16, 32)),
    "v6-1b6": (24, 2048, (32, 64)),
    "v6-3b": (32, 2560, (32, 64)),
    "v6-7b": (32, 4096, (64, 128)),
    "v6-14b": (61, 4096, (64, 128)),
    "v7-toy": (2, 128, (16, 16, 8, 32)),
    "v7-super-toy": (2, 256, (32, 16, 8, 24)),  # rows of whole superblocks
    "v7-0b1": (12, 768, (64, 64, 32, 128)),
    "v7-0b4": (24, 1024, (64, 64, 32, 128)),
    "v7-1b5": (24, 2048, (96, 96, 64, 256)),
    "v7-2b9": (32, 2560, (96, 96, 64, 320)),
    "v7-7b2": (32, 4096, (128, 128, 96, 480)),
    "v7-13b3": (61, 4096, (192, 192, 128, 384)),
}
HEAD_SIZE = 64
WORLD_VOCAB_SIZE = 65536
VOCAB_SIZE = 50277  # the 20B tokenizer's, padding included
TOY_VOCAB_SIZE = 256  # bytes


def vocab_size(shape: str) -> int:
    """The default vocabulary size of that shape."""
    if shape.endswith("toy"):
        return TOY_VOCAB_SIZE
    return VOCAB_SIZE if architecture(shape) == "v4" else WORLD_VOCAB_SIZE


def architecture(shape: str) -> str:
    """The version of RWKV: "v7" of "v7-1b5"."""
    return name if (name := shape.partition("-")[0]) in ARCHITECTURES else ARCHITECTURE


def sizes(shape: str, n_vocab: int | None = None) -> Sizes:
    """The sizes of a model of that shape."""
    n_layer, n_embd, ranks = SHAPES[shape]
    version, vocab = architecture(shape), n_vocab or vocab_size(shape)
    head_size = 0 if version == "v4" else HEAD_SIZE
    dim_ffn = 4 * n_embd if version in ("v4", "v7") else 7 * n_embd // 64 * 32
    return Sizes(n_layer=n_layer, n_embd=n_embd, dim_ffn=dim_ffn, vocab_size=vocab, head_size=head_size, ranks=ranks)


def checkpoint_of(shape: str, n_vocab: int | None = None) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of such a checkpoint, in the order of BlinkDL's files."""
    return ARCHITECTURES[architecture(shape)].checkpoint_shapes(sizes(shape, n_vocab))


def checkpoint_shapes(
    n_layer: int, n_embd: int, n_vocab: int, dim_ffn: int | None = None, architecture: str = ARCHITECTURE
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a checkpoint, in the order of BlinkDL's files."""
    found = Sizes(n_layer=n_layer, n_embd=n_embd, dim_ffn=dim_ffn or 4 * n_embd, vocab_size=n_vocab)
    return ARCHITECTURES[architecture].checkpoint_shapes(found)
