"""Parse README and docs for tests: fenced blocks, the commands in them, links, headings and inline code.

It supports only the Markdown that our documents use. A shell line is split into words by shlex; `&&`, `|` and
`<` are supported, since the documents use them, and no other shell syntax.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OPERATORS = ("&&", "|", "<", ">")


class Block(NamedTuple):
    """A fenced block: its language and its text."""

    language: str
    text: str


class Command(NamedTuple):
    """A simple command: its words, and its input, as text or from a file."""

    words: list[str]
    text: str | None = None
    file: str | None = None


def written():
    """All our documents, by their path from the root."""
    pages = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
    return ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *pages]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name):
    return [Block(*found) for found in FENCE.findall(read(name))]


def prose(name):
    """A document without its fenced blocks."""
    return FENCE.sub("", read(name))


def links(name):
    return LINK.findall(prose(name))


def inline_code(name):
    return CODE.findall(prose(name))


def anchors(name):
    """The anchors of headings (after #), as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def table_rows(name):
    """The cells of all table rows."""
    lines = re.findall(r"^\|(.*)\|$", prose(name), re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not re.fullmatch(r"[\s|:-]+", line)]


def commands(text):
    """The commands of a block of shell lines, in order."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&<>")
        lexer.whitespace_split = True
        words = list(lexer)
        while words:
            n = words.index("&&") if "&&" in words else len(words)
            yield _command(words[:n])
            words = words[n + 1 :]


def _command(words):
    """One command; before a pipe there must be a printf, whose output is the input."""
    text = file = None
    if "|" in words:
        printf, words = words[: words.index("|")], words[words.index("|") + 1 :]
        assert printf[0] == "printf" and len(printf) == 2, f"only printf may be piped here, not {printf}"
        text = printf[1].replace("\\n", "\n")
    if ">" in words:
        words = words[: words.index(">")]
    if "<" in words:
        words, file = words[: words.index("<")], words[words.index("<") + 1]
    assert not set(words) & set(OPERATORS), f"unsupported shell syntax: {words}"
    return Command(words, text, file)
