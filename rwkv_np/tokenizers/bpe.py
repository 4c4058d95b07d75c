"""Tokenizers in a tokenizer.json, including the 20B tokenizer of RWKV-4 Pile, Raven and Novel.

The `tokenizers` library encodes. It is not used to decode: it returns text, but one id may be a part of
a character. So the bytes of each id are computed here, once, from the way the file says that its tokens
are written:

  byte-level      GPT-2's alphabet, a printable character for each byte value ("Ġ" is a space)
  SentencePiece   plain text, "▁" for a space, "<0xE4>" for a byte without a token

Added tokens (end of text, runs of spaces) are plain text in both. A SentencePiece decoder also drops
the first space of a text. That applies to whole texts, but text here continues earlier text, so the
space stays.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rwkv_np.errors import PathLike, TokenizerError, as_line
from rwkv_np.files.reading import TOKENIZER_LIMIT, read_regular
from rwkv_np.tokenizers.base import Tokenizer
from rwkv_np.tokenizers.damage import what_panics_in_a_step, what_panics_when_loaded

if TYPE_CHECKING:
    import tokenizers

N_IDS_20B = 50277
NEWLINE, TWO_NEWLINES = 187, 535  # ids of the 20B tokenizer
MOST_GROWTH = 1000  # how many times longer replacements may make a text; in real files it is three times
BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
MOST_GAPS = 2**16  # ids without a token; an id of 4 billion would be a list of 32 GB
PIECEWISE_STEPS = {"Metaspace", "Replace", "ByteFallback"}  # decoder steps that change each token
JOINING_STEPS = {"Fuse", "Strip"}  # decoder steps that join the tokens, then drop the text's first space
# If this prefix and the merges disagree, the library does not raise but aborts the process. No
# byte-level or SentencePiece file has such a prefix, so a file with one is refused before loading it.
SUBWORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')

ToBytes = Callable[[str], bytes]


class BpeTokenizer(Tokenizer):
    """The tokenizer.json at `path`; its name is "20B" if it is that tokenizer, otherwise its path.

    Raises TokenizerError: the file is missing or damaged, its decoder is of a kind whose bytes
    are unknown, or it does not fit the model's vocab_size.
    """

    file: str

    def __init__(self, path: PathLike, vocab_size: int | None = None) -> None:
        self.file = os.path.abspath(path)
        self._tokenizer = _read(path)
        self._to_bytes = _bytes_rule(path, self._tokenizer)
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        n_ids = max(ids, default=-1) + 1
        if n_ids > 2 * len(ids) + MOST_GAPS:
            raise TokenizerError(path, f"is damaged: its highest id is {n_ids - 1}, and it has {len(ids)} tokens")
        # Recognized by its content: users rename the file, and the rule for prompts depends on it.
        self._is_20b = n_ids == N_IDS_20B and self._tokenizer.id_to_token(TWO_NEWLINES) == "ĊĊ"
        super().__init__("20B" if self._is_20b else os.fspath(path), n_ids, vocab_size, path)

    def __reduce__(self) -> tuple[type[BpeTokenizer], tuple[str, int], dict[str, str]]:
        """A pickle contains only its path and its name."""
        return type(self), (self.file, self.vocab_size), {"name": self.name}

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The `tokenizers` library's own object, for those who need its way to decode."""
        return self._tokenizer

    def _encode(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            _let_pass(error)
            raise TokenizerError(self.file, f"is damaged: it cannot encode a text: {as_line(str(error))}") from error

    def encode_prompt(self, text: str) -> list[int]:
        """As `encode`, but for a 20B model two newlines at the end of a prompt become two ids.

        In its training text a turn ends in one newline and another follows, 187 187. The single id 535
        in that place makes answers worse.
        """
        ids = self.encode(text)
        if self._is_20b and ids[-1:] == [TWO_NEWLINES]:
            ids[-1:] = [NEWLINE, NEWLINE]
        return ids

    def _build_pieces(self) -> list[bytes]:
        pieces = [b""] * self.n_ids
        for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items():
            pieces[number] = self._to_bytes(token)
        for number, added in self._tokenizer.get_added_tokens_decoder().items():
            pieces[number] = added.content.encode("utf-8")
        return pieces


def _let_pass(error: BaseException) -> None:
    """Raise errors that are not the library's: Ctrl-C. (It raises Exception; its panics are not Exceptions.)"""
    if type(error).__name__ != "PanicException" and not isinstance(error, Exception):
        raise error


def _read(path: PathLike) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Library

    try:
        data = read_regular(path, TOKENIZER_LIMIT, TokenizerError)
    except OSError as error:
        raise TokenizerError(path, f"cannot be read: {error.strerror}") from error
    if SUBWORD_PREFIX.search(data):
        raise _unknown_decoder(path, "WordPiece (continuing_subword_prefix)")
    if problem := what_panics_when_loaded(data):
        raise TokenizerError(path, f"is damaged: {problem}")
    try:
        tokenizer = Library.from_buffer(data)
    except BaseException as error:
        _let_pass(error)
        raise TokenizerError(path, f"is damaged or not a tokenizer.json: {as_line(str(error))}") from error
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder):
        if (growth := _growth(part)) > MOST_GROWTH:
            raise TokenizerError(path, f"is damaged: its replacements make a text up to {growth} times as long")
        if problem := next(filter(None, map(what_panics_in_a_step, _steps(part))), ""):
            raise TokenizerError(path, f"is damaged: {problem}")
    # Both are settings for training in batches, which some files contain.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _bytes_rule(path: PathLike, tokenizer: tokenizers.Tokenizer) -> ToBytes:
    """How tokens become bytes, according to the decoder that the file names."""
    steps = _decoder_steps(tokenizer)
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
        return _byte_level_rule()
    if PIECEWISE_STEPS & set(kinds) and set(kinds) <= PIECEWISE_STEPS | JOINING_STEPS:
        marks = [step for step in steps if step["type"] in {"Metaspace", "Replace"}]
        replacements = dict(_replacement(path, step) for step in marks)
        has_byte_tokens = "ByteFallback" in kinds or getattr(tokenizer.model, "byte_fallback", False)
        return _sentencepiece_rule(replacements, has_byte_tokens)
    raise _unknown_decoder(path, "+".join(kinds) or "no decoder")


def _growth(part: Any) -> int:
    """How many times longer a normalizer, a pre-tokenizer or a decoder may make a text."""
    growth = 1
    for step in _steps(part):
        of_bytes = 2 if step["type"] == "ByteLevel" else 1  # a byte outside ASCII becomes a character of two bytes
        growth *= max(of_bytes, len(step.get("content", "")), len(step.get("prepend", "")))
    return growth


def _decoder_steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    return [] if tokenizer.decoder is None else list(_steps(tokenizer.decoder))


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, a pre-tokenizer or a decoder, as in the file."""
    if part is not None:
        # `__getstate__` gives this part's piece of the JSON. Parsing the whole file a second time
        # would take as long as loading it.
        yield from _flat(json.loads(part.__getstate__()))


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if step["type"] == "Sequence":
        for inner in step.get("decoders", step.get("normalizers", step.get("pretokenizers", ()))):
            yield from _flat(inner)
    else:
        yield step


def _replacement(path: PathLike, step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise _unknown_decoder(path, f"Replace with the pattern {step['pattern']}")
    return step["pattern"]["String"], step["content"]


def _unknown_decoder(path: PathLike, kind: str) -> TokenizerError:
    expected = "expected a byte-level (ByteLevel) or a SentencePiece (Metaspace, ByteFallback) decoder"
    return TokenizerError(path, f"its decoder is of the kind {kind}; {expected}")


def _byte_level_rule() -> ToBytes:
    byte_of = byte_alphabet()

    def to_bytes(token: str) -> bytes:
        try:
            return bytes([byte_of[character] for character in token])
        except KeyError:  # plain text: characters outside the alphabet stand for themselves
            return token.encode("utf-8")

    return to_bytes


def byte_alphabet() -> dict[str, int]:
    """The byte value that each of the 256 characters of byte-level BPE stands for.

    Printable Latin-1 characters stand for themselves; the other 68 byte values, in their order,
    are written as U+0100 and on. Source: openai/gpt-2, src/encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    alphabet = {chr(value): value for value in printable}
    alphabet.update((chr(0x100 + i), value) for i, value in enumerate(others))
    return alphabet


def _sentencepiece_rule(replacements: Mapping[str, str], has_byte_tokens: bool) -> ToBytes:
    def to_bytes(token: str) -> bytes:
        byte = BYTE_TOKEN.fullmatch(token) if has_byte_tokens else None
        if byte:
            return bytes([int(byte[1], 16)])
        for mark, text in replacements.items():
            token = token.replace(mark, text)
        return token.encode("utf-8")

    return to_bytes
