"""Markdown as it streams: what is shown, in which style, however the text comes in pieces."""

import os
import random
import re

import pytest

from rwkv_np.chat.highlight import Highlighter
from rwkv_np.chat.markdown import Markdown
from rwkv_np.chat.page import Page
from rwkv_np.chat.styles import RESET
from rwkv_np.chat.table import draw
from rwkv_np.wrapping import width

BOLD, ITALIC, DIM, CODE, HEADING = "\x1b[1m", "\x1b[3m", "\x1b[2m", "\x1b[36m", "\x1b[1;35m"
SAMPLE = """Some **bold words**, `code` and *one* more; 2*3*4, 2**3, a_snake_name and \\*stars\\*.

## A heading of `two` parts
1. First, which is **long** and goes on until it is broken
- a point
  - a point in it
> quoted *text*

```python
def f(x):
    '''Of two
    lines.'''
    return x  # done
```
床前**明月**光，疑是地上霜。举头望明月，低头思故乡。

| tea | price |
|---|---:|
| green | 3 |

---
The end."""


def shown(pieces, columns=80, rows=24, label=0):
    """Everything that is put on a terminal of that size."""
    put, markdown, page = begun(columns, rows, label)
    for piece in pieces:
        markdown.push(piece)
    markdown.flush()
    page.flush()
    return "".join(put)


def begun(columns=80, rows=24, label=0):
    """(what is put on a terminal of that size, the parser that fills it, its page)"""
    put = []
    page = Page(put.append, lambda: os.terminal_size((columns, rows)), label)
    return put, Markdown(page), page


def plain(text):
    """The text without its looks, and without rows that were written over."""
    return re.sub("\x1b\\[[0-9;]*m|[^\n]*\r", "", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **bold** word", f"a {BOLD}bold{RESET} word"),
        ("an *italic* one", f"an {ITALIC}italic{RESET} one"),
        ("***both***", f"\x1b[1;3mboth{RESET}"),
        ("`x = 1`.", f"{CODE}x{RESET} {CODE}={RESET} {CODE}1{RESET}."),
        ("`` a`b ``", f" {CODE}a`b{RESET}"),
        ("**`x`**", f"\x1b[1;36mx{RESET}"),
        ("这是**重点**内容", f"这是{BOLD}重{RESET}{BOLD}点{RESET}内容"),
        ("# Tea", f"{HEADING}Tea{RESET}"),
        ("- tea", "• tea"),
        ("12. tea", "12. tea"),
        ("> tea", f"{DIM}│{RESET} tea"),
        ("> - tea", f"{DIM}│{RESET} • tea"),
        ("---", f"{DIM}{'─' * 24}{RESET}"),
        (r"a \*b\* c", "a *b* c"),
        ("**open\nnext", f"{BOLD}open{RESET}\nnext"),
    ],
)
def test_marks_become_looks(text, expected):
    assert shown([text]) == expected and plain(shown(text)) == plain(expected)


@pytest.mark.parametrize(
    "text",
    [
        "2*3*4 and 2**3", "a * b ** c", "a_snake_name and __init__", "#hashtag", "-5 degrees", "2024 was", "1.5 l",
        r"\( x^2 \) and \[ y \]", "[a link](http://b.c)", "<b>x</b>", "a | b", "*", "**", "-", "5 * 3", "~/file",
    ],
)  # fmt: skip
def test_what_is_no_mark_stays_as_it_was_written(text):
    assert shown(text) == text == shown([text])
    assert shown(f"{text}\n") == f"{text}\n"


@pytest.mark.parametrize("columns", [20, 37, 80])
def test_how_an_answer_comes_in_pieces_changes_nothing(columns):
    whole = shown([SAMPLE], columns, label=7)
    assert on_screen(whole, columns) == on_screen(shown(SAMPLE, columns, label=7), columns)
    for seed in range(20):
        at, pieces, choice = 0, [], random.Random(seed)
        while at < len(SAMPLE):
            n = choice.randint(1, 7)
            pieces.append(SAMPLE[at : at + n])
            at += n
        assert on_screen(shown(pieces, columns, label=7), columns) == on_screen(whole, columns), seed


def on_screen(text, columns):
    """The rows and colours of a screen on which `text` was written."""
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(columns, 60)
    pyte.Stream(screen).feed("Alice: " + text.replace("\n", "\r\n").replace("\x1b[2m", "\x1b[90m"))
    return [[screen.buffer[y][x] for x in range(columns)] for y in range(60)]


def test_nothing_waits_for_the_end_of_its_block():
    """At each moment all but the last word, or a few marks, has been shown."""
    put, markdown, page = begun()
    n_letters = 0
    for i, char in enumerate(SAMPLE):
        markdown.push(char)
        n_letters += char.isalnum()
        if char in " \n" and "|" not in SAMPLE[max(0, i - 30) : i]:
            n_shown = sum(c.isalnum() for c in plain("".join(put)))
            assert n_shown >= n_letters - 4, SAMPLE[: i + 1]


def test_lines_of_a_list_are_broken_below_their_text():
    assert shown("- one two three four\n  - five six seven\nnine ten eleven twelve", 16) == (
        "• one two three\n  four\n  • five six\n    seven\nnine ten eleven\ntwelve"
    )


def test_a_block_begins_below_the_name_of_who_speaks():
    assert shown("- tea", label=7) == "\n• tea"
    assert shown("```\nx\n```", label=7).startswith(f"\n{DIM}```")
    assert shown("tea", label=7) == "tea"


# --- code ------------------------------------------------------------------------------------------------


def test_code_is_coloured_and_a_string_of_several_lines_stays_one():
    text = on_page("```python\ndef f():\n    '''One\n    if two'''\n    return 1\n```\n**x**")
    assert "\x1b[35mdef\x1b[0m" in text and "\x1b[35mreturn\x1b[0m" in text
    assert "\x1b[32mif" in text.replace("\x1b[32m    if", "\x1b[32mif") and "\x1b[35mif" not in text
    assert text.endswith(f"{DIM}```{RESET}\n{BOLD}x{RESET}")


def on_page(text):
    return shown([text], 80)


def test_what_stands_in_code_is_no_markdown():
    assert plain(shown("```\n# a **b** `c`\n- d\n| e |\n```", 80)) == "```\n# a **b** `c`\n- d\n| e |\n```"
    assert plain(shown("~~~\n```\n~~~\n- a", 80)) == "~~~\n```\n~~~\n• a"
    assert plain(shown("````\n```\n````\n- a", 80)) == "````\n```\n````\n• a"
    assert plain(shown("```x``` y\n- a", 80)) == "```x``` y\n• a"


def test_a_line_of_code_is_written_again_only_where_it_takes_one_row():
    line = "x = 'int' # " + "interesting " * 4
    assert "\r" in shown(f"```python\nin{line}", 100) + shown("```python\nintern = 1\n", 100)
    assert "\r" not in shown(f"```python\ni{line}\n", 20)


def test_any_language_that_pygments_knows_or_not_loses_no_character():
    for language in ("", "no-such", "yaml", "ruby", "html", "c++", "bash", "diff", "json", "rust", "php", "{.python}"):
        text = f'```{language}\nkey: "a" # b\n\tif (x) {{ y }}\n+ <p>z</p>\n```'
        assert plain(shown([text])) == text
    assert Highlighter("python").colors("x" * 501) == [""] * 501


# --- tables ----------------------------------------------------------------------------------------------

TABLE = "| 名字 | price |\n|---|---:|\n| **tea** | 3 |\n| coffee | 12 |"


def test_a_table_is_drawn_when_it_is_whole_over_its_rows():
    text = shown(f"{TABLE}\n\nMore.")
    before, drawn = text.split("\r\x1b[4A\x1b[J")
    assert before == f"{TABLE}\n"
    rows = plain(drawn).split("\n")
    assert rows[0].split() == ["名字", "price"] and rows[2].split() == ["tea", "3"] and rows[-1] == "More."
    assert len({width(row.rstrip()) for row in (rows[0], rows[2], rows[3])}) == 1, "the numbers are in line"
    assert shown(TABLE).split("\r\x1b[3A\x1b[J")[0] == TABLE, "at the end of an answer too"


@pytest.mark.parametrize("text", ["| just a bar\n| and another", "| a |\n", "| a | b |\n| c | d |\n"])
def test_what_only_looks_like_a_table_stays(text):
    assert shown(text) == text


def test_a_table_that_has_scrolled_away_or_whose_window_has_changed_stays_as_it_is():
    assert "\x1b[" not in shown(TABLE, rows=3)
    assert "\x1b[" not in shown(TABLE, columns=19)
    put, size = [], [80, 24]
    markdown = Markdown(Page(put.append, lambda: os.terminal_size(size)))
    markdown.push(TABLE)
    size[0] = 70
    markdown.flush()
    assert "".join(put) == TABLE


def test_a_terminal_that_cannot_move_its_cursor_is_not_asked_to():
    put = []
    page = Page(put.append, lambda: os.terminal_size((80, 24)), moves=False)
    Markdown(page).push(f"{TABLE}\n\n```python\nin")
    page.code("tern = 1\n")
    assert plain("".join(put)) == f"{TABLE}\n\n```python\nintern = 1\n" and "\r" not in "".join(put)


def test_a_table_has_no_links_and_no_column_wider_than_the_window():
    rows = draw("| a |\n|---|\n| [x](http://evil.example) " + "long " * 30 + "|", 40)
    assert "\x1b]8" not in rows and max(map(width, plain(rows).split("\n"))) <= 40


# --- an answer that goes on ------------------------------------------------------------------------------


def test_an_answer_that_goes_on_is_still_in_its_block_of_code():
    put, markdown, page = begun()
    page.mute()
    markdown.push("Look:\n```python\ndef f():\n    retu")
    page.unmute()
    assert put == []
    markdown.push("rn 1\n    '''On")
    assert "\r" not in "".join(put), "the beginning of that line stands elsewhere"
    markdown.push("e\n    if'''\n```\n**x**")
    markdown.flush()
    page.flush()
    text = "".join(put)
    assert plain(text) == "rn 1\n    '''One\n    if'''\n```\nx" and "\x1b[35mif" not in text
    assert text.endswith(f"{BOLD}x{RESET}")


def test_the_rest_of_a_table_is_not_drawn_over_what_stands_above_it():
    put, markdown, page = begun()
    page.mute()
    markdown.push("| a | b |\n|---|---|\n| c")
    page.unmute()
    markdown.push(" | d |\n\n**x**")
    markdown.flush()
    page.flush()
    assert "".join(put) == f" | d |\n\n{BOLD}x{RESET}"
