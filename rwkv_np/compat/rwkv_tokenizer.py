"""`TRIE_TOKENIZER` of the official package (rwkv.rwkv_tokenizer): the World tokenizer with the same names.

The vocabulary is the one in this package, so the file named by a script is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property

from rwkv_np import arguments
from rwkv_np.errors import InputError, PathLike
from rwkv_np.tokenizers.world import N_IDS, WorldTokenizer

WORLD = "rwkv_vocab_v20230424"


class TRIE_TOKENIZER:
    """The World tokenizer. Raises InputError if `file_name` names another vocabulary."""

    def __init__(self, file_name: PathLike = f"{WORLD}.txt") -> None:
        if os.path.basename(arguments.path("file_name", file_name)) not in (WORLD, f"{WORLD}.txt"):
            raise InputError(f"the vocabulary is {arguments.shown(file_name)}; expected {WORLD}.txt, the only one here")
        self._world = WorldTokenizer()

    def encodeBytes(self, src: bytes) -> list[int]:
        """The ids of any bytes."""
        return self._world.encode_bytes(src)

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`; raises KeyError for an id without bytes, such as 0."""
        pieces = []
        for token in tokens:
            piece = self._world.token_bytes(token) if 0 < token < N_IDS else b""
            if not piece:
                raise KeyError(token)
            pieces.append(piece)
        return b"".join(pieces)

    def encode(self, src: str) -> list[int]:
        """The ids of a text."""
        return self._world.encode(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; a single U+FFFD if they are not whole characters or include an id without bytes."""
        try:
            return self.decodeBytes(tokens).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return "\ufffd"

    @cached_property
    def idx2token(self) -> dict[int, bytes]:
        """The bytes of each id."""
        return {token: self._world.token_bytes(token) for token in range(1, N_IDS)}

    @cached_property
    def token2idx(self) -> dict[bytes, int]:
        """The id of each entry of the vocabulary."""
        return {data: token for token, data in self.idx2token.items()}

    def printTokens(self, tokens: Iterable[int]) -> None:
        """Print each token's text and id."""
        for token in tokens:
            data = self._world.token_bytes(token)
            try:
                print(f"{data.decode('utf-8')!r}{token}", end=" ")
            except UnicodeDecodeError:
                print(f"{data!r}{token}", end=" ")
        print()
