"""The text of a saved conversation, `conversation.json`: writing it, and reading it with every value checked.

Errors are found before anything is built from it: a loaded conversation answers, undoes and saves
exactly as one that was never saved. The arrays next to the text are handled by saved.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rwkv_np.chat import marked
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.marked import MARKS, Marked
from rwkv_np.chat.said import Impossible, Said
from rwkv_np.chat.templates import NAME_LIMIT, TEMPLATES, Template
from rwkv_np.chat.thinking import MODES
from rwkv_np.chat.turn import Branch, Turn
from rwkv_np.errors import InputError
from rwkv_np.sampling import SETTINGS, SamplingParams

FORMAT, COMPLETE, PARTIAL = "rwkv_np conversation", 1, 2  # and the versions of files
# Bytes of the text. 5 million tokens have that many; and malicious JSON of that size becomes 700 MB of objects.
LIMIT = 32_000_000
_TURN = ("message", "prompt", "stop", "text", "tokens", "stop_reason")
_THOUGHTS = ("lead", "plain", "remembered")  # of the turns of models that can think
_REASONS = ("stop", "stop_id", "length", "interrupted")


class OtherVersion(Exception):
    """The file was written by a later version of the program."""


@dataclass(frozen=True)
class Transcript:
    """The validated content of the text. `states` are the names of the states next to it in the archive."""

    model: dict[str, str]
    template: Template
    params: SamplingParams
    n_asked: int
    branch: str
    branches: dict[str, Branch]
    states: frozenset[str]


def state_names(branches: Iterable[Branch]) -> list[str]:
    """The states that a complete file has: "0.start", "0.end", ..."""
    return [
        f"{i}.{end}" for i, branch in enumerate(branches) for end in (("start", "end") if branch.turns else ("start",))
    ]


# --- writing


def write(conversation: Conversation, model: dict[str, str], states: list[str]) -> bytes:
    """The text; `states` are the names of those next to it in the archive. Raises InputError: it is too long."""
    text = json.dumps(_describe(conversation, model, states), ensure_ascii=False, indent=1)
    # Ids side by side: with a line for each, two thirds of the text were line breaks and space. (A JSON string contains
    # no real line break, and a member's name is in quotes, so it cannot begin with a digit.)
    data = re.sub(r"\n +(?=\d)", " ", text).encode()
    if len(data) > LIMIT:
        raise InputError(
            f"the conversation has {len(data):,} bytes of text; the limit of a file is {LIMIT:,}. "
            "Make it shorter: /undo N, or /reset"
        )
    return data


def _describe(conversation: Conversation, model: dict[str, str], states: list[str]) -> dict[str, Any]:
    c = conversation
    is_complete = len(states) == len(state_names(c.branches.values()))
    return {
        "format": FORMAT,
        "version": COMPLETE if is_complete else PARTIAL,
        **({} if is_complete else {"states": sorted(states)}),
        "model": model,
        "template": _template_fields(c.template),
        "settings": {name: getattr(c.params, name) for name in SETTINGS},
        "n_asked": c.n_asked,
        "branch": c.branch,
        "branches": {name: _branch_fields(branch) for name, branch in c.branches.items()},
    }


def _branch_fields(branch: Branch) -> dict[str, Any]:
    return {"opening": branch.opening, "turns": [_turn_fields(turn) for turn in branch.turns]}


def _turn_fields(turn: Turn) -> dict[str, Any]:
    names = _TURN if turn.lead is None else (*_TURN, *_THOUGHTS)
    return {name: getattr(turn, name) for name in names}


def _template_fields(template: Template) -> dict[str, str]:
    fields = {"name": template.name, "user": template.user, "bot": template.bot}
    if isinstance(template, Marked):  # the text of each mark that the format has
        return fields | {name: mark for name in MARKS if (mark := getattr(template, name)) is not None}
    return fields if template.lead is None else fields | {"think": template.think}


# --- reading


def read(data: bytes, params: SamplingParams, vocab_size: int) -> Transcript:
    """The content of the text `data`, for a model of that vocabulary; `params` has the program's own settings.

    Raises  Impossible: a value is invalid; OtherVersion
    """
    said = Said(_parse(data))
    said["format"].one_of((FORMAT,))
    version = said["version"].whole(COMPLETE)
    if version > PARTIAL:
        raise OtherVersion(f"has version {version}; this program reads versions up to {PARTIAL}")
    branches = {name: _branch(fields, vocab_size) for name, fields in said["branches"].members()}
    return Transcript(
        model=_model(said["model"]),
        template=_template(said["template"]),
        params=_params(said["settings"], params),
        n_asked=said["n_asked"].whole(0, 2**53),
        branch=said["branch"].one_of(branches),
        branches=branches,
        states=_states(said, version, branches),
    )


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too long numbers or too deep lists
        raise Impossible(f"the text is not JSON: {error}") from error


def _states(said: Said, version: int, branches: dict[str, Branch]) -> frozenset[str]:
    complete = state_names(branches.values())
    if version == COMPLETE:
        return frozenset(complete)
    return frozenset(name.one_of(complete) for name in said["states"].items())


def _model(said: Said) -> dict[str, str]:
    names = ("name", "fingerprint", *(name for name in ("state", "head_epsilon") if name in said))
    return {name: said[name].text() for name in names}


def _template(said: Said) -> Template:
    name = said["name"].one_of((*TEMPLATES, marked.NAME))
    template = TEMPLATES[name] if name in TEMPLATES else _marked(said)
    think = said["think"].one_of(MODES) if "think" in said else "auto"
    user, bot = (said[name].text(at_most=NAME_LIMIT) for name in ("user", "bot"))
    return replace(template, user=user, bot=bot, think=think)


def _marked(said: Said) -> Marked:
    marks: dict[str, Any] = {name: said[name].text(at_most=marked.MOST_MARK) for name in MARKS if name in said}
    found = Marked(marked.NAME, said["user"].text(), said["bot"].text(), **marks)
    if not found.stop[0]:
        said["after_answer"].refuse("what ends an answer")
    return found


def _params(said: Said, params: SamplingParams) -> SamplingParams:
    try:
        return replace(params, **{name: _setting(name, said[name]) for name in SETTINGS})
    except InputError as error:
        raise Impossible(f"the settings are invalid: {error}") from error


def _setting(name: str, said: Said) -> Any:
    if name == "seed":
        return None if said.is_null else said.whole()
    return said.number() if isinstance(getattr(SamplingParams(), name), float) else said.whole()


def _branch(said: Said, vocab_size: int) -> Branch:
    return Branch(said["opening"].text(), turns=[_turn(turn, vocab_size) for turn in said["turns"].items()])


def _turn(said: Said, vocab_size: int) -> Turn:
    turn = Turn(
        said["message"].text(),
        said["prompt"].ids(vocab_size),
        said["stop"].texts(),
        said["text"].text(),
        said["tokens"].ids(vocab_size),
        said["stop_reason"].one_of(_REASONS),
    )
    if not turn.prompt:
        said["prompt"].refuse("at least one id")
    if "lead" in said:
        turn.lead = said["lead"].text()
        turn.plain, turn.remembered = said["plain"].ids(vocab_size), said["remembered"].ids(vocab_size)
    return turn
