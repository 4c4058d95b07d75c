"""The opening of a conversation: what the model reads before the first message.

Without context a base model may answer in any style; a few lines of dialogue show it who speaks, in which language and
at what length. The bundled openings are files in the same format as a user's own:

    text = "The following is ..."            # how it begins; optional
    turns = [["a message", "its answer"]] # earlier messages and answers; optional
    user = "Bob"                             # names other than the template's; optional
    bot = "Alice"

{user} and {bot} in them stand for the names. A JSON file may have the same keys, or those of
rwkv.cpp's chat prompts: "prompt", "user", "assistant" and "separator".
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwkv_np.chat.templates import NAME_LIMIT, Template, closed_up, tidy
from rwkv_np.errors import InputError, PathLike, SettingsFileError
from rwkv_np.files.reading import SETTINGS_LIMIT, read_regular
from rwkv_np.text import decode_utf8, excerpt, find_surrogate, parse_json
from rwkv_np.toml import read_toml

_FOLDER = Path(__file__).parent / "openings"
_RWKV_CPP = {"prompt": "text", "assistant": "bot"}


@dataclass(frozen=True)
class Opening:
    """The text read before the first message; every part is optional."""

    text: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    bot: str | None = None

    def named(self, template: Template) -> Template:
        """`template` with the names of this opening."""
        return replace(template, user=self.user or template.user, bot=self.bot or template.bot)

    def render(self, template: Template) -> str:
        """The text that the model reads, without the separator that ends its last turn."""
        if not template.is_dialogue and (self.text or self.turns):
            raise InputError(
                f"the template {template.name} has single turns and does not support an opening; "
                "omit --opening and --system, or choose --template raven, world or g1"
            )
        if self.text.strip() and not template.has_system:
            raise InputError(f"the template {template.name} of this model has no system text; omit it")
        text = template.introduce(self.text) if self.text.strip() else ""
        turns = [template.turn(message) + template.answered(closed_up(answer)) for message, answer in self.turns]
        parts = [text or template.begin, *turns]
        text = template.separator.join(tidy(part) for part in parts if part.strip())
        return text.replace("{user}", template.user).replace("{bot}", template.bot)


NO_OPENING = Opening()


def bundled_opening(template: Template, language: str) -> Opening:
    """The opening of that language for models of that family; empty if they need none."""
    if not template.has_openings:
        return NO_OPENING
    return read_opening(_FOLDER / f"{template.name}-{language}.toml")


def read_opening(path: PathLike) -> Opening:
    """The opening in a TOML or JSON file. Raises SettingsFileError, OSError."""
    found = _read_json(path) if os.fspath(path).endswith(".json") else read_toml(path)
    turns = found.pop("turns", [])
    if not _are_pairs(turns):
        raise SettingsFileError(path, 'turns is not a list of pairs; expected turns = [["message", "answer"], ...]')
    keys = ("text", "user", "bot")
    for key, value in found.items():
        if key not in keys:
            raise SettingsFileError(path, f"has the key {excerpt(key)}; expected {', '.join(keys)} or turns")
        if not isinstance(value, str):
            raise SettingsFileError(path, f"{key} is {excerpt(value)}; expected a string")
        if key != "text" and len(value) > NAME_LIMIT:
            raise SettingsFileError(path, f"{key} has {len(value):,} characters; expected at most {NAME_LIMIT}")
    if half := find_surrogate("".join([*found.values(), *(part for turn in turns for part in turn)])):
        raise SettingsFileError(path, f"contains {half}, half a surrogate pair; expected text in UTF-8")
    return Opening(turns=tuple((message, answer) for message, answer in turns), **found)


def _are_pairs(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn) for turn in turns
    )


def _read_json(path: PathLike) -> dict[str, Any]:
    data = read_regular(path, SETTINGS_LIMIT, SettingsFileError)
    try:
        found = parse_json(decode_utf8(data, path))
    except ValueError as error:  # also a number without an end, or a list in lists
        raise SettingsFileError(path, f"is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsFileError(path, f"contains a {type(found).__name__}; expected an object with text and turns")
    if found.pop("separator", ":") != ":":
        raise SettingsFileError(path, "separator is not a colon; every RWKV chat model expects one")
    return {_RWKV_CPP.get(str(key), str(key)): value for key, value in found.items()}
