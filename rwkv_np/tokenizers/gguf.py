"""The vocabulary inside a GGUF file: a list of byte strings, as the World tokenizer has.

A token is written as Python's repr of its bytes, without b'': `\\t \\n \\r \\xHH`, and any other `\\c` is c. Id 0 is
the end of text, and ids that pad the vocabulary have a text but no bytes. If the list is that of the World
tokenizer, as in nearly every file, our own copy is used: comparing a checksum takes 5 ms, reading the list 100 ms.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from rwkv_np.errors import TokenizerError, as_line
from rwkv_np.files.gguf import GgufFile
from rwkv_np.files.gguf_reader import Array
from rwkv_np.kernels import trie
from rwkv_np.tokenizers.base import Tokenizer
from rwkv_np.tokenizers.world import MOST_BYTES, N_IDS, VOCAB_SIZE, Vocabulary, WorldTokenizer

TOKENS, TYPES, MODEL = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.model"
NORMAL, CONTROL, UNUSED = 1, 3, 5
MOST_BYTES_OF_TOKEN = 512  # the longest of World has 128; a trie has a level for each
# Of the World vocabulary's array as llama.cpp's converter writes it. The tests compute it from our copy.
WORLD_SHA256 = "109c427a9711c47cedc56c9b38725337b83283314f7a1093fb601ad94cb72101"
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def unescape(text: bytes) -> bytes:
    """The bytes of a token."""
    return _ESCAPE.sub(_unescaped, text) if b"\\" in text else text


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _LETTERS.get(code, code)


def escape(data: bytes) -> bytes:
    """How a token is written."""
    return repr(data)[2:-1].encode()


def world_tokens(vocabulary: Vocabulary, vocab_size: int = VOCAB_SIZE) -> tuple[list[bytes], np.ndarray]:
    """(tokens, types) of the World vocabulary in a GGUF file."""
    texts = [b"<s>", *(escape(vocabulary[token]) for token in range(1, len(vocabulary)))]
    n_normal = len(texts)
    texts += [b"[PAD%d]" % token for token in range(n_normal, vocab_size)]
    types = np.full(vocab_size, UNUSED, np.int32)
    types[:n_normal] = NORMAL
    types[0] = CONTROL
    return texts, types


def tokenizer_of(file: GgufFile, vocab_size: int | None = None) -> Tokenizer | None:
    """The tokenizer in the file; None: there is none of this kind. Raises TokenizerError: it cannot be used."""
    tokens = file.metadata.get(TOKENS)
    if file.metadata.get(MODEL) != "rwkv" or not isinstance(tokens, Array):
        return None
    if len(tokens) == VOCAB_SIZE and hashlib.sha256(tokens.read().data).hexdigest() == WORLD_SHA256:
        return WorldTokenizer(vocab_size)
    found = _vocabulary(file, tokens)
    if len(found) == VOCAB_SIZE and _is_world(found):
        return WorldTokenizer(vocab_size)
    return GgufTokenizer(file.path, found, vocab_size)


def other_kind(file: GgufFile) -> str | None:
    """The name of the tokenizer in the file if it is of another kind, such as gpt2; None if not."""
    found = file.metadata.get(MODEL)
    return None if found in (None, "rwkv", "none", "no_vocab") else as_line(str(found), 40)


class GgufTokenizer(Tokenizer):
    """A vocabulary of a GGUF file. Raises TokenizerError: it does not fit the model, or texts cannot be cut with it."""

    def __init__(self, path: str, vocabulary: Vocabulary, vocab_size: int | None) -> None:
        super().__init__(path, len(vocabulary), vocab_size, path)
        self._vocabulary = vocabulary
        try:
            self._trie = trie.build(vocabulary.data, vocabulary.lengths)
        except ValueError as error:
            raise TokenizerError(path, f"its vocabulary cannot be used: {error}. Give another: --tokenizer PATH") from (
                error
            )

    def __reduce__(self) -> tuple[type[GgufTokenizer], tuple[str, Vocabulary, int]]:
        return type(self), (self.name, self._vocabulary, self.vocab_size)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = trie.cut(np.frombuffer(text.encode(), np.uint8), self._trie).tolist()
        return ids

    def _build_pieces(self) -> Vocabulary:
        return self._vocabulary


def _vocabulary(file: GgufFile, tokens: Array) -> Vocabulary:
    types = file.metadata.get(TYPES)
    kinds = types.numbers() if isinstance(types, Array) else np.empty(0)
    if len(tokens) > trie.N_ENTRIES or (kinds.size and kinds.size != len(tokens)):
        raise TokenizerError(
            file.path,
            f"its vocabulary has {len(tokens)} tokens and {kinds.size} types; expected as many, and at most "
            f"{trie.N_ENTRIES}. Give another tokenizer: --tokenizer PATH",
        )
    has_bytes = kinds == NORMAL if kinds.size else np.arange(len(tokens)) > 0
    pieces = [unescape(text) if is_normal else b"" for text, is_normal in zip(tokens.strings(), has_bytes)]
    pieces[:1] = [b""][: len(pieces)]
    if max(map(len, pieces), default=0) > MOST_BYTES_OF_TOKEN or sum(map(len, pieces)) > MOST_BYTES:
        raise TokenizerError(
            file.path,
            f"its vocabulary has tokens of more than {MOST_BYTES_OF_TOKEN} bytes, or more than {MOST_BYTES:,} bytes in "
            "all. Give another tokenizer: --tokenizer PATH",
        )
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    return Vocabulary(np.frombuffer(b"".join(pieces), np.uint8), lengths)


def _is_world(found: Vocabulary) -> bool:
    world = WorldTokenizer()._build_pieces()
    return np.array_equal(found.data, world.data) and np.array_equal(found.lengths[:N_IDS], world.lengths)
