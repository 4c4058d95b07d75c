"""`rwkv_world_tokenizer` of rwkv.cpp: the World vocabulary of this package, with the same names.

Source: rwkv.cpp, python/rwkv_cpp/rwkv_world_tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rwkv_np.tokenizers.world import WorldTokenizer

Functions = tuple[Callable[[Sequence[int]], str], Callable[[str], list[int]]]
"""`decode` and `encode`, in this order."""


def get_world_tokenizer_v20230424() -> Functions:
    """Functions of the World tokenizer; bytes that are not whole characters become U+FFFD."""
    tokenizer = WorldTokenizer()
    return tokenizer.decode, tokenizer.encode
