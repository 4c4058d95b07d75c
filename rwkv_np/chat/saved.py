"""Conversations in files: turns, settings, the states at the ends, and whose states they are.

The file is a zip archive. `conversation.json` is for people and other programs to read; the
arrays beside it are the model's memory after the opening and after each branch, as far as a
budget goes. States in between, and what was left out, are made again from the tokens. It is
written whole or not at all, and read whole or not at all: no conversation is half replaced.

Version 1 has all states of both ends of each branch. Where one is left out it is version 2,
which names those that are there: "states": ["0.start", "0.end"]. Beside them may lie "0.answer":
where a branch's last answer was broken off, with its thought, which "0.end" is without. Older
programs pass over it, and read the thought again when the answer goes on.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES, Template
from rwkv_np.chat.thinking import MODES
from rwkv_np.chat.turn import Branch, Turn
from rwkv_np.errors import ConversationFileError, InputError, PathLike
from rwkv_np.files.output import new_file
from rwkv_np.files.reading import open_regular
from rwkv_np.generation import Position
from rwkv_np.models.state import State
from rwkv_np.sampling import SETTINGS

FORMAT, COMPLETE, PARTIAL = "rwkv_np conversation", 1, 2  # and the versions of files
BUDGET = 256_000_000  # bytes of states before they are compressed: four of the largest of v7, and a file to send
_TEXT = "conversation.json"
ANSWER = ".answer"  # what ends the name of the state after an answer that may go on
_TURN = ("message", "prompt", "stop", "text", "tokens", "stop_reason")
_THOUGHTS = ("lead", "plain", "remembered")  # of the turns of models that can think
_TUPLES = ("prompt", "stop", "tokens", "plain", "remembered")
# What a damaged archive, array or text makes Python raise. (NotImplementedError: of a compression that never was.)
_SIGNS_OF_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError,
)  # fmt: skip
_DAMAGED = "is damaged, or no saved conversation; expected a file that /save wrote"


def save_conversation(
    conversation: Conversation, path: PathLike, model: dict[str, str], overwrite: bool = False
) -> None:
    """Write `conversation` to `path`; `model` has the name and the fingerprint of its model. Raises OutputError."""
    positions = _chosen(_positions(conversation))
    with new_file(path, overwrite=overwrite, durable=True) as file, zipfile.ZipFile(file, "w") as archive:
        text = json.dumps(_describe(conversation, model, list(positions)), ensure_ascii=False, indent=1)
        archive.writestr(_TEXT, text, zipfile.ZIP_DEFLATED)
        for name, position in positions.items():
            _write_position(archive, name, position)


def _positions(conversation: Conversation) -> dict[str, Position]:
    """Where the model stands at both ends of each branch, as far as that is in memory: "0.start", "0.end", ...

    What matters most comes first: the end of the current branch, which is made again if need be;
    those of others, the latest first; then the starts.
    """
    conversation.position()
    branches = list(enumerate(conversation.branches.values()))
    branches.sort(key=lambda entry: (entry[1] is conversation.current_branch, _made(entry[1])), reverse=True)
    ends = {f"{i}.end": branch.turns[-1].end for i, branch in branches if branch.turns}
    starts = {f"{i}.start": _at_start(branch) for i, branch in branches}
    if not conversation.turns:  # it ends where it starts
        first = next(iter(starts))
        ends = {first: starts.pop(first), **ends}
    return {name: position for name, position in (ends | starts | _answers(branches)).items() if position}


def _answers(branches: list[tuple[int, Branch]]) -> dict[str, Position | None]:
    """Where answers stopped that may go on, if the next message is not read there but without the thought.

    One that has ended is seldom gone on with, and costs its tokens then: a state is larger than most files.
    """
    last = ((i, branch.turns[-1]) for i, branch in branches if branch.turns)
    return {f"{i}{ANSWER}": turn.after_answer for i, turn in last if turn.remembered and not turn.is_finished}


def _at_start(branch: Branch) -> Position | None:
    return None if branch.start is None else Position(None, branch.start)


def _made(branch: Branch) -> int:
    return branch.turns[-1].made if branch.turns else 0


def _chosen(positions: dict[str, Position]) -> dict[str, Position]:
    """The first of them, and of the others those that are still within the budget."""
    chosen: dict[str, Position] = {}
    n_bytes = 0
    for name, position in positions.items():
        if not chosen or n_bytes + position.n_bytes <= BUDGET:
            chosen[name] = position
            n_bytes += position.n_bytes
    return chosen


def _state_names(branches: Iterable[list[Any]]) -> list[str]:
    """The states that a complete file has, for the turns of each branch."""
    return [
        f"{i}.{end}" for i, turns in enumerate(branches) for end in (("start", "end") if turns else ("start",))
    ]


def _describe(conversation: Conversation, model: dict[str, str], states: list[str]) -> dict[str, Any]:
    c = conversation
    states = [name for name in states if not name.endswith(ANSWER)]
    is_complete = len(states) == len(_state_names(branch.turns for branch in c.branches.values()))
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
    return fields if template.lead is None else fields | {"think": template.think}


def _write_position(archive: zipfile.ZipFile, name: str, position: Position) -> None:
    for part, array in {"logits": position.logits, **position.state.parts}.items():
        if array is not None:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array))
            archive.writestr(f"{name}.{part}.npy", buffer.getvalue(), zipfile.ZIP_DEFLATED)


def load_conversation(path: PathLike, like: Conversation, model: dict[str, str]) -> Conversation:
    """The conversation that was saved to `path`, to go on with the model and tokenizer of `like`.

    Raises ConversationFileError: it is damaged, or belongs to a model of another fingerprint; OSError
    """
    try:
        with open_regular(path, ConversationFileError) as file, np.load(file, allow_pickle=False) as members:
            said = _read_text(path, members)
            _check_model(path, said["model"], model)
            return _restore(path, said, members, like)
    except _SIGNS_OF_DAMAGE as error:
        raise ConversationFileError(path, _DAMAGED) from error


def _read_text(path: PathLike, members: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(members[_TEXT])
    if said["format"] != FORMAT or not isinstance(said["version"], int):
        raise ConversationFileError(path, _DAMAGED)
    if said["version"] > PARTIAL:
        raise ConversationFileError(
            path,
            f"is of version {said['version']}; this program reads up to {PARTIAL}. Upgrade it: pip install -U rwkv-np",
        )
    return said


def _check_model(path: PathLike, saved: dict[str, str], model: dict[str, str]) -> None:
    if saved["fingerprint"] != model["fingerprint"]:
        raise ConversationFileError(
            path,
            f"belongs to {saved['name']}, and this model is {model['name']}: its memory means nothing to other "
            "weights, not even to the same model in another type. Start the chat with the model that it belongs to",
        )
    if saved.get("state") != model.get("state"):
        began = "in another state" if saved.get("state") else "without a state"
        raise ConversationFileError(path, f"began {began}. Start the chat with the --state that it began with, or none")


def _restore(path: PathLike, said: dict[str, Any], members: Any, like: Conversation) -> Conversation:
    try:
        params = replace(like.params, **{name: said["settings"][name] for name in SETTINGS})
    except InputError as error:
        raise ConversationFileError(path, f"has impossible settings: {error}") from error
    restored = Conversation(like.model, like.tokenizer, _template(said["template"]), params, cache=like.cache)
    restored.keep_thoughts, restored.start = like.keep_thoughts, like.start
    restored.branches = {}
    names = _states_of(said)
    for i, (name, fields) in enumerate(said["branches"].items()):
        branch = Branch(str(fields["opening"]), turns=[_turn(turn) for turn in fields["turns"]])
        if f"{i}.start" in names:
            branch.start = _read_position(path, members, f"{i}.start", like).state
        if f"{i}.end" in names:
            branch.turns[-1].end = _read_position(path, members, f"{i}.end", like)
        if branch.turns and f"{i}{ANSWER}.logits" in members:
            branch.turns[-1].after_answer = _read_position(path, members, f"{i}{ANSWER}", like)
        restored.branches[name] = branch
    restored.n_asked = int(said["n_asked"])
    restored.switch(said["branch"])
    if restored.turns:
        restored.keep_states(restored.turns[-1])
    return restored


def _states_of(said: dict[str, Any]) -> set[str]:
    """The names of the states in the file."""
    complete = _state_names(fields["turns"] for fields in said["branches"].values())
    names = complete if said["version"] == COMPLETE else said["states"]
    if not set(names) <= set(complete):
        raise ValueError(f"there are states of branches that there are not: {names}")
    return set(names)


def _template(said: dict[str, str]) -> Template:
    think = said.get("think", "auto")
    if think not in MODES:
        raise ValueError(f"there is no way to think {think!r}")
    return replace(TEMPLATES[said["name"]], user=said["user"], bot=said["bot"], think=think)


def _turn(fields: dict[str, Any]) -> Turn:
    names = (*_TURN, *_THOUGHTS) if "lead" in fields else _TURN
    values: dict[str, Any] = {name: fields[name] for name in names}
    return Turn(**values | {name: tuple(values[name]) for name in names if name in _TUPLES})


def _read_position(path: PathLike, members: Any, name: str, like: Conversation) -> Position:
    model = like.model
    layout = model.state_layout
    parts = {part: members[f"{name}.{part}"] for part in layout.places}
    logits = members[f"{name}.logits"] if f"{name}.logits" in members else None
    try:
        state = State.from_parts(layout, layout.architecture, parts)
    except InputError as error:
        raise ConversationFileError(path, str(error)) from error
    if logits is not None and (logits.shape, logits.dtype) != ((model.config.vocab_size,), np.float32):
        raise ConversationFileError(path, _DAMAGED)
    return Position(logits, state)
