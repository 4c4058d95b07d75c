"""Turn the demo model's text into token ids: its vocabulary, batches, and the held-out text.

The vocabulary is byte-level BPE. Chinese characters, pairs of digits and newlines are split off before
anything is merged: a country's name then has the same tokens in every phrasing, a number below 100 is
one token (digit by digit, sums were learnt far more slowly), and a turn ends in the same two tokens
whatever follows. A batch is a function of the seed and its number, so a resumed run continues as if
it had not stopped.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from demo_text import document
from tokenizers import Regex, Tokenizer
from vocabulary import VOCAB_SIZE, byte_level_bpe

N_SAMPLE = 30_000  # documents for training the vocabulary
READ_WEIGHT = 0.1  # weight of a token that the model need not learn; a token of an answer has weight 1


def train_tokenizer(seed: int, vocab_size: int = VOCAB_SIZE, n_documents: int = N_SAMPLE) -> Tokenizer:
    """A vocabulary for the training text; id 0 is the end of text."""
    split = Regex(r"[\u3400-\u9fff]|[0-9]{1,2}|\n")
    return byte_level_bpe(_sample(seed, n_documents), vocab_size, split)


def _sample(seed: int, n_documents: int) -> list[str]:
    rng = random.Random(f"vocabulary {seed}")
    return ["".join(text for text, _ in document(rng)[:-1]) for _ in range(n_documents)]


class Batches:
    """Rows of consecutive documents; each row starts at the start of a document."""

    def __init__(self, tokenizer: Tokenizer, seed: int, n_rows: int, n_tokens: int) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        self.n_rows, self.n_tokens = n_rows, n_tokens
        self._ids = lru_cache(maxsize=200_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text).ids)

    def __call__(self, name: int | str) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, weights), both (n_rows, n_tokens + 1); a weight is the importance of an id in the loss."""
        rng = random.Random(f"{name} of {self.seed}")
        rows = [self._row(rng) for _ in range(self.n_rows)]
        ids, weights = ([[pair[i] for pair in row] for row in rows] for i in range(2))
        return torch.tensor(ids), torch.tensor(weights, dtype=torch.float32)

    def _row(self, rng: random.Random) -> list[tuple[int, float]]:
        row: list[tuple[int, float]] = []
        while len(row) <= self.n_tokens:
            for text, is_learnt in document(rng):
                row += [(token, 1.0 if is_learnt else READ_WEIGHT) for token in self._ids(text)]
        return row[: self.n_tokens + 1]


def held_out(seed: int, n_characters: int) -> str:
    """Documents that are in no batch; each ends with the end of text."""
    rng, text = random.Random(f"held out of {seed}"), ""
    while len(text) < n_characters:
        text += "".join(piece for piece, _ in document(rng))
    return text
