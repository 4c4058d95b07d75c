"""From text to text: stream an answer in whole characters, and end it at a stop string.

A stop string may span several tokens, and one token may contain the end of the answer and the start of the stop string.
So text is held back while it could still become a stop string. When it does, the state is restored to just before it:
neither the reader nor the model sees the stop string. (Programs that only compare token ids write one paragraph too
many, or spoil the next turn.)

A state to restore is saved only where a stop string could begin. Most tokens pass straight through: this code takes
microseconds per token, while a small model takes 3 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from rwkv_np import arguments
from rwkv_np.draft_model import DraftModel, check_draft
from rwkv_np.drafts import Drafts, Guesser
from rwkv_np.errors import InputError
from rwkv_np.generation import End, Progress, Step, generate_tokens
from rwkv_np.lookup import Lookup
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.sampling import SamplingParams
from rwkv_np.stop_strings import StopStrings, n_unfinished
from rwkv_np.tokenizers import TextStream, Tokenizer


@dataclass
class Timings:
    """Tokens and seconds of reading the prompt and of generating the answer.

    passes  how often the weights were read for the answer: less often than once per token if guesses were right
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    passes: int = 0


@dataclass(frozen=True)
class Unfinished:
    """An interrupted text: what is needed to continue it.

    tokens   all tokens of the text
    pending  the last of these. Their text was shown, but it may still be the start of a stop string,
             or it ends inside a character
    """

    tokens: tuple[int, ...] = ()
    pending: tuple[Step, ...] = ()


class _Piece(NamedTuple):
    """Facts about a token id, computed once.

    text           its text between whole characters
    is_plain       whether it has whole characters, and no part of a stop string
    may_be_undone  whether the state before it may have to be restored
    """

    data: bytes
    text: str
    is_plain: bool
    may_be_undone: bool


class Completion(Iterator[str]):
    """An answer being written: iterate over it for pieces of text.

    tokens        ids of the text, all of them once it has ended
    text          the text so far; after an `unfinished` text, it starts with that one's pending part
    position      the model's position after `text`, or None while it is still being written
    state         its state
    n_new         how many tokens were generated, not counting those of an unfinished text
    after_prompt  the model's position after the prompt, or None while the prompt is being read
    stop_reason   None while writing, then "stop" (a stop string), "stop_id", "length" or "interrupted"
    pending       after an interruption: see Unfinished
    timings       tokens and seconds
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompt: str | Sequence[int],
        params: SamplingParams,
        start: State | Position | None = None,
        progress: Progress | None = None,
        *,
        unfinished: Unfinished | None = None,
        on_end: Callable[[Completion], None] | None = None,
        guessers: Sequence[Guesser] | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self.position: Position | None = None
        self.after_prompt: Position | None = None
        self.stop_reason: str | None = None
        self._model, self._tokenizer, self._on_end = model, tokenizer, on_end
        self._stops = StopStrings(params.stop)
        self._pieces: dict[int, _Piece] = {}
        self.prompt = tuple(tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else prompt)
        if not isinstance(start, Position):
            start = Position(None, model.initial_state() if start is None else start)
        self._start = start
        unfinished = unfinished or Unfinished()
        self._take_up(unfinished)
        self._is_interrupted = False
        self._drafts = Drafts([Lookup()] if guessers is None else guessers)
        self._drafts.extend(unfinished.tokens)
        self._steps = generate_tokens(
            model, self.prompt, params, start, said=unfinished.tokens,
            needs_position=lambda token: self._piece(token).may_be_undone,
            is_interrupted=lambda: self._is_interrupted, progress=progress, drafts=self._drafts,
        )  # fmt: skip
        self.timings = Timings(prompt_tokens=len(self.prompt))

    def _take_up(self, unfinished: Unfinished) -> None:
        """Continue from where the text was interrupted."""
        # The last tokens in which a stop string can still begin, starting at the first byte of a character.
        self._pending = list(unfinished.pending)
        # A token without a position cannot be undone. Such tokens come from a text that had no stop strings.
        while self._stops and self._pending and not self._pending[0].at:
            self.tokens.append(self._pending.pop(0).token)
        # Their bytes, and how many of them have been shown.
        self._data = b"".join(self._piece(step.token).data for step in self._pending)
        self._shown = len(self._data)
        self._stream = TextStream()
        self.text = self._stream.push(self._data)
        self._n_before = len(unfinished.pending)

    @property
    def state(self) -> State | None:
        return self.position.state if self.position else None

    @property
    def was_read(self) -> bool:
        """Whether the prompt was read to its end."""
        return self.after_prompt is not None or (self.position is not None and self.position is not self._start)

    @property
    def n_new(self) -> int:
        return max(0, len(self.tokens) - self._n_before)

    @property
    def pending(self) -> tuple[Step, ...]:
        return tuple(self._pending) if self.stop_reason in ("length", "interrupted") else ()

    def __reduce__(self) -> NoReturn:
        raise InputError("a running completion cannot be copied or pickled; its text, tokens and state can")

    def interrupt(self) -> None:
        """End the answer before its next token. May be called from a signal handler or a thread."""
        self._is_interrupted = True

    def __next__(self) -> str:
        while self.stop_reason is None:
            piece = self._next_piece()
            self.text += piece
            if self.stop_reason and self._on_end:
                self._on_end(self)
            if piece:
                return piece
        raise StopIteration

    def _next_piece(self) -> str:
        begin = time.perf_counter()
        try:
            step = next(self._steps)
        except StopIteration as end:
            self._take_time(begin)
            return self._finish(end.value)
        self._take_time(begin)
        if self.after_prompt is None:
            self.after_prompt = step.at
        return self._push(step)

    def _take_time(self, begin: float) -> None:
        seconds = time.perf_counter() - begin
        if self.after_prompt is None:
            self.timings.prompt_seconds += seconds
        else:
            self.timings.seconds += seconds
            self.timings.tokens += 1
            self.timings.passes = self._drafts.n_passes

    def _piece(self, token: int) -> _Piece:
        found = self._pieces.get(token)
        if found is None:
            data = self._tokenizer.token_bytes(token)
            may_be_undone = self._stops.may_begin_in(data)
            is_plain = not may_be_undone and not n_unfinished(data)
            found = self._pieces[token] = _Piece(data, data.decode(errors="replace"), is_plain, may_be_undone)
        return found

    def _push(self, step: Step) -> str:
        piece = self._piece(step.token)
        if piece.is_plain and not self._pending:
            self.tokens.append(step.token)
            return piece.text
        self._pending.append(step)
        self._data += piece.data
        stop = self._stops.find(self._data)
        if stop >= 0:
            return self._cut(stop)
        return self._show(len(self._data) - self._stops.n_withheld(self._data))

    def _show(self, end: int) -> str:
        """Return the text of the pending bytes before `end` that has not been shown yet."""
        text = self._stream.push(self._data[self._shown : end])
        self._shown = max(self._shown, end)
        self._let_go(end)
        return text

    def _let_go(self, end: int) -> None:
        """Drop the pending tokens before the byte `end`: they can no longer be undone."""
        n, size = self._whole_tokens(end)
        self.tokens += [step.token for step in self._pending[:n]]
        self._data, self._shown = self._data[size:], self._shown - size
        del self._pending[:n]

    def _whole_tokens(self, end: int) -> tuple[int, int]:
        """How many pending tokens lie wholly before the byte `end`, and how many bytes they have.

        The last of them ends a character: if the stop string begins inside the next token, the rest of that token must
        be text that can be encoded again.
        """
        n = size = at = 0
        for i, step in enumerate(self._pending):
            at += len(self._piece(step.token).data)
            if at > end:
                break
            if self._is_between_characters(at):
                n, size = i + 1, at
        return n, size

    def _is_between_characters(self, at: int) -> bool:
        begins = self._data[at : at + 1]
        return (begins and begins[0] & 0xC0 != 0x80) or not n_unfinished(self._data[:at])

    def _cut(self, at: int) -> str:
        """End the text where a stop string begins, at the byte `at` of the pending bytes."""
        if at < self._shown:  # an unfinished text was interrupted inside the stop string
            self.text = self.text.removesuffix(self._data[at : self._shown].decode(errors="ignore"))
            text = ""
        else:
            text = self._stream.push(self._data[self._shown : at]) + self._stream.flush()
        self._steps.close()
        self.stop_reason, self.position = "stop", self._go_back(at)
        return text

    def _go_back(self, end: int) -> Position:
        """The model's position after it has read exactly the text before the byte `end`."""
        n, size = self._whole_tokens(end)
        whole = [step.token for step in self._pending[:n]]
        # The stop string began inside a token: the model reads the text before the stop string instead.
        rest = self._tokenizer.encode(self._data[size:end].decode(errors="replace")) if size < end else []
        self.tokens += whole + rest
        # The next token has a position, unless it was generated with other stop strings.
        start = max(i for i, step in enumerate(self._pending[: n + 1]) if step.at)
        position, again = self._pending[start].at, whole[start:] + rest
        assert position is not None
        return Position(*self._model.forward(again, position.state)) if again else position

    def _finish(self, end: End) -> str:
        text = self._stream.push(self._data[self._shown :]) + self._stream.flush()
        self.tokens += [step.token for step in self._pending]
        self.stop_reason, self.position = end.reason, end.at
        return text


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    params: SamplingParams | None = None,
    state: State | None = None,
    progress: Progress | None = None,
    *,
    lookup: bool = True,
    draft: Model | None = None,
) -> Completion:
    """Continue `prompt` (text or token ids) after what `state` has read.

    lookup   whether to guess tokens from earlier places with the same words (docs/performance.md): the answer is the
             same to the last byte, and comes faster if it repeats something
    draft    a small model with the same vocabulary, which guesses what lookup does not find
    Returns  an iterator over pieces of text, which also has `text`, `tokens`, `stop_reason` and,
             once it has ended, the `state` after the text
    Raises   InputError: the prompt is empty or does not fit the model, a state of another model, or bad arguments
    """
    arguments.one_of("model", model, Model, "a model from rwkv_np.load")
    arguments.one_of("tokenizer", tokenizer, Tokenizer, "a tokenizer from rwkv_np.load_tokenizer")
    params = SamplingParams() if params is None else params
    arguments.one_of("params", params, SamplingParams, "SamplingParams")
    if state is not None:
        model.check_state(state, changes=False)
    ids = tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else arguments.token_ids("the prompt", prompt)
    if not len(ids):
        raise InputError("the prompt is empty; expected at least one token")
    guessers: list[Guesser] = [Lookup()] if lookup else []
    if draft is not None:
        guessers.append(DraftModel(check_draft(draft, model)))
    return Completion(model, tokenizer, [int(token) for token in ids], params, state, progress, guessers=guessers)
