"""The prose model: that the file is the trained model, and that its page describes it correctly."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from examine import perplexity

import rwkv_np

PROSE = Path(__file__).parent / "data" / "prose"
MODEL = PROSE / "prose-FP16.bin"
END = "<|endoftext|>"
N_ROWS, N_TOKENS = 6, 512  # rows as in the training's held-out loss, spread over the text


@pytest.fixture(scope="module")
def model():
    return rwkv_np.load(MODEL, threads=1)


@pytest.fixture(scope="module")
def tokenizer(model):
    return rwkv_np.load_tokenizer(vocab_size=model.config.vocab_size, model_path=MODEL)


def pages(name):
    return (PROSE / f"{name}.txt").read_text(encoding="ascii").split(END)[:-1]


def test_its_held_out_loss_is_what_the_log_says(model, tokenizer):
    ids = np.array(tokenizer.encode((PROSE / "held-out.txt").read_text(encoding="ascii")))
    starts = np.linspace(0, len(ids) - N_TOKENS - 1, N_ROWS).astype(int)
    rows = [tokenizer.decode(ids[start : start + N_TOKENS]) for start in starts]
    mean = np.mean([math.log(perplexity(model, tokenizer, row)) for row in rows])
    logged = json.loads((PROSE / "log.jsonl").read_text().splitlines()[-1])["held_out_loss"]
    assert mean == pytest.approx(logged, rel=0.06)


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
