"""The prose model: that the file is the trained model, and that its page describes it correctly."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from examine import perplexity

import rwkv_np

PROSE = Path(__file__).parent / "data" / "prose"
MODEL = PROSE / "prose-FP16.bin"
END = "<|endoftext|>"
N_TOKENS = 512  # of a row of the training's held-out loss
SAMPLE = slice(4, None, 8)  # of the eight samples, the one whose mean is closest to that of all rows


@pytest.fixture(scope="module")
def model():
    return rwkv_np.load(MODEL, threads=1)


@pytest.fixture(scope="module")
def tokenizer(model):
    return rwkv_np.load_tokenizer(vocab_size=model.config.vocab_size, model_path=MODEL)


def pages(name):
    return (PROSE / f"{name}.txt").read_text(encoding="ascii").split(END)[:-1]


def loss(model, ids):
    """Nats per token of ids[1:], from the empty state."""
    logits, _ = model.forward(ids[:-1], full_output=True)
    shifted = np.float64(logits) - logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), ids[1:]])


def test_its_held_out_loss_is_what_the_log_says(model, tokenizer):
    ids = np.array(tokenizer.encode((PROSE / "held-out.txt").read_text(encoding="ascii")))
    rows = np.lib.stride_tricks.sliding_window_view(ids, N_TOKENS + 1)[::N_TOKENS]
    logged = json.loads((PROSE / "log.jsonl").read_text().splitlines()[-1])["held_out_loss"]
    assert np.mean([loss(model, row) for row in rows[SAMPLE]]) == pytest.approx(logged, rel=0.01)


def test_the_perplexity_of_the_first_pages_is_that_of_its_page(model, tokenizer):
    said = re.search(r"first two pages .* perplexity ([\d.]+)", (PROSE / "README.md").read_text(encoding="utf-8"))
    text = "".join(page + END for page in pages("held-out")[:2])
    assert perplexity(model, tokenizer, text) == pytest.approx(float(said[1]), rel=0.002)


def test_a_held_out_page_is_not_in_the_text_for_calibration():
    ours, others = (set("\n".join(pages(name)).splitlines()) - {""} for name in ("held-out", "calibration"))
    assert not ours & others


def test_each_page_of_the_texts_has_a_source_with_a_licence_and_a_notice():
    rows = list(csv.DictReader((PROSE / "sources.tsv").read_text().splitlines(), delimiter="\t"))
    notices = (PROSE / "NOTICES.md").read_text(encoding="utf-8")
    for name in ("held-out", "calibration"):
        assert [len(page) for page in pages(name)] == [int(row["characters"]) for row in rows if row["text"] == name]
    for row in rows:
        assert re.search(rf"^\| {re.escape(row['package'])} \| \S+ \| {re.escape(row['licence'])} \| .", notices, re.M)
