"""The World tokenizer (vocab 65536) of RWKV-4 World and later models.

Its vocabulary is a list of byte strings, and its rule is the greedy longest match over UTF-8, implemented
in `kernels/longest_match.py`, and in `kernels/trie.py` without Numba. The list is part of this package, in
`data/world-vocabulary.zlib`: one length byte for each id, then the bytes of all ids, deflated. (xz would
make 0.11 MB of it instead of 0.19, but some Python builds lack it.)

An entry may be a part of a character, so an id stands for bytes. They are extracted when they are
requested: 65,529 objects would take ten times the memory.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import PathLike, TokenizerError
from rwkv_np.kernels import trie
from rwkv_np.tokenizers.base import Tokenizer

N_IDS = 65530  # id 0 is the end of text and has no bytes
VOCAB_SIZE = 65536  # of the models, which pad it
MOST_BYTES = 2**20  # unpacked size limit; the real size is 438,888
_MEND = "Install the package again: pip install --force-reinstall rwkv-np"
VOCABULARY = Path(__file__).parents[1] / "data" / "world-vocabulary.zlib"


class WorldTokenizer(Tokenizer):
    """The World vocabulary; raises TokenizerError if the model has another vocab_size."""

    def __init__(self, vocab_size: int | None = None) -> None:
        super().__init__("World", N_IDS, VOCAB_SIZE if vocab_size is None else vocab_size, "World")
        self._vocabulary = load_vocabulary(VOCABULARY)
        try:
            self._trie = trie.build(self._vocabulary.data, self._vocabulary.lengths)
        except ValueError as error:
            raise TokenizerError(VOCABULARY, f"is damaged: {error}. {_MEND}") from error

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes, which need not be UTF-8."""
        arguments.one_of("the data", data, (bytes, bytearray, memoryview), "bytes")
        # An array over `bytes` is always read-only. Numba would compile again for a writable one.
        ids: list[int] = _cutter()(np.frombuffer(bytes(data), np.uint8), self._trie).tolist()
        return ids

    def __reduce__(self) -> tuple[type[WorldTokenizer], tuple[int]]:
        """A pickle contains only its size: arrays from a pickle would reach a kernel unchecked."""
        return type(self), (self.vocab_size,)

    def _encode(self, text: str) -> list[int]:
        return self.encode_bytes(text.encode("utf-8"))

    def _build_pieces(self) -> Vocabulary:
        return self._vocabulary


def _cutter() -> Callable[[np.ndarray, trie.Trie], np.ndarray]:
    """The kernel if Numba is loaded, as it is with every model.

    A process that only counts tokens does not load Numba, which would take 35 MB and most of a second.
    """
    if "numba" not in sys.modules:
        return trie.cut
    from rwkv_np.kernels import longest_match

    return longest_match.match


class Vocabulary(Sequence[bytes]):
    """The bytes of each id: concatenated in `data` (uint8), with their `lengths` (n,)."""

    def __init__(self, data: np.ndarray, lengths: np.ndarray) -> None:
        self.data, self.lengths = data, lengths
        self._ends = np.cumsum(lengths, dtype=np.int32)

    def __len__(self) -> int:
        return self.lengths.size

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[token] for token in range(*index.indices(len(self)))]
        end = self._ends[index]
        return self.data[end - self.lengths[index] : end].tobytes()


def _unpack(data: bytes) -> bytes:
    """Unpack a zlib stream, up to the size of a vocabulary: a few KB could unpack to a gigabyte of zeros."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise zlib.error("it is truncated" if len(content) < MOST_BYTES else f"it has more than {MOST_BYTES} bytes")
    return content


def load_vocabulary(path: PathLike) -> Vocabulary:
    """The vocabulary in a file of this package's format; raises TokenizerError: cannot be read, or damaged."""
    try:
        content = np.frombuffer(_unpack(Path(path).read_bytes()), np.uint8)
    except OSError as error:
        raise TokenizerError(path, f"cannot be read: {error.strerror}") from error
    except zlib.error as error:
        raise TokenizerError(path, f"is damaged: {error}. {_MEND}") from error
    lengths, data = content[:N_IDS], content[N_IDS:]
    if lengths.size != N_IDS or lengths.sum() != data.size:
        raise TokenizerError(path, f"is damaged: it does not contain {N_IDS} ids. {_MEND}")
    return Vocabulary(data, lengths)
