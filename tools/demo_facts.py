"""The knowledge of the demo model: questions and answers in English and Chinese, from tables.

The phrasings and most rows are in demo_tables/topics.yaml. Countries are assembled here from our own
table of capitals and from CLDR's names of countries, languages and currencies (in the package babel);
arithmetic is generated. `demo_text` turns facts into dialogues.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import Any

import yaml
from babel import Locale
from babel.languages import get_official_languages
from babel.numbers import get_currency_name, get_territory_currencies

TABLES = Path(__file__).parent / "demo_tables"
LANGUAGES = ("en", "zh")

Row = dict[str, str]


@dataclass(frozen=True)
class Fact:
    """Ways to ask for a fact, ways to state it, and the substrings that a right answer contains."""

    topic: str
    language: str
    ask: tuple[str, ...]
    say: tuple[str, ...]
    right: str


@dataclass(frozen=True)
class Topic:
    """Facts of one kind; `share` is its weight among the questions."""

    name: str
    share: float
    facts: dict[str, tuple[Fact, ...]]


@cache
def table(name: str) -> Any:
    """The contents of one of the tables."""
    return yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def topics() -> tuple[Topic, ...]:
    """All topics with their facts."""
    return tuple(_topic(entry) for entry in table("topics"))


def _topic(entry: dict[str, Any]) -> Topic:
    rows = list(_rows(entry))
    facts = {
        language: tuple(_fact(entry["topic"], language, entry[language], row) for row in rows) for language in LANGUAGES
    }
    return Topic(entry["topic"], entry["share"], facts)


def _fact(topic: str, language: str, phrases: dict[str, Any], row: Row) -> Fact:
    finish = _sentence if language == "en" else str
    ask, say = (tuple(finish(p.format(**row)) for p in phrases[key]) for key in ("ask", "say"))
    return Fact(topic, language, ask, say, phrases["right"].format(**row))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows(entry: dict[str, Any]) -> Iterator[Row]:
    if entry["topic"] in _COMPUTED:
        yield from _COMPUTED[entry["topic"]]()
        return
    columns = entry["columns"].split()
    for line in entry["rows"]:
        row = dict(zip(columns, (value.replace("_", " ") for value in line.split())))
        yield _with_articles(row)
        if entry.get("swap"):
            yield {"a": row["b"], "b": row["a"], "a_zh": row["b_zh"], "b_zh": row["a_zh"]}


def _with_articles(row: Row) -> Row:
    """Add an_a ("an ant") and a_kind ("an insect") if these columns exist."""
    added = {"an_a": "a", "a_kind": "kind"}
    return row | {new: f"{_article(row[old])} {row[old]}" for new, old in added.items() if old in row}


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _countries() -> Iterator[Row]:
    names, continent, continent_zh = table("countries")["names"], "", ""
    locales = {language: Locale(language) for language in LANGUAGES}
    for group in table("countries")["capitals"]:
        if isinstance(group, list):
            continent, continent_zh = group
            continue
        for entry in group.split(";"):
            code, capital, capital_zh = entry.split()
            name, name_zh = (names[x].get(code, locales[x].territories[code]) for x in LANGUAGES)
            yield {
                "code": code, "country": name, "country_zh": name_zh, "continent": continent,
                "continent_zh": continent_zh, "capital": capital.replace("_", " "), "capital_zh": capital_zh,
                "the": f"the {name}" if code in table("countries")["the"].split() else name,
            }  # fmt: skip


def _well_known() -> Iterator[Row]:
    known = table("countries")["well_known"].split()
    for row in _countries():
        if row["code"] in known:
            yield row | _money(row["code"]) | _speech(row["code"])


def _money(code: str) -> Row:
    currency = get_territory_currencies(code)[0]
    return {
        "currency": get_currency_name(currency, count=1, locale="en"),
        "currency_zh": get_currency_name(currency, locale="zh"),
    }


def _speech(code: str) -> Row:
    language = table("countries")["languages"].get(code) or get_official_languages(code, de_facto=True)[0]
    language = re.sub("_.*", "", language)  # without the script
    return {"language": Locale("en").languages[language], "language_zh": Locale("zh").languages[language]}


def _capitals() -> Iterator[Row]:
    """The well-known countries whose capital has another name than the country."""
    return (row for row in _well_known() if row["capital"] != row["country"])


def _numbers(a: int, b: int, c: int) -> Row:
    return {"a": str(a), "b": str(b), "c": str(c)}


def _sums() -> Iterator[Row]:
    return (_numbers(a, b, a + b) for a, b in product(range(21), repeat=2))


def _differences() -> Iterator[Row]:
    return (_numbers(a, b, a - b) for a, b in product(range(21), repeat=2) if a >= b)


def _products() -> Iterator[Row]:
    return (_numbers(a, b, a * b) for a, b in product(range(1, 13), repeat=2))


def _pairs() -> Iterator[Row]:
    return (_numbers(a, b, max(a, b)) for a, b in permutations(range(21), 2))


def _large_numbers() -> Iterator[Row]:
    """Sums that the model learns to decline; none is close to the sums that it learns."""
    return (_numbers(a, b, 0) for a, b in product(range(23, 1000, 37), range(21, 1000, 41)))


_COMPUTED = {
    "capital": _countries, "about": _countries, "continent": _countries, "country": _capitals,
    "currency": _well_known, "language": _well_known,
    "plus": _sums, "minus": _differences, "times": _products, "larger": _pairs, "beyond": _large_numbers,
}  # fmt: skip
