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

    tokens       ids of the text, all of them once it has ended
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
        # The last tokens, from a character's first byte on: their text may yet become a stop string.
        self._held: list[Step] = []
        self._data = b""  # their bytes ...
        self._shown = 0  # ... of which this many have been given out
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
        self._held.append(step)
        self._data += self._tokenizer.token_bytes(step.token)
        found = [at for stop in self._stops if (at := self._data.find(stop, self._shown)) >= 0]
        if found:
            return self._cut(min(found))
        return self._show(len(self._data) - self._n_withheld())

    def _n_withheld(self) -> int:
        """How many of the last bytes could be the start of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for n in range(min(longest, len(self._data) - self._shown), 0, -1):
            if any(stop.startswith(self._data[-n:]) for stop in self._stops):
                return n
        return 0

    def _show(self, end: int) -> str:
        """Give out the held bytes before `end`, and let go of the tokens that lie wholly in them.

        A token is let go of only where the next byte begins a character: should the stop begin
        inside a later token, what is left of that one must be text that can be encoded again.
        """
        piece = self._stream.push(self._data[self._shown : end])
        self._shown = end
        while (size := self._size_of_first()) <= self._shown and size < len(self._data):
            if self._data[size] & 0xC0 == 0x80:  # the middle of a character
                break
            self.tokens.append(self._held.pop(0).token)
            self._data, self._shown = self._data[size:], self._shown - size
        return piece

    def _size_of_first(self) -> int:
        return len(self._tokenizer.token_bytes(self._held[0].token))

    def _cut(self, at: int) -> str:
        """End the text where a stop string begins, at that byte of what is held."""
        piece = self._show(at) + self._stream.flush()
        state = self._held[0].state
        if self._shown:
            # The stop began inside a token: the model reads the text before it in its stead.
            ids = self._tokenizer.encode(self._data[: self._shown].decode(errors="replace"))
            state = self._model.forward(ids, state)[1]
            self.tokens += ids
        self._steps.close()
        self.stop_reason, self.state = "stop", state
        return piece

    def _finish(self, end: End) -> str:
        piece = self._stream.push(self._data[self._shown :]) + self._stream.flush()
        self.tokens += [step.token for step in self._held]
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
