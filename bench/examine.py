"""Measure the demo model: correct answers, answers that end, perplexity of unseen text.

    python bench/examine.py                   # the shipped file
    python bench/examine.py demo-Q4_1.bin     # another file of the demo model
    python bench/examine.py MODEL.bin         # another model, with its tokenizer and template

Each question is asked from the empty state, with greedy decoding. The rule is strict: an answer is
right if it contains one of the accepted substrings as whole words and, if the question asks for a
number, no other number. An answer ends if it reaches a blank line or the end of text within 60 tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from rwkv_np import Model, SamplingParams, Tokenizer, demo, generate, load, load_tokenizer
from rwkv_np.chat.templates import template_for
from rwkv_np.cli import Command

QUESTIONS = Path(__file__).parents[1] / "tests" / "data" / "demo_questions.json"
NUMBER_TOPICS = {"plus", "minus", "times", "larger"}
MAX_TOKENS = 60
CHUNK = 512  # rows of logits kept at once

Question = dict[str, Any]


def is_right(question: Question, answer: str) -> bool:
    """Whether `answer` is right by the rule above."""
    accepted = [text for text in question["answers"] if _contains(answer, text)]
    if question["topic"] not in NUMBER_TOPICS:
        return bool(accepted)
    return any(_numbers(answer) == _numbers(text) for text in accepted)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _contains(answer: str, accepted: str) -> bool:
    """Compare whole words: Niger is not in Nigeria. Chinese has no spaces, so this applies to ASCII only."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(accepted)}(?![A-Za-z0-9])"
    return re.search(pattern, answer, re.IGNORECASE) is not None


def tokenizer_of(path: Path, vocab_size: int) -> Tokenizer:
    """The demo model's tokenizer for its files, wherever they are; otherwise found as in the chat."""
    is_demo = vocab_size == load_tokenizer(demo.TOKENIZER).n_ids
    return load_tokenizer(demo.TOKENIZER if is_demo else None, vocab_size, model_path=path)


def ask(model: Model, tokenizer: Tokenizer, question: str) -> tuple[str, bool]:
    """The greedy answer, and whether it ended before the limit."""
    template = template_for(model.config.vocab_size, model.config.architecture)
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, stop=template.stop)
    completion = generate(model, tokenizer, template.prompt(question), params)
    answer = "".join(completion)
    return answer.strip(), completion.stop_reason in ("stop", "stop_id")


def examine(model: Model, tokenizer: Tokenizer, questions: Sequence[Question]) -> dict[str, Any]:
    """Share of right answers per language, share of answers that ended, and all wrong answers."""
    answers = [ask(model, tokenizer, question["question"]) for question in questions]
    right = [is_right(question, answer) for question, (answer, _) in zip(questions, answers)]
    languages = [question["language"] for question in questions]
    wrong = [
        f"{question['question']} -> {answer}"
        for question, (answer, _), is_ok in zip(questions, answers, right)
        if not is_ok
    ]
    by_language = {x: np.mean([r for r, y in zip(right, languages) if x == y]) for x in sorted(set(languages))}
    return {"right": by_language, "ended": np.mean([ended for _, ended in answers]), "wrong": wrong}


def perplexity(model: Model, tokenizer: Tokenizer, text: str) -> float:
    """exp of the mean cross-entropy per token of `text`, read as one stream after an end of text."""
    ids = [0, *tokenizer.encode(text)]
    total, state = 0.0, None
    for start in range(0, len(ids) - 1, CHUNK):
        chunk, following = ids[start : start + CHUNK], ids[start + 1 : start + CHUNK + 1]
        logits, state = model.forward(chunk, state, full_output=True)
        rows = np.float64(logits[: len(following)])
        rows -= rows.max(axis=1, keepdims=True)
        picked = rows[np.arange(len(following)), following]
        total += float((np.log(np.exp(rows).sum(axis=1)) - picked).sum())
    return math.exp(total / (len(ids) - 1))


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=demo.MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, including the wrong answers.")
def command(path: Path, as_json: bool) -> None:
    """Examine the demo model, or another file of it."""
    model = load(path)
    tokenizer = tokenizer_of(path, model.config.vocab_size)
    found = examine(model, tokenizer, json.loads(QUESTIONS.read_text(encoding="utf-8")))
    found["perplexity"] = perplexity(model, tokenizer, demo.HELD_OUT.read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    shares = ", ".join(f"{language} {share:.0%}" for language, share in found["right"].items())
    click.echo(f"{path.name}: right {shares}; ended {found['ended']:.1%}; perplexity {found['perplexity']:.3f}")


if __name__ == "__main__":
    command()
