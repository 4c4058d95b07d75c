"""Line breaks: between words, however the text is split into pieces; only for a terminal."""

import os
import random
import sys

import pytest

from rwkv_np import console
from rwkv_np.wrapping import Wrapper, width, wrapped

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and internationalization of it all is a long word.",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。「静夜思」（李白）……",
    "私はチョコレートが大好きで、ケーキも「とても」好きです。",
    "def f(x):\n    return [x for x in range(100)]\n\n\n  two\tthree   \n",
    "Mixed 中文 and English，混排 text with (括号) and a👩‍👩‍👧b é́ combining.",
    "x" * 70 + " and " + "文" * 50,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("columns", [10, 17, 24, 80])
def test_no_row_is_wider_than_the_screen_but_by_a_word_that_is_and_nothing_but_spaces_is_lost(text, columns):
    shown = wrapped(text, columns)
    assert "".join(shown.split()) == "".join(text.split())
    for row in shown.split("\n"):
        longest = max(map(width, row.split()), default=0)
        assert width(row.expandtabs(8)) <= columns or longest > columns


@pytest.mark.parametrize("text", TEXTS)
def test_how_the_text_comes_in_pieces_changes_nothing(text):
    chance = random.Random(0)
    for columns in (9, 20, 50):
        for _ in range(20):
            wrapper, rest, shown = Wrapper(lambda columns=columns: columns), text, ""
            while rest:
                n = chance.randrange(1, 9)
                shown, rest = shown + wrapper.push(rest[:n]), rest[n:]
            assert shown + wrapper.flush() == wrapped(text, columns)


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 8, ["one two", "three"]),
        ("one   two", 4, ["one", "two"]),
        ("a " + "x" * 12 + " b", 5, ["a " + "x" * 12, "b"]),  # the terminal breaks it, from its start
        ("    indented", 20, ["    indented"]),
        ("天地玄黄，宇宙", 8, ["天地玄", "黄，宇宙"]),  # no comma at the start of a line
        ("天地（玄黄）宇宙", 6, ["天地", "（玄", "黄）宇", "宙"]),  # nor a bracket at the end
        ("きょうはチョコ", 4, ["きょ", "うは", "チョ", "コ"]),
        ("安全第一ラーメン", 10, ["安全第一", "ラーメン"]),
        ("你好，world！再见", 12, ["你好，", "world！再见"]),
        ("你好，world！再见", 13, ["你好，world！", "再见"]),
        ("한국어 문장", 8, ["한국어", "문장"]),  # Korean has spaces
        ("", 5, [""]),
    ],
)
def test_where_lines_end(text, columns, rows):
    assert wrapped(text, columns).split("\n") == rows


def test_a_text_goes_on_behind_a_name_and_what_is_broken_off_may_be_indented():
    assert wrapped("one two", 10, column=8) == "\none two"
    assert wrapped("one two", 10, column=6) == "one\ntwo"
    assert wrapped("aa bb cc", 6, indent=2) == "aa bb\n  cc"


def test_a_word_is_shown_when_it_is_complete_and_one_without_an_end_as_it_comes():
    wrapper = Wrapper(lambda: 10)
    assert [wrapper.push(piece) for piece in ("Hel", "lo", " wor", "ld.", "\n")] == ["", "", "Hello", "", "\nworld.\n"]
    wrapper = Wrapper(lambda: 10)
    assert wrapper.push("a" * 10) == "" and wrapper.push("a") == "a" * 11 and wrapper.push("a") == "a"


def test_the_width_of_the_screen_is_asked_for_again_and_again():
    columns = 20
    wrapper = Wrapper(lambda: columns)
    shown = wrapper.push("one two three ")
    columns = 8
    assert shown + wrapper.push("four five six ") + wrapper.flush() == "one two three\nfour\nfive six"


@pytest.mark.parametrize("line", ["reading: 128 of 4000 tokens", "正在读取：128 / 4000 个 token", "short"])
def test_a_line_that_is_written_over_takes_one_row(monkeypatch, capsys, line):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(console, "window", lambda stream: os.terminal_size((20, 24)))
    console.write_over(line)
    shown = capsys.readouterr().err.removeprefix("\r\x1b[K")
    assert line.startswith(shown) and width(shown) < 20 and (shown == line or width(shown) > 15)
