"""Turn the text of the prose model into token ids.

    python tools/prose_tokens.py prose/

makes prose/tokenizer.json from prose/training.txt, and prose/tokens.npz from the training and the
held-out text. The vocabulary is made like that of the demo model.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from tokenizers import Regex, Tokenizer
from vocabulary import END_OF_TEXT, VOCAB_SIZE, byte_level_bpe

from rwkv_np.cli import Command

N_SAMPLE = 4000  # documents for training the vocabulary
AT_ONCE = 1000  # documents: what `tokenizers` returns takes 30 times the room of the text


def documents(path: Path) -> list[str]:
    """The documents of a text, each with its end."""
    return [f"{document}{END_OF_TEXT}" for document in path.read_text(encoding="ascii").split(END_OF_TEXT)[:-1]]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A vocabulary for the documents."""
    every = max(1, len(texts) // N_SAMPLE)
    sample = (text.removesuffix(END_OF_TEXT) for text in texts[::every])
    return byte_level_bpe(sample, VOCAB_SIZE, Regex(r"[0-9]{1,2}|\n"))


def encoded(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """The ids of the documents, one after another: uint16 (n,)"""
    parts = []
    for i in range(0, len(texts), AT_ONCE):
        parts += [np.array(found.ids, np.uint16) for found in tokenizer.encode_batch(texts[i : i + AT_ONCE])]
    return np.concatenate(parts)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def command(folder: Path) -> None:
    """Make FOLDER/tokenizer.json and FOLDER/tokens.npz from the texts in FOLDER."""
    texts = {name: documents(folder / f"{name}.txt") for name in ("training", "held-out")}
    tokenizer = train_tokenizer(texts["training"])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    ids = {name: encoded(tokenizer, found) for name, found in texts.items()}
    n_bytes = {name: sum(len(text) for text in found) for name, found in texts.items()}
    for name in texts:
        click.echo(f"{name}: {n_bytes[name]} bytes, {len(ids[name])} tokens")
    np.savez_compressed(folder / "tokens.npz", n_bytes=n_bytes["held-out"], **ids)  # type: ignore[arg-type]


if __name__ == "__main__":
    command()
