"""`tokenizer_util` of rwkv.cpp's scripts: the tokenizer by its name, or by the size of the vocabulary.

The module has the original's name, since scripts import that name. The 20B tokenizer comes from the Hugging Face cache,
or is downloaded once.

Source: rwkv.cpp, python/tokenizer_util.py.
"""

from __future__ import annotations

import argparse

from rwkv_np.compat.rwkv_cpp.rwkv_world_tokenizer import Functions, get_world_tokenizer_v20230424
from rwkv_np.errors import InputError
from rwkv_np.tokenizers.bpe import N_IDS_20B, BpeTokenizer
from rwkv_np.tokenizers.hub import fetch_20b
from rwkv_np.tokenizers.world import VOCAB_SIZE

_NAME_OF_SIZE = {N_IDS_20B: "20B", VOCAB_SIZE: "world"}


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """The positional argument `tokenizer`: auto, 20B or world."""
    help = "Tokenizer to use; supported tokenizers: auto (guess from n_vocab), 20B, world"
    parser.add_argument("tokenizer", help=help, nargs="?", type=str, default="auto")


def get_tokenizer(tokenizer_name: str, n_vocab: int) -> Functions:
    """(decode, encode). Raises InputError, a ValueError: an unknown name or size; TokenizerError."""
    name = _NAME_OF_SIZE.get(n_vocab) if tokenizer_name == "auto" else tokenizer_name
    if name is None:
        raise InputError(f"Can not guess the tokenizer from n_vocab value of {n_vocab}; expected 50277 or 65536")
    if name == "world":
        print("Loading World v20230424 tokenizer")
        return get_world_tokenizer_v20230424()
    if name == "20B":
        print("Loading 20B tokenizer")
        library = BpeTokenizer(fetch_20b()).library
        return library.decode, lambda text: library.encode(text).ids
    raise InputError(f"Unknown tokenizer {name}; expected auto, 20B or world")
