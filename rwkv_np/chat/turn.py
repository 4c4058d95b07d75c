"""A turn (a message and its answer), and a branch: turns that start with an opening.

A turn also has the states of the model at that point, as long as they are kept. Thinking belongs to
its own answer: later turns are read after the turn without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rwkv_np.chat.thinking import split_thought
from rwkv_np.completion import Completion, Unfinished
from rwkv_np.generation import Step
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.tokenizers import Tokenizer


@dataclass(eq=False)
class Turn:
    """A message and its answer.

    message       the message, as it was typed
    prompt        the ids of its prompt
    stop          the strings that end its answer
    text          the answer with its thought: the decoded tokens
    tokens        the ids of the answer
    stop_reason   "stop", "stop_id", "length" or "interrupted"
    after_prompt  the position before the answer; kept for the last turn only
    after_answer  the position after the answer, while that is kept
    pending       see `completion.Unfinished`
    made          a counter: higher if its states were made later
    lead          the start of the answer in the prompt; None if the model does not support thinking
    plain         the prompt without that, and without a think setting
    remembered    the ids that later turns are read after, in place of prompt and tokens if there are any
    after_turn    the position after those, while that is kept
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
    lead: str | None = None
    plain: tuple[int, ...] = ()
    remembered: tuple[int, ...] = ()
    after_turn: Position | None = None

    def again(self) -> Turn:
        """The same message without its answer."""
        return Turn(self.message, self.prompt, self.stop, lead=self.lead, plain=self.plain)

    @property
    def thought(self) -> str | None:
        """The model's thinking before its answer; None if there was none."""
        return None if self.lead is None else split_thought(self.lead + self.text)[0]

    @property
    def answer(self) -> str:
        """The text without the thought."""
        return self.text if self.lead is None else split_thought(self.lead + self.text)[1]

    @property
    def end(self) -> Position | None:
        """The position where the next message is read, as long as it is kept."""
        return self.after_turn if self.remembered else self.after_answer

    @end.setter
    def end(self, position: Position) -> None:
        if self.remembered:
            self.after_turn = position
        else:
            self.after_answer = position

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids before the next message."""
        return self.remembered or (*self.prompt, *self.tokens)

    @property
    def n_bytes(self) -> int:
        """The size of its states in memory, in bytes."""
        kept = (self.after_prompt, self.after_answer, self.after_turn, *(step.at for step in self.pending))
        return sum(position.n_bytes for position in kept if position)

    @property
    def is_finished(self) -> bool:
        """Whether the answer ended by itself."""
        return self.stop_reason in ("stop", "stop_id")

    @property
    def unfinished(self) -> Unfinished:
        """What is needed to continue the answer."""
        return Unfinished(self.tokens, self.pending)

    def record(self, done: Completion, tokenizer: Tokenizer, earlier: Turn | None = None) -> None:
        """Record a finished answer; it may continue an `earlier` one."""
        before = earlier.tokens[: len(earlier.tokens) - len(earlier.pending)] if earlier else ()
        self.tokens = (*before, *done.tokens)
        self.text = tokenizer.decode(self.tokens)
        self.stop_reason = done.stop_reason or ""
        self.after_prompt = earlier.after_prompt if earlier else done.after_prompt or done.position
        self.after_answer, self.pending = done.position, done.pending

    def leave_thought_out(self, tokenizer: Tokenizer) -> None:
        """Read later turns after the answer without its thinking, as if there had been none."""
        if self.thought is not None:
            answer = self.answer.strip()
            self.remembered = (*self.plain, *(tokenizer.encode(f" {answer}") if answer else ()))

    def forget(self, also_end: bool) -> None:
        """Drop the states that can be computed again from the tokens."""
        self.after_prompt, self.pending = None, ()
        if also_end or self.remembered:  # the position after the thinking is needed only to continue the last answer
            self.after_answer = None
        if also_end:
            self.after_turn = None


@dataclass(eq=False)
class Branch:
    """One branch of a conversation.

    opening  the text that is read before the first message
    start    the state after it; None until it has been read
    turns    the turns since then
    """

    opening: str = ""
    start: State | None = None
    turns: list[Turn] = field(default_factory=list)

    def fork(self) -> Branch:
        """A copy that starts as this branch; turns are shared, and never changed."""
        return Branch(self.opening, self.start, list(self.turns))
