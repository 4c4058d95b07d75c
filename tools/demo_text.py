"""Training text for the demo model: dialogues in the Raven format, and short plain stories.

A document is a list of pieces, split where the chat splits them (a turn up to "Alice:", the answer,
the blank line), because pieces that are encoded separately may give other tokens than the whole text.
Nothing is stored: a document is a function of its random generator. `demo_tokens` makes token ids.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

import yaml
from demo_facts import LANGUAGES, Fact, table, topics
from vocabulary import END_OF_TEXT

from rwkv_np.chat.templates import SEPARATOR, TEMPLATES

TEMPLATE = TEMPLATES["raven"]

# Share of the documents; a fifth of the tokens. The rest are dialogues.
STORIES = 0.15
# The kinds of turns and their weights.
FACT, TALK, UNKNOWN, CORPUS, STORY = "fact", "talk", "unknown", "corpus", "story"
TURNS = {FACT: 78, TALK: 10, UNKNOWN: 8, CORPUS: 2, STORY: 2}
MAX_TURNS = 9
CHANGE_LANGUAGE = 0.2

# The categories of chatterbot-corpus whose answers make sense without context; the others are a robot's
# opinions, politics, or (in Chinese) machine translation.
CORPUS_FILES = {
    "en": ("english", ("greetings", "conversations", "computers")),
    "zh": ("chinese", ("greetings", "conversations")),
}
# Entries of these to leave out: what another bot says about itself, and what makes no sense without context.
UNWANTED = re.compile(
    r"bot|mask|form following|ever live|never|lie\b|Zen|bonkers|program|appointment|hobbies|YOLO|Python"
    r"|\b(Dr|Mr|Mrs|Ms)\."
    r"|机器人|面具|你是谁|谎言|程序员|爱好|海鲜|从未|什么是爱|糖",
    re.IGNORECASE,
)

Exchange = tuple[str, str]
Piece = tuple[str, bool]
"""Text, and whether the model should learn it: what the user says is only read."""


def document(rng: random.Random) -> list[Piece]:
    """A dialogue of several turns, or a few stories; the last piece is the end of text."""
    pieces = _stories(rng) if rng.random() < STORIES else _dialogue(rng)
    return [*pieces, (END_OF_TEXT, True)]


def facts() -> Iterator[Fact]:
    """Every fact, in the order of the tables."""
    for topic in topics():
        for language in LANGUAGES:
            yield from topic.facts[language]


def _stories(rng: random.Random) -> list[Piece]:
    language = rng.choice(LANGUAGES)
    paragraphs = [story(rng, language) for _ in range(rng.randint(1, 4))]
    return [(SEPARATOR.join(paragraphs) + "\n", True)]


def _dialogue(rng: random.Random) -> list[Piece]:
    language, pieces = rng.choice(LANGUAGES), list[Piece]()
    for _ in range(rng.randint(1, MAX_TURNS)):
        if rng.random() < CHANGE_LANGUAGE:
            language = rng.choice(LANGUAGES)
        question, answer = exchange(rng, language)
        pieces += [(TEMPLATE.turn(question), False), (f" {answer}", True), (SEPARATOR, True)]
    return pieces


def exchange(rng: random.Random, language: str) -> Exchange:
    """A question as a user would type it, and the answer."""
    (kind,) = rng.choices(list(TURNS), list(TURNS.values()))
    question, answer = _EXCHANGES[kind](rng, language)
    if kind == FACT and rng.random() < 0.08:
        question = rng.choice(table("talk")["before"][language]) + question
    return typed(rng, question), answer


def typed(rng: random.Random, question: str) -> str:
    """`question`, sometimes without its last punctuation mark, or in lower case."""
    if rng.random() < 0.2:
        question = question.rstrip(".?!。？！ ") or question
    return question.lower() if rng.random() < 0.1 else question


def _fact(rng: random.Random, language: str) -> Exchange:
    (topic,) = rng.choices(topics(), [topic.share for topic in topics()])
    fact = rng.choice(topic.facts[language])
    return rng.choice(fact.ask), rng.choice(fact.say)


def _talk(rng: random.Random, language: str) -> Exchange:
    entry = rng.choice(table("talk")[language])
    return rng.choice(entry["ask"]), rng.choice(entry["say"])


def _unknown(rng: random.Random, language: str) -> Exchange:
    entry = table("talk")["unknown"][language]
    question: str = rng.choice(rng.choice((entry["ask"], entry["plain"])))
    return question.format(x=rng.choice(entry["things"])), rng.choice(entry["say"])


def _corpus(rng: random.Random, language: str) -> Exchange:
    return rng.choice(corpus(language))


def _story(rng: random.Random, language: str) -> Exchange:
    return rng.choice(table("talk")["stories"][language]), story(rng, language)


_EXCHANGES: dict[str, Callable[[random.Random, str], Exchange]] = {
    FACT: _fact, TALK: _talk, UNKNOWN: _unknown, CORPUS: _corpus, STORY: _story,
}  # fmt: skip


@cache
def corpus(language: str) -> tuple[Exchange, ...]:
    """The beginnings of the conversations of chatterbot-corpus that we use: question and answer."""
    found = []
    folder, categories = CORPUS_FILES[language]
    for category in categories:
        path = files("chatterbot_corpus").joinpath("data", folder, f"{category}.yml")
        for lines in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            found.append((str(lines[0]), str(lines[1])))
    return tuple((ask, say) for ask, say in found if not UNWANTED.search(f"{ask} {say}"))


def story(rng: random.Random, language: str) -> str:
    """A paragraph from the grammar of demo_tables/stories.yaml."""
    rules, kept = table("stories")[language], dict[str, str]()

    def expand(match: re.Match[str]) -> str:
        if match["again"]:
            return kept[match["again"]]
        text = write(rng.choice(rules[match["rule"]]))
        if match["keep"]:
            kept[match["keep"]] = text
        return text

    def write(text: str) -> str:
        return re.sub(r"\[(?P<rule>\w+)(=(?P<keep>\d))?\]|<(?P<again>\d)>", expand, text)

    return write(rng.choice(rules["story"]))
