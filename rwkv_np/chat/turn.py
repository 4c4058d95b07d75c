"""One message, its answer, and where the model stood around it."""

from __future__ import annotations

from dataclasses import dataclass

from rwkv_np.completion import Completion, Unfinished
from rwkv_np.generation import Position, Step
from rwkv_np.tokenizers import Tokenizer


@dataclass(eq=False)
class Turn:
    """A message and its answer.

    message      what was said, as it was typed
    prompt       the ids that were read for it
    stop         the strings that end its answer
    text         the answer, decoded from
    tokens       the ids that were read as the answer
    stop_reason  "stop", "stop_id", "length" or "interrupted"
    asked        where the model stood before the answer, of the last turn
    ended        where it stood after it, of the last turns
    held         see `completion.Unfinished`
    """

    message: str
    prompt: tuple[int, ...]
    stop: tuple[str, ...]
    text: str = ""
    tokens: tuple[int, ...] = ()
    stop_reason: str = ""
    asked: Position | None = None
    ended: Position | None = None
    held: tuple[Step, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the answer ended by itself."""
        return self.stop_reason in ("stop", "stop_id")

    @property
    def unfinished(self) -> Unfinished:
        """What is needed to go on with the answer."""
        return Unfinished(self.tokens, self.held)

    def record(self, done: Completion, tokenizer: Tokenizer, earlier: Turn | None = None) -> None:
        """Take over an answer that has ended; it may be one that goes on with an `earlier` one."""
        before = earlier.tokens[: len(earlier.tokens) - len(earlier.held)] if earlier else ()
        self.tokens = (*before, *done.tokens)
        self.text = tokenizer.decode(self.tokens)
        self.stop_reason = done.stop_reason or ""
        self.asked = earlier.asked if earlier else done.asked or done.position
        self.ended, self.held = done.position, done.held

    def forget(self, also_end: bool) -> None:
        """Let go of the states that can be made again from the tokens."""
        self.asked, self.held = None, ()
        if also_end:
            self.ended = None
