"""Colours for code, a line at a time: pygments, which knows the languages.

pygments reads whole texts, which would be too slow for each token. So its lexer is run on one line with our own
context, which keeps the state at the end of the line before (inside a string of several lines, for example).
"""

from __future__ import annotations

from typing import Any

from rwkv_np.chat.styles import DIM

LONGEST = 500  # characters; a longer line is data, on which regular expressions can be slow
# By pygments' names of tokens; the most exact name that is listed counts.
_COLORS = {
    "Comment": DIM, "Keyword": "\x1b[35m", "Operator.Word": "\x1b[35m", "Literal.String": "\x1b[32m",
    "Literal.Number": "\x1b[36m", "Keyword.Constant": "\x1b[36m", "Name.Builtin": "\x1b[36m",
    "Name.Function": "\x1b[1m", "Name.Class": "\x1b[1m", "Name.Tag": "\x1b[35m", "Name.Attribute": "\x1b[36m",
    "Name.Decorator": "\x1b[35m", "Generic.Deleted": "\x1b[31m", "Generic.Inserted": "\x1b[32m",
    "Generic.Heading": "\x1b[1m", "Generic.Subheading": "\x1b[35m",
}  # fmt: skip


class Highlighter:
    """The colours of code in `language`, the word after a fence; no colours if pygments does not know it."""

    def __init__(self, language: str) -> None:
        self._lexer: Any = _find_lexer(language)
        self._stack = ["root"]  # empty: the lexer reads each line alone

    def colors(self, line: str, *, is_whole: bool = False) -> list[str]:
        """The escape sequence of each character of `line`; after a whole line, the next one follows."""
        if self._lexer is None or len(line) > LONGEST:
            return [""] * len(line)
        tokens = self._tokens(line + "\n" * is_whole, is_whole)
        colors = [""] * len(line)
        for start, kind, text in tokens:
            if color := _color(kind):
                end = min(start + len(text), len(line))
                colors[start:end] = [color] * (end - start)
        return colors

    def _tokens(self, text: str, is_whole: bool) -> list[tuple[int, Any, str]]:
        try:
            if self._stack:
                tokens, stack = _lex(self._lexer, text, self._stack)
                self._stack = stack if is_whole else self._stack
                return tokens
            return list(self._lexer.get_tokens_unprocessed(text))
        except Exception:  # a few lexers (YAML) need their own context: each line is read separately
            self._lexer, self._stack = (self._lexer if self._stack else None), []
            return []


def _find_lexer(language: str) -> Any:
    if not language:
        return None
    from pygments.lexers import get_lexer_by_name  # 20 ms, which a chat without code does not need
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language.strip("{}.").lower())
    except ClassNotFound:
        return None


def _lex(lexer: Any, text: str, stack: list[str]) -> tuple[list[tuple[int, Any, str]], list[str]]:
    """(the tokens of `text`, the lexer's stack after it); `stack` is the one before it."""
    from pygments.lexer import ExtendedRegexLexer, LexerContext

    context = LexerContext(text, 0, list(stack))
    run: Any = ExtendedRegexLexer.get_tokens_unprocessed  # works for every lexer of regular expressions
    return list(run(lexer, text, context)), context.stack


_by_kind: dict[Any, str] = {}


def _color(kind: Any) -> str:
    """The colour of a token, or of the nearest kind above it that has one."""
    if kind not in _by_kind:
        names = [".".join(kind[:n]) for n in range(len(kind), 0, -1)]
        _by_kind[kind] = next((_COLORS[name] for name in names if name in _COLORS), "")
    return _by_kind[kind]
