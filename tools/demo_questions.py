"""Write the demo model's test data: 200 questions about what it was taught, and unseen text.

    python tools/demo_questions.py tests/data/demo_questions.json rwkv_np/data/demo-heldout.txt

Questions are drawn as in training: topics by their shares, the facts of a topic with equal
probability, in both languages. `answers` lists the accepted substrings: a right answer must contain
one of them (bench/examine.py has the rule).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import click
from demo_facts import LANGUAGES, table, topics
from demo_text import corpus
from demo_tokens import held_out

from rwkv_np.cli import Command

FACTS, TALK, UNKNOWN = 88, 8, 4  # of a hundred questions
HELD_OUT_CHARACTERS = 130_000

Question = dict[str, Any]


def questions(seed: int) -> list[Question]:
    """A hundred different questions in each language."""
    rng = random.Random(f"questions of {seed}")
    found: dict[str, Question] = {}
    for language in LANGUAGES:
        for draw, n in ((_fact, FACTS), (_talk, TALK), (_unknown, UNKNOWN)):
            wanted = len(found) + n
            while len(found) < wanted:
                question = draw(rng, language)
                found.setdefault(question["question"], question)
    return list(found.values())


def _fact(rng: random.Random, language: str) -> Question:
    (topic,) = rng.choices(topics(), [topic.share for topic in topics()])
    fact = rng.choice(topic.facts[language])
    return _question(topic.name, language, rng.choice(fact.ask), [fact.right])


def _talk(rng: random.Random, language: str) -> Question:
    entry = rng.choice(table("talk")[language])
    ask = rng.choice(entry["ask"])
    others = [say for other, say in corpus(language) if other == ask]
    return _question("talk", language, ask, [*entry["say"], *others])


def _unknown(rng: random.Random, language: str) -> Question:
    entry = table("talk")["unknown"][language]
    ask = rng.choice(entry["ask"]).format(x=rng.choice(entry["things"]))
    return _question("unknown", language, ask, ["do not know" if language == "en" else "不知道"])


def _question(topic: str, language: str, question: str, answers: list[str]) -> Question:
    return {"topic": topic, "language": language, "question": question, "answers": answers}


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("questions_json", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("heldout_txt", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seed", default=0, help="The seed of the training.")
def command(questions_json: Path, heldout_txt: Path, seed: int) -> None:
    """Write the questions and the held-out text."""
    lines = (json.dumps(question, ensure_ascii=False) for question in questions(seed))
    questions_json.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    heldout_txt.write_text(held_out(seed, HELD_OUT_CHARACTERS), encoding="utf-8")


if __name__ == "__main__":
    command()
