"""The interface of every tokenizer: text to ids, an id to its bytes, ids to text.

An id stands for bytes, not for characters: one character may need several ids. So `token_bytes` is
the primitive, `decode` joins bytes before it decodes, and text that is shown while it is generated goes
through `TextStream`. `rwkv_np.tokenizers.load_tokenizer` decides which tokenizer a model needs. What the
id sequence means is up to the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property

from rwkv_np import arguments
from rwkv_np.errors import InputError, PathLike, TokenizerError

# Trainers round the vocabulary up so that the matrices can be divided evenly: to 64 or 128, times up
# to 4 for tensor-parallel training (the 20B tokenizer's 50277 ids became 50304, 50432, 50688).
PADDING_STEP = 64
PADDING_LIMIT = 512


def is_padded(n_ids: int, vocab_size: int) -> bool:
    """Whether `vocab_size` may be `n_ids`, rounded up by the trainer.

    "A little smaller" is not a sufficient rule: GPT-2's 50257 ids would then pass for the 20B tokenizer's
    50277. A size that is not round was not rounded, so it must match exactly.
    """
    return vocab_size % PADDING_STEP == 0 and 0 <= vocab_size - n_ids < PADDING_LIMIT


def check_fit(source: PathLike, n_ids: int, vocab_size: int) -> None:
    """Raise TokenizerError if the tokenizer at `source`, with `n_ids`, does not fit `vocab_size`."""
    if vocab_size != n_ids and not is_padded(n_ids, vocab_size):
        raise TokenizerError(
            source,
            f"the tokenizer has {n_ids} ids, but the model's vocabulary has {vocab_size}: it belongs to "
            "another model. Give the right one: --tokenizer PATH",
        )


class Tokenizer(ABC):
    """Text to token ids and back.

    name        "20B", "World", "bytes", or the path of a tokenizer.json
    n_ids       the highest id of the vocabulary, plus one: `encode` never gives larger ids
    vocab_size  the model's number of ids (>= n_ids): every id below it may be decoded
    file        the tokenizer.json that says which ids a text has; None: the program does
    """

    file: str | None = None

    def __init__(self, name: str, n_ids: int, vocab_size: int | None, source: PathLike) -> None:
        """Raises TokenizerError, naming `source`, if n_ids does not fit the model's vocab_size."""
        self.name = name
        self.n_ids = n_ids
        self.vocab_size = n_ids if vocab_size is None else arguments.whole_number("vocab_size", vocab_size, 1)
        check_fit(source, n_ids, self.vocab_size)

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """The ids of `text`, which is known to be valid Unicode."""

    @abstractmethod
    def _build_pieces(self) -> Sequence[bytes]:
        """The bytes of each id, b"" for an unused id."""

    @cached_property
    def _pieces(self) -> Sequence[bytes]:
        return self._build_pieces()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; raises InputError: not text, or a lone surrogate, which UTF-8 cannot encode."""
        arguments.one_of("the text", text, str, "a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"position {error.start} of the text is U+{ord(text[error.start]):04X}, half a "
                "surrogate pair: expected text that can be written as UTF-8"
            ) from error
        return self._encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a prompt, as the model saw them in training (the 20B tokenizer differs here)."""
        return self.encode(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for, b"" for none; raises InputError if the id is out of range."""
        if type(token) is not int:
            token = arguments.whole_number("a token", token, -(2**62))
        if not 0 <= token < self.vocab_size:
            raise InputError(
                f"token {token} is not in the vocabulary of {self.name}: expected 0 to {self.vocab_size - 1}"
            )
        return self._pieces[token] if token < len(self._pieces) else b""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD."""
        arguments.one_of("tokens", tokens, Iterable, "a sequence of token ids")
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")
