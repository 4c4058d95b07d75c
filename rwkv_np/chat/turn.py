"""What was said: a message and its answer, and the line of them that begins with an opening.

Beside the text lie the states that the model had there, as far as they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rwkv_np.completion import Completion, Unfinished
from rwkv_np.generation import Position, Step
from rwkv_np.models.state import State
from rwkv_np.tokenizers import Tokenizer


@dataclass(eq=False)
class Turn:
    """A message and its answer.

    message       what was said, as it was typed
    prompt        the ids that were read for it
    stop          the strings that end its answer
    text          the answer, decoded from
    tokens        the ids that were read as the answer
    stop_reason   "stop", "stop_id", "length" or "interrupted"
    after_prompt  where the model stood before the answer, of the last turn
    after_answer  where it stood after it, as long as that is kept
    pending       see `completion.Unfinished`
    made          tells which states were made later than others
    """

    message: str
    prompt: tuple[int, ...]
    stop: tuple[str, ...]
    text: str = ""
    tokens: tuple[int, ...] = ()
    stop_reason: str = ""
    after_prompt: Position | None = None
    after_answer: Position | None = None
    pending: tuple[Step, ...] = ()
    made: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes that its states take in memory."""
        kept = (self.after_prompt, self.after_answer, *(step.at for step in self.pending))
        return sum(position.n_bytes for position in kept if position)

    @property
    def is_finished(self) -> bool:
        """Whether the answer ended by itself."""
        return self.stop_reason in ("stop", "stop_id")

    @property
    def unfinished(self) -> Unfinished:
        """What is needed to go on with the answer."""
        return Unfinished(self.tokens, self.pending)

    def record(self, done: Completion, tokenizer: Tokenizer, earlier: Turn | None = None) -> None:
        """Take over an answer that has ended; it may be one that goes on with an `earlier` one."""
        before = earlier.tokens[: len(earlier.tokens) - len(earlier.pending)] if earlier else ()
        self.tokens = (*before, *done.tokens)
        self.text = tokenizer.decode(self.tokens)
        self.stop_reason = done.stop_reason or ""
        self.after_prompt = earlier.after_prompt if earlier else done.after_prompt or done.position
        self.after_answer, self.pending = done.position, done.pending

    def forget(self, also_end: bool) -> None:
        """Let go of the states that can be made again from the tokens."""
        self.after_prompt, self.pending = None, ()
        if also_end:
            self.after_answer = None


@dataclass(eq=False)
class Branch:
    """One line of a conversation.

    opening  the text that is read before the first message
    start    the state after it; None until it has been read
    turns    what was said since
    """

    opening: str = ""
    start: State | None = None
    turns: list[Turn] = field(default_factory=list)

    def fork(self) -> Branch:
        """A line that begins as this one does; turns are shared, and changed in neither."""
        return Branch(self.opening, self.start, list(self.turns))
