"""Conversations in files: turns, settings, the states at the ends, and whose states they are.

The file is a zip archive. `conversation.json` is for people and other programs to read; the
arrays beside it are the model's memory after the opening and after each branch. States in
between are made again from the tokens. It is written whole or not at all, and read whole or
not at all: a conversation at hand is never half replaced.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES, Template
from rwkv_np.chat.turn import Branch, Turn
from rwkv_np.errors import ConversationFileError, InputError, PathLike
from rwkv_np.files.output import new_file
from rwkv_np.generation import Position
from rwkv_np.models.state import State
from rwkv_np.sampling import SETTINGS

FORMAT, VERSION = "rwkv_np conversation", 1
_TEXT = "conversation.json"
_TURN = ("message", "prompt", "stop", "text", "tokens", "stop_reason")
# What a damaged archive, array or text makes Python raise. (NotImplementedError: of a compression that never was.)
_SIGNS_OF_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError,
)  # fmt: skip
_DAMAGED = "is damaged, or no saved conversation; expected a file that /save wrote"


def save_conversation(
    conversation: Conversation, path: PathLike, model: dict[str, str], overwrite: bool = False
) -> None:
    """Write `conversation` to `path`; `model` has the name and the fingerprint of its model. Raises OutputError."""
    positions = _positions(conversation)
    with new_file(path, overwrite=overwrite, durable=True) as file, zipfile.ZipFile(file, "w") as archive:
        text = json.dumps(_describe(conversation, model), ensure_ascii=False, indent=1)
        archive.writestr(_TEXT, text, zipfile.ZIP_DEFLATED)
        for name, position in positions.items():
            _write_position(archive, name, position)


def _positions(conversation: Conversation) -> dict[str, Position]:
    """Where the model stands at both ends of each branch: "0.start", "0.end", "1.start", ..."""
    positions = {}
    for i, branch in enumerate(conversation.branches.values()):
        positions[f"{i}.start"] = Position(None, conversation.begin(branch=branch))
        if branch.turns:
            positions[f"{i}.end"] = conversation.position(branch=branch)
    return positions


def _describe(conversation: Conversation, model: dict[str, str]) -> dict[str, Any]:
    c = conversation
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "template": {"name": c.template.name, "user": c.template.user, "bot": c.template.bot},
        "settings": {name: getattr(c.params, name) for name in SETTINGS},
        "n_asked": c.n_asked,
        "branch": c.branch,
        "branches": {name: _branch_fields(branch) for name, branch in c.branches.items()},
    }


def _branch_fields(branch: Branch) -> dict[str, Any]:
    turns = [{name: getattr(turn, name) for name in _TURN} for turn in branch.turns]
    return {"opening": branch.opening, "turns": turns}


def _write_position(archive: zipfile.ZipFile, name: str, position: Position) -> None:
    for part, array in {"logits": position.logits, **position.state.parts}.items():
        if array is not None:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array))
            archive.writestr(f"{name}.{part}.npy", buffer.getvalue(), zipfile.ZIP_DEFLATED)


def load_conversation(path: PathLike, like: Conversation, model: dict[str, str]) -> Conversation:
    """The conversation that was saved to `path`, to go on with the model and tokenizer of `like`.

    Raises ConversationFileError: it is damaged, or was held with a model of another fingerprint; OSError
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
            said = _read_text(path, members)
            _check_model(path, said["model"], model)
            return _restore(path, said, members, like)
    except _SIGNS_OF_DAMAGE as error:
        raise ConversationFileError(path, _DAMAGED) from error


def _read_text(path: PathLike, members: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(members[_TEXT])
    if said["format"] != FORMAT or not isinstance(said["version"], int):
        raise ConversationFileError(path, _DAMAGED)
    if said["version"] > VERSION:
        raise ConversationFileError(
            path,
            f"is of version {said['version']}; this program reads up to {VERSION}. Upgrade it: pip install -U rwkv-np",
        )
    return said


def _check_model(path: PathLike, saved: dict[str, str], model: dict[str, str]) -> None:
    if saved["fingerprint"] != model["fingerprint"]:
        raise ConversationFileError(
            path,
            f"was held with {saved['name']}, and the model here is {model['name']}: its memory means nothing to other "
            "weights, not even to the same model in another type. Start the chat with the model that it belongs to",
        )


def _restore(path: PathLike, said: dict[str, Any], members: Any, like: Conversation) -> Conversation:
    try:
        params = replace(like.params, **{name: said["settings"][name] for name in SETTINGS})
    except InputError as error:
        raise ConversationFileError(path, f"has impossible settings: {error}") from error
    restored = Conversation(like.model, like.tokenizer, _template(said["template"]), params, cache=like.cache)
    restored.branches = {}
    for i, (name, fields) in enumerate(said["branches"].items()):
        start = _read_position(path, members, f"{i}.start", like).state
        branch = Branch(str(fields["opening"]), start, [_turn(turn) for turn in fields["turns"]])
        if branch.turns:
            branch.turns[-1].after_answer = _read_position(path, members, f"{i}.end", like)
        restored.branches[name] = branch
    restored.n_asked = int(said["n_asked"])
    restored.switch(said["branch"])
    return restored


def _template(said: dict[str, str]) -> Template:
    return replace(TEMPLATES[said["name"]], user=said["user"], bot=said["bot"])


def _turn(fields: dict[str, Any]) -> Turn:
    values: dict[str, Any] = {name: fields[name] for name in _TURN}
    return Turn(**values | {name: tuple(values[name]) for name in ("prompt", "stop", "tokens")})


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
