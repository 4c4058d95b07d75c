"""Edits of JSON and TOML: values are replaced by any other value; keys are removed, duplicated or renamed.

A new value is written as the text in RAW: json.dumps could write neither 1e999 nor a list of 100,000 levels. So
the parsed document first gets a marked string, which is replaced by the text of the value at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from mutations import blind

RAW = (
    "null", "true", "false", "0", "1", "-1", "2", "255", "256", "65536", "2147483647", "2147483648", "-2147483649",
    "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" + "0" * 400, "-0.0", "0.5",
    "1.0", "1e308", "1e999", "-1e999", "1e-400", "NaN", "Infinity", "-Infinity", '""', '" "', '"x"', '"\\u0000"',
    '"a\\u0000b"', '"\\ud800"', '"\\u202e\\u200b"', '"\\n\\r\\u001b[2J"', '"none"', '"null"', '"\U0001f999茶"',
    '"' + "y" * 100_000 + '"', "[]", "{}", "[[]]", "[null]", '[""]', '["a", "b"]', "[1, 2, 3]", "[-1]", "[1e999]",
    "[300, 70000, 2147483648]", '{"a": 1}', '{"": null}', '[["a", "b"]]', "[" * 500 + "]" * 500,
    "[" * 100_000 + "]" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000,
)  # fmt: skip
TOML = (
    "true", "false", "0", "1", "-1", "3", "2147483648", "9223372036854775807", "9223372036854775808", "1" + "0" * 400,
    "1" + "0" * 5000, "0.5", "1.5", "-0.1", "inf", "-inf", "nan", "1e308", "1e999", '""', '" "', '"x"', '"\\u0000"',
    '"a\\u0000b"', '"\\n\\u001b[2J"', '"\\uD800"', '"none"', '"zh"', '"raven"', '"world"', '"g1"', '"bytes"', '"auto"',
    "''", "[]", "[[]]", "[1]", '["a"]', "{}", "{a = 1}", "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0x10",
    "[" * 200 + "]" * 200, "[" * 20_000 + "]" * 20_000, '"' + "y" * 100_000 + '"',
    '[["a", "b"]]', '[["a"]]', '[["a", 1]]', "1_0", "'''a\nb'''", "1 2", "", "=",
)  # fmt: skip
_MARK = "\ue000raw "
_KEYS = ("", "x", "name", "type", "\0", "é", "__class__", "k" * 5000)

Edit = Callable[[Any, Random], None]


def _containers(value: Any, found: list[Any]) -> list[Any]:
    """All lists and objects in a document."""
    if isinstance(value, (dict, list)):
        found.append(value)
        for part in value.values() if isinstance(value, dict) else value:
            _containers(part, found)
    return found


def _pick(document: Any, rng: Random) -> tuple[Any, Any] | None:
    """(a list or object, a key in it); outer ones are as likely as the many inner ones."""
    filled = [container for container in _containers(document, []) if container]
    if not filled:
        return None
    container = rng.choice(filled[: rng.choice((1, 2, 4, 8, len(filled)))])
    keys = list(container) if isinstance(container, dict) else range(len(container))
    return container, rng.choice(keys)


def _replace(document: Any, rng: Random, values: Sequence[str]) -> None:
    if spot := _pick(document, rng):
        spot[0][spot[1]] = f"{_MARK}{rng.randrange(len(values))}"


def _edit(document: Any, rng: Random) -> None:
    spot, other = _pick(document, rng), _pick(document, rng)
    if not spot or not other:
        return
    (box, key), (other_box, other_key) = spot, other
    how = rng.randrange(5)
    if how == 0:
        del box[key]
    elif how == 1 and isinstance(box, dict):  # rename it
        box[rng.choice((*_KEYS, str(other_key)))] = box.pop(key)
    elif how == 2:  # repeat it
        if isinstance(box, dict):
            box[rng.choice(_KEYS)] = box[key]
        else:
            box.extend([box[key]] * rng.choice((1, 2, 100)))
    elif how == 3:
        box[key] = [box[key]]
    elif json.dumps(other_box[other_key]).find(json.dumps(box)) < 0:  # a copy, but not a cycle
        box[key] = json.loads(json.dumps(other_box[other_key]))


def _write(document: Any, rng: Random, values: Sequence[str]) -> str:
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    for mark in {f"{_MARK}{i}" for i in range(len(values))} if "\\ue000" in text or "\ue000" in text else ():
        for written in (json.dumps(mark), json.dumps(mark, ensure_ascii=False)):
            if written in text:
                text = text.replace(written, values[int(mark.removeprefix(_MARK))])
    return text


def edit_json(data: bytes, rng: Random) -> bytes:
    """Apply some edits to the document in `data`; in one case of five damage bytes too, or only bytes."""
    document = json.loads(data)
    if not isinstance(document, (dict, list)) or rng.random() < 0.1:
        return blind(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.6:
            _replace(document, rng, RAW)
        else:
            _edit(document, rng)
    text = _write(document, rng, RAW)
    if rng.random() < 0.05 and text.startswith("{") and '":' in text:  # duplicate the first key
        text = "{" + text[1 : text.index('":') + 2] + rng.choice(RAW[:60]) + "," + text[1:]
    found = text.encode("utf-8", "surrogatepass")
    return blind(found, rng) if rng.random() < 0.1 else found


def edit_lines(data: bytes, rng: Random) -> bytes:
    """A file with one document per line: one is edited, removed, duplicated, or followed by nonsense."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how < 3 and lines[i].strip():
        lines[i] = edit_json(lines[i], rng).replace(b"\n", b" ")
    elif how == 3:
        del lines[i]
    elif how == 4:
        lines[i:i] = [lines[i]] * rng.choice((1, 3))
    else:
        lines.insert(i, rng.choice((b"", b" ", b"\xef\xbb\xbf", b"x", b"[" * 100_000, b"\0", b"{}", b'{"text": "a "}')))
    return b"\n".join(lines)


def edit_toml(data: bytes, rng: Random) -> bytes:
    """Edit values, keys and tables of a file with one setting per line."""
    lines = data.decode().split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        lines = lines or [""]
        i = rng.choice([i for i, line in enumerate(lines) if line.strip()] or [0])
        key, _, value = lines[i].partition(" = ")
        how = rng.randrange(8)
        if how < 5:
            lines[i] = f"{key} = {rng.choice(TOML)}"
        elif how == 5:
            lines[i : i + 1] = [] if rng.random() < 0.5 else [lines[i], lines[i]]
        elif how == 6:
            lines[i] = f"{rng.choice(('x', 'seed', 'text', 'turns', '', 'a.b', chr(34) * 2, 'é'))} = {value}"
        else:
            lines.insert(i, rng.choice(("[chat]", "[[chat]]", "[x]", "chat = 1", "\0", "\ufeff", "# \x01")))
    found = "\n".join(lines).encode("utf-8", "surrogatepass")
    return blind(found, rng) if rng.random() < 0.2 else found
