"""From text to text: stream an answer, whole characters only, and end it where it ends.

A stop string may be spread over tokens, and a token may hold the end of the answer and the
start of the stop. So text is held back while it could still become a stop string, and when
it does, the state goes back to just before it: neither the reader nor the model ever meets it.
(Programs that watch token ids alone write one paragraph too many, or spoil the next turn.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rwkv_np.generation import End, Position, Progress, Step, generate_tokens
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import TextStream, Tokenizer


@dataclass
class Timings:
    """Tokens and seconds of reading the prompt, and of what was written after it."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Unfinished:
    """A text that was broken off, as far as going on with it needs it.

    tokens  all of it
    held    the last of these: their text, though it was shown, may still begin a stop string
    """

    tokens: tuple[int, ...] = ()
    held: tuple[Step, ...] = ()


class Completion(Iterator[str]):
    """An answer being written: iterate over it for pieces of text.

    tokens       ids of the text, all of them once it has ended
    text         the text so far; what an `unfinished` one held counts, what came before that does not
    position     where the model stands after `text`, or None while it is still being written
    state        the state of that
    n_new        how many tokens were written, without those of an unfinished text
    asked        where it stood after the prompt, or None while that is being read
    stop_reason  None while writing, then "stop" (a stop string), "stop_id", "length" or "interrupted"
    held         once it was broken off: see Unfinished
    timings      what it took
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
    ) -> None:
        self.tokens: list[int] = []
        self.position: Position | None = None
        self.asked: Position | None = None
        self.stop_reason: str | None = None
        self._model, self._tokenizer, self._on_end = model, tokenizer, on_end
        unfinished = unfinished or Unfinished()
        self.prompt = tuple(tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else prompt)
        if not isinstance(start, Position):
            start = Position(None, model.initial_state() if start is None else start)
        self._start = start
        self._steps = generate_tokens(
            model, self.prompt, params, start, said=unfinished.tokens,
            is_interrupted=lambda: self._is_interrupted, progress=progress,
        )  # fmt: skip
        self._is_interrupted = False
        self._stops = [stop.encode() for stop in params.stop]
        # The last tokens, from a character's first byte on: their text may yet become a stop string.
        self._held: list[Step] = list(unfinished.held)
        # Their bytes, and how many of these have been given out.
        self._data = b"".join(tokenizer.token_bytes(step.token) for step in self._held)
        self._shown = len(self._data)
        self._stream = TextStream()
        self.text = self._stream.push(self._data)
        self._n_before = len(self._held)
        self.timings = Timings(prompt_tokens=len(self.prompt))

    @property
    def state(self) -> State | None:
        return self.position.state if self.position else None

    @property
    def was_read(self) -> bool:
        """Whether the prompt was read to its end."""
        return self.asked is not None or (self.position is not None and self.position is not self._start)

    @property
    def n_new(self) -> int:
        return max(0, len(self.tokens) - self._n_before)

    @property
    def held(self) -> tuple[Step, ...]:
        return tuple(self._held) if self.stop_reason in ("length", "interrupted") else ()

    def interrupt(self) -> None:
        """End the answer before its next token. May be called from a signal handler or a thread."""
        self._is_interrupted = True

    def __next__(self) -> str:
        while self.stop_reason is None:
            try:
                piece = self._push(self._next_step())
            except StopIteration as end:
                piece = self._finish(end.value)
            self.text += piece
            if self.stop_reason and self._on_end:
                self._on_end(self)
            if piece:
                return piece
        raise StopIteration

    def _next_step(self) -> Step:
        begin = time.perf_counter()
        try:
            step = next(self._steps)
        finally:
            self._take_time(time.perf_counter() - begin)
        self.asked = self.asked or step.at
        return step

    def _take_time(self, seconds: float) -> None:
        if self.asked is None:
            self.timings.prompt_seconds += seconds
        else:
            self.timings.seconds += seconds
            self.timings.tokens += 1

    def _push(self, step: Step) -> str:
        self._held.append(step)
        self._data += self._tokenizer.token_bytes(step.token)
        found = [at for stop in self._stops if (at := self._data.find(stop)) >= 0]
        if found:
            return self._cut(min(found))
        return self._show(len(self._data) - self._n_withheld())

    def _n_withheld(self) -> int:
        """How many of the last bytes could be the start of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for n in range(min(longest, len(self._data)), 0, -1):
            if any(stop.startswith(self._data[-n:]) for stop in self._stops):
                return n
        return 0

    def _show(self, end: int) -> str:
        """Give out the held bytes before `end`, as far as that has not been done."""
        piece = self._stream.push(self._data[self._shown : end])
        self._shown = max(self._shown, end)
        self._let_go(end)
        return piece

    def _let_go(self, end: int) -> int:
        """Let go of the tokens that lie wholly before `end`; returns where that is in what is left.

        A token is let go of only where the next byte begins a character: should the stop begin
        inside a later token, what is left of that one must be text that can be encoded again.
        """
        while (size := self._size_of_first()) <= end and size < len(self._data):
            if self._data[size] & 0xC0 == 0x80:  # the middle of a character
                break
            self.tokens.append(self._held.pop(0).token)
            self._data, self._shown, end = self._data[size:], self._shown - size, end - size
        return end

    def _size_of_first(self) -> int:
        return len(self._tokenizer.token_bytes(self._held[0].token))

    def _cut(self, at: int) -> str:
        """End the text where a stop string begins, at that byte of what is held."""
        if at < self._shown:  # an unfinished text had been broken off inside the stop
            self.text = self.text.removesuffix(self._data[at : self._shown].decode(errors="ignore"))
            piece = ""
        else:
            piece = self._show(at) + self._stream.flush()
            at = self._shown
        end = self._let_go(at)
        position = self._held[0].at
        if end:
            # The stop began inside a token: the model reads the text before it in its stead.
            ids = self._tokenizer.encode(self._data[:end].decode(errors="replace"))
            position = Position(*self._model.forward(ids, position.state))
            self.tokens += ids
        self._steps.close()
        self.stop_reason, self.position = "stop", position
        return piece

    def _finish(self, end: End) -> str:
        piece = self._stream.push(self._data[self._shown :]) + self._stream.flush()
        self.tokens += [step.token for step in self._held]
        self.stop_reason, self.position = end.reason, end.at
        return piece


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    params: SamplingParams | None = None,
    state: State | None = None,
    progress: Progress | None = None,
) -> Completion:
    """Continue `prompt` (text or token ids) after what `state` has read.

    Returns  an iterator over pieces of text, which also has `text`, `tokens`, `stop_reason` and,
             once it has ended, the `state` after the text
    Raises   InputError: the prompt is empty or does not fit the model
    """
    return Completion(model, tokenizer, prompt, params or SamplingParams(), state, progress)
