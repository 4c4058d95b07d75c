"""What each command does to a session. The names of the commands are in commands.py.

Every function takes the session and the rest of the line. If one raises, nothing has changed.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from typing import Any

from rwkv_np.chat import clipboard
from rwkv_np.chat.export import as_markdown
from rwkv_np.chat.opening import Opening
from rwkv_np.chat.session import Session
from rwkv_np.chat.settings import SWITCHES, describe_settings, parse_setting
from rwkv_np.chat.templates import FREE, TEMPLATES, Template
from rwkv_np.chat.thinking import MODES
from rwkv_np.errors import InputError, TextError
from rwkv_np.files.output import new_file
from rwkv_np.files.reading import MESSAGE_LIMIT, read_text_file
from rwkv_np.memory import resident_anonymous
from rwkv_np.text import decode_utf8


class Leave(Exception):
    """The user wants to exit."""


# --- answers


def answer_again(session: Session, _: str) -> None:
    c = session.conversation
    aside = c.last if c.last is c.aside else None
    session.show(c.answer_again(aside, session.screen.reading, **session.changes), _message(session))


def answer_turn_again(session: Session, _: str) -> None:
    again = session.conversation.answer_again(None, session.screen.reading, **session.changes)
    session.show(again, session.conversation.turns[-1].message)


def answer_aside_again(session: Session, _: str) -> None:
    c = session.conversation
    if c.aside is None:
        raise InputError("nothing has been generated with /gen, /i, /qa or /qq yet")
    session.show(c.answer_again(c.aside, **session.changes), c.aside.message)


def continue_answer(session: Session, _: str) -> None:
    on = session.conversation.continue_answer(session.screen.reading, **session.changes)
    session.show(on, _message(session), goes_on=True)


def _message(session: Session) -> str:
    last = session.conversation.last
    return last.message if last else ""


def edit(session: Session, text: str) -> None:
    if not session.conversation.turns:
        raise InputError("there is no message to edit yet")
    session.draft = session.conversation.turns[-1].message
    if text:
        session.say(text)
    else:
        session.screen.say("edit")


def generate(session: Session, text: str) -> None:
    _ask_aside(session, text, FREE)


def instruct(session: Session, text: str) -> None:
    _ask_aside(session, text, TEMPLATES["instruction"])


def ask_alone(session: Session, text: str) -> None:
    _ask_aside(session, text, TEMPLATES["qa"])


def ask_after_opening(session: Session, text: str) -> None:
    _ask_aside(session, text, session.conversation.template, after_opening=True)


def _ask_aside(session: Session, text: str, template: Template, *, after_opening: bool = False) -> None:
    completion = session.conversation.ask_aside(
        text, template, session.screen.reading, after_opening=after_opening, **session.changes
    )
    session.show(completion, text, name=template.bot)


# --- the conversation


def undo(session: Session, n: str) -> None:
    if n and not n.isdigit():
        raise InputError(f"/undo {n}: expected a number of turns to undo, as in /undo 2")
    undone = session.conversation.undo(int(n or 1))
    session.screen.say("undone", said=_shortened(undone[0].message), left=len(session.conversation.turns))


def reset(session: Session, _: str) -> None:
    session.keep_last()
    session.conversation.reset()
    session.attached = ""
    session.screen.say("reset")


def begin_with(session: Session, text: str) -> None:
    c = session.conversation
    if not text:
        session.screen.show(c.opening or session.screen.language.say("no_opening"))
        return
    if not c.template.is_dialogue:
        raise InputError(
            f"the template {c.template.name} has single turns and does not support an opening; "
            "start the chat with --template raven, world or g1 for one that does"
        )
    session.keep_last()
    c.reset(Opening(text=text).render(c.template), session.screen.reading)
    session.screen.say("system")


def fork(session: Session, name: str) -> None:
    if name:
        session.conversation.fork(name)
        session.screen.say("forked", name=name)
    else:
        _list_branches(session)


def switch(session: Session, name: str) -> None:
    if name:
        session.conversation.switch(name)
        session.screen.say("switched", name=name)
        _show_last(session)
    else:
        _list_branches(session)


def _list_branches(session: Session) -> None:
    c = session.conversation
    for name, branch in c.branches.items():
        last = f"  {_shortened(branch.turns[-1].message)}" if branch.turns else ""
        session.screen.show(f"{'*' if name == c.branch else ' '} {name} ({len(branch.turns)}){last}")


def save(session: Session, path: str) -> None:
    _save(session, path, overwrite=False)


def save_over(session: Session, path: str) -> None:
    _save(session, path, overwrite=True)


def _save(session: Session, text: str, *, overwrite: bool) -> None:
    path = _path(text) or session.file or ""
    if not path:
        raise InputError("name a file, as in /save talk.chat")
    session.save(path, overwrite=overwrite)
    session.screen.say("saved", path=path, turns=len(session.conversation.turns))


def load(session: Session, text: str) -> None:
    path = _path(text)
    left = session.load(path)
    session.screen.say("loaded", path=path, turns=len(session.conversation.turns))
    if left:
        session.screen.say("left", path=left)
    _show_last(session)


def export(session: Session, path: str) -> None:
    _export(session, path, overwrite=False)


def export_over(session: Session, path: str) -> None:
    _export(session, path, overwrite=True)


def _export(session: Session, text: str, *, overwrite: bool) -> None:
    path = _path(text)
    mend = f"/export! {path} overwrites it, or choose another name"
    data = as_markdown(session.conversation, session.model["name"]).encode()
    with new_file(path, overwrite=overwrite, mend=mend) as file:
        file.write(data)
    session.screen.say("exported", path=path, turns=len(session.conversation.turns))


def copy_answer(session: Session, _: str) -> None:
    text = session.last_answer
    if not text:
        raise InputError("there is no answer to copy yet")
    program = clipboard.copy(text)
    session.screen.say("copied" if program else "copied_by_terminal", characters=len(text), program=program)


def _path(text: str) -> str:
    """A file name as the user typed it."""
    if not text.isprintable():
        raise InputError(f"{text!r} is not a file name: it contains a line break or another control character")
    return os.path.expanduser(text)


def _show_last(session: Session) -> None:
    c = session.conversation
    if c.turns:
        session.screen.show(f"{c.template.user}: {c.turns[-1].message}\n{c.template.bot}:{c.turns[-1].answer}")


# --- settings and information


def change_setting(session: Session, text: str) -> None:
    name, value = parse_setting(text)
    if name in SWITCHES:
        setattr(session.screen, name, bool(value))
    else:
        changed: dict[str, Any] = {name: value}
        session.conversation.params = replace(session.conversation.params, **changed)
        session.set_by[name] = "/set"
    session.screen.note(f"{name} = {value}")


def show_settings(session: Session, _: str) -> None:
    c = session.conversation
    session.screen.show(describe_settings(c.params, session.screen.switches, c.template.name, session.set_by))


def think(session: Session, mode: str) -> None:
    c = session.conversation
    if c.template.lead is None:
        raise InputError(f"the template {c.template.name} does not support thinking; g1 does")
    if mode and mode not in MODES:
        raise InputError(f"/think {mode}: expected one of {', '.join(MODES)}")
    if mode:
        c.template = replace(c.template, think=mode)
    session.screen.note(f"think = {c.template.think}")


def show_thought(session: Session, _: str) -> None:
    last = session.conversation.last
    thought = (last.thought or "").strip() if last else ""
    if not thought:
        raise InputError("the last answer has no thinking; /think on turns it on for a G1 model")
    session.screen.show_thought(thought)


def show_stats(session: Session, _: str) -> None:
    c, say = session.conversation, session.screen.language.say
    state = c.state()
    n_tokens = sum(len(turn.prompt) + len(turn.tokens) for turn in c.turns)
    m = c.model.config
    lines = [
        say("stats_model", model=session.model["name"], layers=m.n_layer, embd=m.n_embd, type=m.data_type),
        say("stats_talk", branch=c.branch, turns=len(c.turns), tokens=n_tokens),
        say("stats_state", size=f"{state.n_bytes / 1e6:.2f}"),
    ]
    if memory := resident_anonymous():
        lines.append(say("memory", size=f"{memory / 1e9:.2f}"))
    session.screen.show("\n".join(lines))


def show_tokens(session: Session, text: str) -> None:
    tokenizer = session.conversation.tokenizer
    ids = tokenizer.encode(text)
    pieces = (f"{token} {_piece(tokenizer.token_bytes(token))}" for token in ids)
    session.screen.show("  ".join(pieces))
    session.screen.say("tokens", tokens=len(ids), characters=len(text))


def _piece(data: bytes) -> str:
    """A token as a string, or as bytes if it is part of a character."""
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)


def read_file(session: Session, path: str) -> None:
    text = decode_utf8(read_text_file(_path(path), MESSAGE_LIMIT, TextError), path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    session.attached = f"{session.attached}\n{text}".strip()
    session.screen.say("read", path=path, tokens=len(session.conversation.tokenizer.encode(text.strip())))


def show_traceback(session: Session, _: str) -> None:
    if session.fault is None:
        raise InputError("no internal error has occurred")
    session.screen.show("".join(traceback.format_exception(session.fault)).rstrip())


def leave(session: Session, _: str) -> None:
    raise Leave


def _shortened(text: str, length: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
