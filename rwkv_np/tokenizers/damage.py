"""What in a tokenizer.json makes the `tokenizers` library panic: found before the library meets it.

A panic of Rust prints a report of its own on stderr before Python can raise anything. Most damage the library refuses
by itself, with an error; here is only what it does not expect, found by opening damaged files (tests/fuzz) with
version 0.23. Not found here: a trie of a normalizer (Precompiled) whose links lead out of it, and texts for which the
parts of a file do not fit together.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

_LEAST_TRIE = 4 * 256  # bytes of one that has a place for each value of the first byte


def what_panics_when_loaded(data: bytes) -> str:
    """What is wrong with a file, "" where nothing is, or where the library says it."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    bad_map = next((m for m in _char_maps(content.get("normalizer")) if not _is_char_map(m)), None)
    if bad_map is not None:
        return "its normalizer (Precompiled) is cut"
    return _merge_without_token(content.get("model"))


def what_panics_in_a_step(step: dict[str, Any]) -> str:
    """What is wrong with a step of a normalizer or a pre-tokenizer, as the library has read it; "" where nothing is."""
    if step["type"] == "Prepend" and not step["prepend"]:
        return "its normalizer prepends an empty string"
    if step["type"] == "FixedLength" and not step["length"]:
        return "its pre-tokenizer makes pieces of length 0"
    return ""


def _merge_without_token(model: Any) -> str:
    """A merge of BPE whose result has no id. The library refuses it, and panics if it is longer than all tokens."""
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return ""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return ""
    lacking = {made for made in map(_merged, merges) if made is not None} - vocabulary.keys()
    return f"a merge makes {min(lacking)[:40]!r}, which is not in its vocabulary" if lacking else ""


def _merged(merge: Any) -> str | None:
    """What a merge makes that is written as the library takes it: "a b" or ["a", "b"]; else None."""
    if isinstance(merge, str) and merge.count(" ") == 1:
        return merge.replace(" ", "")
    if isinstance(merge, list) and [type(part) for part in merge] == [str, str]:
        return merge[0] + merge[1]
    return None


def _char_maps(normalizer: Any) -> Iterator[Any]:
    if isinstance(normalizer, dict):
        if "precompiled_charsmap" in normalizer:
            yield normalizer["precompiled_charsmap"]
        for inner in normalizer.get("normalizers") or ():
            yield from _char_maps(inner)


def _is_char_map(text: Any) -> bool:
    """Whether it is, in Base64, the bytes of a trie, of a length that stands before it, and then UTF-8."""
    if not isinstance(text, str):
        return True  # the library refuses it
    try:
        data = base64.b64decode(text, validate=True)
        size = int.from_bytes(data[:4], "little")
        data[4 + size :].decode()
    except (binascii.Error, ValueError):
        return False
    return _LEAST_TRIE <= size <= len(data) - 4 and size % 4 == 0
