"""One run of the chat: a conversation, a screen, and the data kept between two messages.

line.py interprets input lines, and actions.py implements the commands on a session: both use this module, and it uses
neither.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.screen import Screen
from rwkv_np.chat.terminal import ctrl_c_interrupts, typing_unseen
from rwkv_np.chat.thinking import Answer
from rwkv_np.errors import InputError, RwkvError, one_line
from rwkv_np.files.output import check_destination
from rwkv_np.sampling import SETTINGS

LAST = "last"  # the name for /load of the last conversation that was not saved


class Session:
    """A conversation on a screen.

    model     name and fingerprint of the model file
    attached  text that /read took from files, for the next message
    draft     a message to be edited, which then takes the place of the last one
    file      where the conversation was saved to or loaded from last
    changes   settings for the answers of this line only
    fault     the last unexpected exception: a bug in the program
    last_talk the file for the last conversation that was not saved; None keeps none
    set_by    for each setting that is not a default, where it was set: an option, "/set", a file
    """

    def __init__(self, conversation: Conversation, screen: Screen, model: dict[str, str]) -> None:
        self.conversation, self.screen, self.model = conversation, screen, model
        self.attached = ""
        self.draft: str | None = None
        self.file: str | None = None
        self.changes: dict[str, Any] = {}
        self.fault: Exception | None = None
        self.set_by: dict[str, str] = {}
        self.was_interrupted = False
        self.last_talk: Path | None = None
        self._kept_in: str | None = None
        self._saves_answers = False
        self._n_saved = conversation.n_asked

    def open(self, load: str | None, save: str | None) -> None:
        """Continue the conversation in `load`; save it to `save`.

        Raises ConversationFileError, OutputError (now, not after the first answer), OSError
        """
        if load:
            self.load(load)
        if save and save != load:
            mend = f"to continue it, add --load {save}; or choose another file"
            check_destination(save, None, overwrite=False, mend=mend)
        self._kept_in, self._saves_answers = save, bool(save)

    def begin(self) -> bool:
        """Read the opening, so that the first message does not wait for it; False if Ctrl-C was pressed.

        A new conversation then continues without the opening. A loaded one needs it, and reads it later.
        """
        try:
            with self.screen.waiting():
                self.conversation.begin(self.screen.reading)
        except KeyboardInterrupt:
            if self.conversation.leave_opening_out():
                self.screen.say("opening_left_out")
            else:
                self.screen.say("given_up")
            return False
        return True

    def load(self, path: str) -> str | None:
        """Continue the conversation in `path`, with its settings. Raises ConversationFileError, OSError.

        The name `last` is the last conversation that was not saved, unless there is a file of that name. Returns the
        file of --save, to which answers were saved until now. It contains the previous conversation, so it is not
        changed; the next `save` chooses the file for further answers.
        """
        last = self.last_talk if path == LAST and not os.path.exists(path) else None
        loaded = load_conversation(last or path, self.conversation, self.model)
        self.keep_last()
        self.conversation = loaded
        self.file, self.draft = None if last else path, None
        self._n_saved = self.conversation.n_asked
        left, self._kept_in = self._kept_in, None
        self.set_by = dict.fromkeys(SETTINGS, os.path.basename(path))
        return left

    def say(self, message: str) -> None:
        """Send a message, after the text that was read from files, and show the answer."""
        text = f"{self.attached}\n{message}".strip()
        if not text:
            raise InputError("the message is empty")
        ask = self.conversation.ask if self.draft is None else self.conversation.edit
        answer = ask(text, self.screen.reading, **self.changes)
        self.show(answer, text)
        if answer.was_read:
            self.attached, self.draft = "", None

    def show(self, completion: Answer, message: str = "", *, goes_on: bool = False, name: str | None = None) -> None:
        """Show an answer as it is generated; Ctrl-C ends only this answer."""
        if name is None and not goes_on:
            name = self.conversation.template.bot
        last = self.conversation.last
        before = last.answer.lstrip() if goes_on and last else ""
        with ctrl_c_interrupts(completion), typing_unseen():
            self.screen.answer(completion, message, name or "", goes_on=goes_on, before=before)
        self.was_interrupted = completion.stop_reason == "interrupted"

    @property
    def last_answer(self) -> str:
        """The last answer as the model wrote it, without its thought; empty if there is none."""
        last = self.conversation.last
        return last.answer.strip() if last else ""

    @property
    def is_unsaved(self) -> bool:
        """Whether there are turns that are not in a file."""
        return bool(self.conversation.turns) and self._n_saved != self.conversation.n_asked

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Save the conversation to `path`, from now on its file. Raises OutputError: another one is there."""
        mend = f"/save! {path} overwrites it, or choose another name"
        # A file of this conversation is overwritten; any other file is protected.
        overwrite = overwrite or any(_is_same(path, own) for own in (self.file, self._kept_in))
        save_conversation(self.conversation, path, self.model, overwrite=overwrite, mend=mend)
        self.file, self._n_saved = path, self.conversation.n_asked
        if self._saves_answers and self._kept_in is None:
            self._kept_in = path

    def keep(self) -> None:
        """Save the conversation if --save was given and there are new answers. Raises OutputError."""
        if self._kept_in and self._n_saved != self.conversation.n_asked:
            save_conversation(self.conversation, self._kept_in, self.model, overwrite=True)
            self._n_saved = self.conversation.n_asked

    def keep_last(self) -> bool:
        """Keep an unsaved conversation as `last`; returns whether that was needed and succeeded.

        A question at the end of each short chat would annoy, and a long chat must not be lost. So one file is
        always kept. It has no states: it is small, and written in milliseconds.
        """
        if self.last_talk is None or not self.is_unsaved:
            return False
        try:
            self.last_talk.parent.mkdir(parents=True, exist_ok=True)
            save_conversation(self.conversation, self.last_talk, self.model, overwrite=True, with_states=False)
            self.last_talk.chmod(0o600)  # only for this user, like the input history
        except (RwkvError, OSError) as error:
            self.screen.error(f"the conversation could not be kept: {one_line(error)}")
            return False
        return True


def _is_same(path: str, own: str | None) -> bool:
    """Whether both name the same file, existing or not."""
    return own is not None and os.path.realpath(path) == os.path.realpath(own)
