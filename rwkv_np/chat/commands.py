"""The commands of the chat, in one table.

The forms that begin with a plus are those of rwkv.cpp's and ChatRWKV's chats. The help text of
each command is in the language files; a test checks that none is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from rwkv_np.chat import actions
from rwkv_np.chat.session import Session
from rwkv_np.errors import InputError


@dataclass(frozen=True)
class Command:
    """A command: `argument` is its argument in the help text, in brackets if it is optional.

    completes  what the Tab key completes there
    old        its form in rwkv.cpp's chat
    also       its other names, from other chat programs
    """

    name: str
    run: Callable[[Session, str], None]
    argument: str = ""
    completes: str = ""
    old: str = ""
    also: tuple[str, ...] = ()


def _help(session: Session, name: str) -> None:
    texts, say = session.screen.language.help, session.screen.language.say
    if name:
        shown = [_by_name(f"/{name.lstrip('/+')}")]
    else:
        shown = list(COMMANDS)
    for command in shown:
        old = f"  ({command.old})" if command.old else ""
        meaning = texts.get(command.name) or say(command.name)
        session.screen.show(f"{f'/{command.name} {command.argument}':22}{meaning}{old}", indent=22)
    if not name:
        session.screen.say("keys")


COMMANDS = (
    Command("regen", actions.answer_again, old="+", also=("retry",)),
    Command("continue", actions.continue_answer, old="+++"),
    Command("undo", actions.undo, "[N]"),
    Command("edit", actions.edit, "[TEXT]"),
    Command("reset", actions.reset, old="+reset", also=("clear",)),
    Command("fork", actions.fork, "[NAME]"),
    Command("switch", actions.switch, "[NAME]", completes="branch"),
    Command("save", actions.save, "[FILE]", completes="file"),
    Command("load", actions.load, "FILE", completes="file"),
    Command("export", actions.export, "FILE.md", completes="file"),
    Command("copy", actions.copy_answer),
    Command("system", actions.begin_with, "[TEXT]"),
    Command("set", actions.change_setting, "NAME VALUE", completes="setting"),
    Command("think", actions.think, "[MODE]", completes="think"),
    Command("thought", actions.show_thought),
    Command("settings", actions.show_settings),
    Command("stats", actions.show_stats),
    Command("tokens", actions.show_tokens, "TEXT"),
    Command("read", actions.read_file, "FILE", completes="file"),
    Command("gen", actions.generate, "TEXT", old="+gen"),
    Command("i", actions.instruct, "INSTRUCTION", old="+i"),
    Command("qa", actions.ask_after_opening, "QUESTION", old="+qa"),
    Command("qq", actions.ask_alone, "QUESTION", old="+qq"),
    Command("help", _help, "[COMMAND]", completes="command"),
    Command("exit", actions.leave, also=("quit",)),
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.also)}
# Not in /help: the help of the first ones and the message of an internal error mention them.
_BY_NAME["export!"] = Command("export", actions.export_over, "FILE.md", completes="file")
_BY_NAME["save!"] = Command("save", actions.save_over, "[FILE]", completes="file")
_BY_NAME["traceback"] = Command("traceback", actions.show_traceback)
_OLD = {command.old: command for command in COMMANDS if command.old}
# In rwkv.cpp's chat "+" answers the last message again, "++" the last free generation.
_OLD |= {"+": Command("+", actions.answer_turn_again), "++": Command("++", actions.answer_aside_again)}


def find_command(line: str) -> tuple[Command, str] | None:
    """The command in `line` and its argument; None if it is a message.

    Raises InputError if it begins with a slash but is not a command. (Two slashes begin a message.)
    """
    word, argument = (*line.split(maxsplit=1), "", "")[:2]
    if line.startswith("/") and not line.startswith("//"):
        command = _by_name(word)
        if command.argument[:1].isalpha() and not argument:
            raise InputError(f"{word} needs an argument: {word} {command.argument}")
        return command, argument
    old = _OLD.get(word.lower())
    # "+1" is a message, and so is "+ 2": only commands with an argument may have one.
    if old and bool(argument) == bool(old.argument):
        return old, argument
    return None


def _by_name(word: str) -> Command:
    name = word[1:]
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = difflib.get_close_matches(name, _BY_NAME, 1, cutoff=0.5)
    mend = f"did you mean /{near[0]}?" if near else "/help lists all commands."
    raise InputError(f"{word} is not a command; {mend} (To send a message that starts with a slash, type two slashes.)")
