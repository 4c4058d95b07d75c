"""The World tokenizer (vocab 65536) of RWKV-4 World and later models.

Its vocabulary is a list of byte strings and its rule is the greedy longest match over UTF-8.
The `pyrwkv_tokenizer` package brings both. Only its `encode` is used: its `decode` panics on a
token that is part of a character, with an exception that is no `Exception`. So the bytes of an
id are read here from the vocabulary file that the package brings.
"""

from __future__ import annotations

import ast

from rwkv_np.errors import PathLike, TokenizerError
from rwkv_np.tokenizers.base import Tokenizer

VOCAB_SIZE = 65536  # of the models; the vocabulary itself ends at id 65529, and id 0 is end of text


class WorldTokenizer(Tokenizer):
    """The World vocabulary; raises TokenizerError where the model's vocab_size is another."""

    def __init__(self, vocab_size: int | None = None) -> None:
        # Here and not above: the import is a shared library, and most models do without it.
        from pyrwkv_tokenizer import RWKVTokenizer  # type: ignore[import-untyped,unused-ignore]

        self._tokenizer = RWKVTokenizer()
        n_ids: int = self._tokenizer.vocab_size()
        super().__init__("World", n_ids, VOCAB_SIZE if vocab_size is None else vocab_size, "World")

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def _build_pieces(self) -> list[bytes]:
        return read_vocabulary(self._tokenizer.vocab_filepath, self.n_ids)


def read_vocabulary(path: PathLike, n_ids: int) -> list[bytes]:
    """The bytes of each id from lines of `id literal n_bytes`; raises TokenizerError at a bad line.

    Lines end in LF or CRLF, by package. They are split at those alone: a literal may hold
    U+2028 or another character at which str.splitlines would cut it.
    """
    pieces = [b""] * n_ids
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                token, literal, n_bytes = _split(line)
                pieces[token] = piece = _evaluate(literal)
            except (ValueError, SyntaxError, IndexError) as error:
                raise TokenizerError(path, f"line {number} is not `id literal n_bytes`: {line!r}") from error
            if len(piece) != n_bytes:
                raise TokenizerError(path, f"line {number} has {len(piece)} bytes, but says {n_bytes}")
    return pieces


def _split(line: str) -> tuple[int, str, int]:
    token, rest = line.split(" ", 1)
    literal, n_bytes = rest.rsplit(" ", 1)
    return int(token), literal, int(n_bytes)


def _evaluate(literal: str) -> bytes:
    # 64,688 of the 65,529 literals are plain quoted text; to run the parser for the others
    # alone takes 0.03 s instead of 0.22 s.
    if literal[0] in "'\"" and "\\" not in literal:
        return literal[1:-1].encode("utf-8")
    value = ast.literal_eval(literal)
    return value.encode("utf-8") if isinstance(value, str) else bytes(value)
