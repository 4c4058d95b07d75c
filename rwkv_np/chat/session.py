"""One run of the chat: a conversation, a screen, and what is kept between two messages.

line.py interprets input lines, and actions.py has what commands do to a session: both are built on
it, and it knows neither.
"""

from __future__ import annotations

import os
from typing import Any

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.screen import Screen
from rwkv_np.chat.terminal import ctrl_c_interrupts, typing_unseen
from rwkv_np.chat.thinking import Answer
from rwkv_np.errors import InputError
from rwkv_np.files.output import check_destination
from rwkv_np.sampling import SETTINGS


class Session:
    """A conversation on a screen.

    model     name and fingerprint of the model file
    attached  text that /read took from files, for the next message
    draft     a message to be edited, which then takes the place of the last one
    file      where the conversation was saved to or loaded from last
    changes   settings for the answers of this line alone
    fault     the last unexpected exception: a bug in the program
    set_by    what set each setting that somebody set: an option, "/set", a file
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
        self._kept_in: str | None = None
        self._n_kept = conversation.n_asked

    def open(self, load: str | None, save: str | None) -> None:
        """Continue the conversation in `load`; save it to `save`.

        Raises ConversationFileError, OutputError (now, not after the first answer), OSError
        """
        if load:
            self.load(load)
        if save and save != load:
            mend = f"to continue it, add --load {save}; or choose another file"
            check_destination(save, None, overwrite=False, mend=mend)
        self._kept_in = save

    def begin(self) -> bool:
        """Read the opening, so that the first message does not wait for it; False if Ctrl-C was pressed.

        A new conversation then continues without the opening. A loaded one needs it, and reads it later.
        """
        try:
            self.conversation.begin(self.screen.reading)
        except KeyboardInterrupt:
            if self.conversation.leave_opening_out():
                self.screen.say("opening_left_out")
            else:
                self.screen.say("given_up")
            return False
        return True

    def load(self, path: str) -> None:
        """Go on with the conversation in `path`, and its settings. Raises ConversationFileError, OSError."""
        self.conversation = load_conversation(path, self.conversation, self.model)
        self.file, self.draft = path, None
        self._n_kept = self.conversation.n_asked  # nothing new: what --save named keeps what it has
        self.set_by = dict.fromkeys(SETTINGS, os.path.basename(path))

    def say(self, message: str) -> None:
        """Send a message, with what was read from files before it, and show the answer."""
        text = f"{self.attached}\n{message}".strip()
        if not text:
            raise InputError("the message is empty")
        ask = self.conversation.ask if self.draft is None else self.conversation.edit
        answer = ask(text, self.screen.reading, **self.changes)
        self.show(answer, text)
        if answer.was_read:
            self.attached, self.draft = "", None

    def show(self, completion: Answer, message: str = "", *, goes_on: bool = False, name: str | None = None) -> None:
        """Show an answer as it is made; Ctrl-C ends it, and only it."""
        if name is None and not goes_on:
            name = self.conversation.template.bot
        with ctrl_c_interrupts(completion), typing_unseen():
            self.screen.answer(completion, message, name or "", goes_on=goes_on)
        self.was_interrupted = completion.stop_reason == "interrupted"

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Save the conversation to `path`, from now on its file. Raises OutputError: another one is there."""
        mend = f"/save! {path} overwrites it, or choose another name"
        # A file of this conversation is overwritten; any other file is protected.
        overwrite = overwrite or any(_is_same(path, own) for own in (self.file, self._kept_in))
        save_conversation(self.conversation, path, self.model, overwrite=overwrite, mend=mend)
        self.file = path

    def keep(self) -> None:
        """Save the conversation if --save was given and there are new answers. Raises OutputError."""
        if self._kept_in and self._n_kept != self.conversation.n_asked:
            save_conversation(self.conversation, self._kept_in, self.model, overwrite=True)
            self._n_kept = self.conversation.n_asked


def _is_same(path: str, own: str | None) -> bool:
    """Whether both name the same file, existing or not."""
    return own is not None and os.path.realpath(path) == os.path.realpath(own)
