"""The chat template inside a GGUF file: which of ours it is, and with which names.

A file contains a program in the Jinja language. Nearly all RWKV files have the same one, which renders the form of
our World and G1 templates. It is recognized by its text or its checksum. Another one is rendered for a
few known conversations: if it has our form, the names are taken from it, and whether an answer starts with thinking.
If it has marks around each message, as ChatML, these are taken (`marked.py`). Other forms are not supported: a note
says so, and our own template is used.

The program is a stranger's. It runs in Jinja's sandbox, in a child process with little time and memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rwkv_np.chat.marked import CHATS, PROBES, marked
from rwkv_np.chat.templates import G1, SEPARATOR, Template, template_for
from rwkv_np.errors import PathLike
from rwkv_np.files.gguf import GgufFile, is_gguf

KEY = "tokenizer.chat_template"
WORLD = Path(__file__).parents[1] / "data" / "rwkv-world.jinja"  # what we write; it renders what llama.cpp's renders
# SHA-256 of the text that llama.cpp's converter writes.
LLAMA_CPP = "e70723034f0928096207d99b2ec4678950361f290f5341c017d957f88b196935"
MOST_CHARACTERS = 100_000  # the largest templates of 2026 have 20,000
TIME_LIMIT_S = 10.0
MEMORY_LIMIT = 2**29

_NAME = r"[^\s:](?:[^\n:]{0,38}[^\s:])?"
_THINK = {"": "auto", " <think": "on", " <think>": "on", " <think>\n</think": "off", " <think>\n</think>": "off"}

Notify = Callable[[str], None]


def template_of(path: PathLike, vocab_size: int, architecture: str, notify: Notify) -> Template:
    """The template of the model file at `path`: that in the file if it has one, else that of its family.

    notify  gets a line if the file's own cannot be used
    """
    own = template_for(vocab_size, architecture, os.path.basename(path))
    text = GgufFile(path).metadata.get(KEY) if is_gguf(path) else None
    if not isinstance(text, str) or _is_known(text):
        return own
    rendered = _rendered(text)
    if rendered is None:
        notify(
            f"The chat template in the file could not be rendered; using {own.name}. To render it: "
            "pip install 'rwkv-np[gguf]'"
        )
        return own
    found = _matched(own, *rendered[:2]) or marked(rendered)
    if found is None:
        notify(f"The chat template in the file has a form that is not supported; using {own.name}")
    return found or own


def _is_known(text: str) -> bool:
    """Whether the text is empty, the name of the usual template, or one of the two texts of it."""
    if text in ("", "rwkv-world") or text == WORLD.read_text(encoding="utf-8"):
        return True
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() == LLAMA_CPP


def _matched(own: Template, first: str | None, third: str | None) -> Template | None:
    """`own` with the names of a rendered conversation; None if it has another form."""
    if first is None or third is None:
        return None
    one = re.fullmatch(rf"\s*({_NAME}): {PROBES[0]}{SEPARATOR}({_NAME}):(.*)", first, re.DOTALL)
    if one is None:
        return None
    user, bot, lead = one.groups()
    turns = f"{user}: {PROBES[0]}{SEPARATOR}{bot}: {PROBES[1]}{SEPARATOR}{user}: {PROBES[2]}{SEPARATOR}{bot}:{lead}"
    if third.strip() != turns.strip() or lead not in _THINK or (lead and not isinstance(own, G1)):
        return None
    return replace(own, user=user, bot=bot, think=_THINK[lead])


def _rendered(text: str) -> list[str | None] | None:
    """The prompts of the conversations `CHATS`; None in place of one, or of all, if the template fails.

    All fail if it takes too long, or if Jinja is not installed.
    """
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD], input=json.dumps([text, CHATS, MEMORY_LIMIT]), capture_output=True,
            text=True, encoding="utf-8", timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    if not isinstance(found, list) or len(found) != len(CHATS) or not any(found):
        return None
    return [part if isinstance(part, str) else None for part in found]


# Without an import of this package, and with the modules of the sandbox only.
_CHILD = """
import json, sys
text, chat, limit = json.load(sys.stdin)
from jinja2.sandbox import ImmutableSandboxedEnvironment
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except ImportError:
    pass
template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)

def fail(why=""):
    raise ValueError(why)

shown = []
for messages in chat:
    try:
        rendered = template.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="",
                                   raise_exception=fail)
        shown.append(rendered[:100000])
    except Exception:
        shown.append(None)
json.dump(shown, sys.stdout)
"""
