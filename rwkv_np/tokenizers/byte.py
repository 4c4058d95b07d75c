"""The tokenizer of byte-level models (vocab 256): an id is the value of a byte of UTF-8."""

from __future__ import annotations

from rwkv_np.tokenizers.base import Tokenizer

N_IDS = 256


class ByteTokenizer(Tokenizer):
    """One id per byte; raises TokenizerError if the model has another vocab_size."""

    def __init__(self, vocab_size: int | None = None) -> None:
        super().__init__("bytes", N_IDS, vocab_size, "bytes")

    def _encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def _build_pieces(self) -> list[bytes]:
        return [bytes([value]) for value in range(N_IDS)]
