"""From text to text: stream an answer, whole characters only, and end it where it ends.

A stop string may be spread over tokens, and a token may hold the end of the answer and the
start of the stop. So text is held back while it could still become a stop string, and when
it does, the state goes back to just before it: neither the reader nor the model ever meets it.
(Programs that watch token ids alone write one paragraph too many, or spoil the next turn.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rwkv_np.generation import End, Progress, Step, generate_tokens
from rwkv_np.models.base import Model
from rwkv_np.sampling import SamplingParams
from rwkv_np.state import State
from rwkv_np.tokenizers import TextStream, Tokenizer


class Completion(Iterator[str]):
    """An answer being written: iterate over it for pieces of text.

    tokens       ids of the text so far, without any that are held back
    text         the text so far
    state        the state after `text`, or None while it is still being written
    stop_reason  None while writing, then "stop" (a stop string), "stop_id", "length" or "interrupted"
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompt: str | Sequence[int],
        params: SamplingParams,
        state: State | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.state: State | None = None
        self.stop_reason: str | None = None
        self._model, self._tokenizer = model, tokenizer
        ids = tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        self._steps = generate_tokens(
            model, ids, params, state, is_interrupted=lambda: self._is_interrupted, progress=progress
        )
        self._is_interrupted = False
        self._stops = [stop.encode() for stop in params.stop]
        self._held = b""  # bytes not shown yet: they may be the start of a stop string
        self._held_steps: list[Step] = []  # the tokens that those bytes came from ...
        self._shown_of_first = 0  # ... of the first of which this many bytes have been shown
        self._stream = TextStream()

    def interrupt(self) -> None:
        """End the answer before its next token. May be called from a signal handler or a thread."""
        self._is_interrupted = True

    def __next__(self) -> str:
        while self.stop_reason is None:
            try:
                piece = self._push(next(self._steps))
            except StopIteration as end:
                piece = self._finish(end.value)
            if piece:
                self.text += piece
                return piece
        raise StopIteration

    def _push(self, step: Step) -> str:
        self._held += self._tokenizer.token_bytes(step.token)
        self._held_steps.append(step)
        cut = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        if cut is not None:
            return self._cut(cut)
        return self._show(len(self._held) - self._n_withheld())

    def _n_withheld(self) -> int:
        """How many of the last bytes could be the start of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0

    def _show(self, n_bytes: int) -> str:
        """Give out the first `n_bytes` of what is held, and the tokens that lie wholly in them."""
        piece = self._stream.push(self._held[:n_bytes])
        self._held = self._held[n_bytes:]
        self._shown_of_first += n_bytes
        while self._held_steps and self._shown_of_first >= (size := self._size(self._held_steps[0])):
            self._shown_of_first -= size
            self.tokens.append(self._held_steps.pop(0).token)
        return piece

    def _size(self, step: Step) -> int:
        return len(self._tokenizer.token_bytes(step.token))

    def _cut(self, at: int) -> str:
        """End the text where a stop string begins, `at` bytes into what is held."""
        piece = self._show(at) + self._stream.flush()
        state = self._held_steps[0].state
        if self._shown_of_first:
            # The stop began inside a token: the model reads the shown part of it instead.
            rest = self._tokenizer.token_bytes(self._held_steps[0].token)[: self._shown_of_first]
            ids = self._tokenizer.encode(rest.decode(errors="replace"))
            state = self._model.forward(ids, state)[1]
            self.tokens += ids
        self._steps.close()
        self.stop_reason, self.state = "stop", state
        return piece

    def _finish(self, end: End) -> str:
        piece = self._show(len(self._held)) + self._stream.flush()
        self.stop_reason, self.state = end.reason, end.state
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
