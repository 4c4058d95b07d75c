"""Conversations in files: turns, settings, the states at the ends, and the model they belong to.

The file is a zip archive. `conversation.json` (transcript.py) is for people and other programs to read;
the arrays in it are the states after the opening and after each branch, within a budget. All other states are
computed again from the tokens. A file is written completely or not
at all, and read completely or not at all: a conversation is never half replaced.

Version 1 has all states of both ends of each branch. If one is left out, the file has version 2, which lists the states
in it: "states": ["0.start", "0.end"]. There may also be "0.answer": the state where a branch's last answer was
interrupted, including its thinking, which "0.end" does not include. Older programs ignore it, and read the thinking
again when the answer is continued.

A file may come from an untrusted source: everything is checked, and nothing beyond its size limit is unpacked.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

from rwkv_np import arguments
from rwkv_np.chat import transcript
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.said import Impossible
from rwkv_np.chat.transcript import OtherVersion, Transcript
from rwkv_np.chat.turn import Branch
from rwkv_np.errors import ConversationFileError, FileError, InputError, PathLike
from rwkv_np.files.archive import Archive, Damaged, open_archive
from rwkv_np.files.output import new_file
from rwkv_np.models.base import Model
from rwkv_np.models.state import State, read_parts
from rwkv_np.position import Position

BUDGET = 256_000_000  # bytes of states before compression: four of the largest of v7, in a file that can still be sent
_TEXT = "conversation.json"
ANSWER = ".answer"  # ends the name of the state after an answer that may be continued


def save_conversation(
    conversation: Conversation,
    path: PathLike,
    model: dict[str, str],
    overwrite: bool = False,
    mend: str = "pass overwrite=True, or another path",
    *,
    with_states: bool = True,
) -> None:
    """Write `conversation` to `path`; `model` has the name and the fingerprint of its model.

    mend         advice for the error if `path` exists and is not overwritten
    with_states  without them the file is small and written quickly, but the model reads the text again
    Raises       OutputError, InputError: it is too long for a file
    """
    positions = _chosen(_positions(conversation)) if with_states else {}
    text = transcript.write(conversation, model, [name for name in positions if not name.endswith(ANSWER)])
    with new_file(path, overwrite=overwrite, durable=True, mend=mend) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_TEXT, text, zipfile.ZIP_DEFLATED)
        for name, position in positions.items():
            _write_position(archive, name, position)


def _positions(conversation: Conversation) -> dict[str, Position]:
    """The positions at both ends of each branch that are in memory: "0.start", "0.end", ...

    The most important come first: the end of the current branch, which is computed if necessary; the ends
    of the others, the latest first; then the starts.
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
    """The positions of answers that may be continued, if the next message is read without their thinking.

    A finished answer is rarely continued, and its tokens are then read again: a state is larger than most files.
    """
    last = ((i, branch.turns[-1]) for i, branch in branches if branch.turns)
    return {f"{i}{ANSWER}": turn.after_answer for i, turn in last if turn.remembered and not turn.is_finished}


def _at_start(branch: Branch) -> Position | None:
    return None if branch.start is None else Position(None, branch.start)


def _made(branch: Branch) -> int:
    return branch.turns[-1].made if branch.turns else 0


def _chosen(positions: dict[str, Position]) -> dict[str, Position]:
    """The first position, and as many of the others as fit into the budget.

    One with inf or NaN, from a damaged model or a state at the end of float32, would not be read again.
    """
    chosen: dict[str, Position] = {}
    n_bytes = 0
    for name, position in positions.items():
        if (not chosen or n_bytes + position.n_bytes <= BUDGET) and _is_finite(position):
            chosen[name] = position
            n_bytes += position.n_bytes
    return chosen


def _is_finite(position: Position) -> bool:
    logits = position.logits
    return bool(np.isfinite(position.state.data).all() and (logits is None or np.isfinite(logits).all()))


def _write_position(archive: zipfile.ZipFile, name: str, position: Position) -> None:
    for part, array in {"logits": position.logits, **position.state.parts}.items():
        if array is not None:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array))
            archive.writestr(f"{name}.{part}.npy", buffer.getvalue(), zipfile.ZIP_DEFLATED)


def load_conversation(path: PathLike, like: Conversation, model: dict[str, str]) -> Conversation:
    """The conversation that was saved to `path`, to be continued with the model and tokenizer of `like`.

    Raises ConversationFileError: it is damaged, or belongs to a model of another fingerprint; OSError
    """
    try:
        with open_archive(path) as archive:
            n_ids = min(like.model.config.vocab_size, like.tokenizer.vocab_size)
            said = transcript.read(archive.read(_TEXT, transcript.LIMIT), like.params, n_ids)
            _check_model(path, said.model, model)
            return _restore(said, archive, like)
    except (Damaged, Impossible, InputError) as error:
        raise ConversationFileError(
            path, f"is damaged or not a saved conversation ({error}); expected a file that /save wrote"
        ) from error
    except OtherVersion as error:
        raise ConversationFileError(path, f"{error}. Upgrade it: pip install -U rwkv-np") from error
    except FileError as error:
        raise ConversationFileError(path, error.problem) from error


def _check_model(path: PathLike, saved: dict[str, str], model: dict[str, str]) -> None:
    if saved["fingerprint"] != model["fingerprint"]:
        raise ConversationFileError(
            path,
            f"was saved with {saved['name']}, but {model['name']} is loaded. A saved conversation works only with the "
            f"same model file, not even with another data type of the model: start the chat with {saved['name']}",
        )
    if saved.get("state") != model.get("state"):
        began = "from another state" if saved.get("state") else "without a state"
        raise ConversationFileError(path, f"started {began}. Start the chat with the same --state, or without one")
    if (epsilon := saved.get("head_epsilon")) != model.get("head_epsilon"):
        mend = f"with --head-epsilon {epsilon}" if epsilon else "without --head-epsilon"
        raise ConversationFileError(path, f"started {mend}. Start the chat {mend}")


def _restore(said: Transcript, archive: Archive, like: Conversation) -> Conversation:
    restored = Conversation(like.model, like.tokenizer, said.template, said.params, cache=like.cache)
    restored.keep_thoughts, restored.start, restored.n_asked = like.keep_thoughts, like.start, said.n_asked
    restored.lookup, restored.draft = like.lookup, like.draft
    restored.branches = said.branches
    for name, branch in _within_budget(said, archive, like.model):
        _put(branch, name, _read_position(archive, name, like.model))
    restored.switch(said.branch)
    if restored.turns:
        restored.keep_states(restored.turns[-1])
    return restored


def _put(branch: Branch, name: str, position: Position) -> None:
    """Give the branch the state of that name."""
    if name.endswith(".start"):
        branch.start = position.state
    elif name.endswith(ANSWER):
        branch.turns[-1].after_answer = position
    else:
        branch.turns[-1].end = position


def _within_budget(said: Transcript, archive: Archive, model: Model) -> list[tuple[str, Branch]]:
    """The names of the states to read, with their branches; the current branch's come first.

    An untrusted file may have any number of states, each only a few bytes when compressed. Those over the budget are
    left out: they are computed again from the tokens if necessary.
    """
    found = [
        (branch_name != said.branch, f"{i}{end}", branch)
        for end in (".end", ".start", ANSWER)
        for i, (branch_name, branch) in enumerate(said.branches.items())
        if f"{i}{end}" in said.states or end == ANSWER and branch.turns and f"{i}{end}.logits.npy" in archive
    ]
    n_room = max(1, BUDGET // (model.state_layout.n_bytes + 4 * model.config.vocab_size))
    return [(name, branch) for _, name, branch in sorted(found, key=lambda entry: entry[0])[:n_room]]


def _read_position(archive: Archive, name: str, model: Model) -> Position:
    layout = model.state_layout
    state = State.from_parts(layout, layout.architecture, read_parts(archive, layout, f"{name}."))
    return Position(_read_logits(archive, f"{name}.logits", model) if not name.endswith(".start") else None, state)


def _read_logits(archive: Archive, name: str, model: Model) -> np.ndarray:
    header, shape = archive.header(name), (model.config.vocab_size,)
    if header.shape != shape or header.dtype.newbyteorder("=") != np.float32:
        raise Damaged(f"{name} has {header.dtype} values of shape {header.shape}; expected float32 of {shape}")
    logits = archive.array(name, header.n_bytes).astype(np.float32)
    arguments.finite(name, logits)
    return logits
