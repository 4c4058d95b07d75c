"""Decode a body's bytes into its struct; an error becomes a 400 that names the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from rwkv_np.errors import as_line
from rwkv_np.serve.errors import ApiError, wrong

T = TypeVar("T")

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`", re.DOTALL)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str = "the body") -> T:
    """The struct of a body, or of what else is named. Raises ApiError."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(str(error), what) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong(None, f"{what} is not valid JSON: {as_line(str(error))}", "invalid_json") from None
    except RecursionError:
        raise wrong(None, f"{what} is nested too deeply", "invalid_json") from None


def _explained(said: str, whole: str) -> ApiError:
    """The message of msgspec, with the path of the field: "messages[0].role"."""
    found = _PLACE.search(said)
    # "[...]" stands for any key of a mapping.
    place, what = (found[1].replace("[...]", ""), said[: found.start()]) if found else ("", said)
    for pattern, tells in ((_UNKNOWN, "is not a known field"), (_MISSING, "is missing")):
        if field := pattern.search(what):
            name = as_line(f"{place}.{field[1]}".lstrip("."), 100)
            return wrong(name, f"{name} {tells}", "unknown_field" if pattern is _UNKNOWN else "missing_field")
    name = as_line(place, 100)
    if "null`, got" in what and what.startswith("Expected `null`"):
        return wrong(name, f"{name} is not supported by this server; omit it", "unsupported_field")
    return wrong(name or None, f"{name or whole}: {as_line(what)}", "invalid_value")


def is_deep(value: object, most: int) -> bool:
    """Whether lists and objects in `value` are nested more than `most` levels deep. (Not recursive: JSON may be
    deep.)"""
    level = [value]
    for _ in range(most + 1):
        level = [
            member
            for each in level
            if isinstance(each, (dict, list))
            for member in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
