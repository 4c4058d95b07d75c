"""A conversation: the state after everything said so far, and how the next thing is said.

It knows templates and states, not terminals. An answer that was cut short counts as far as it
was shown; one that never came (an error) leaves the conversation where it was.
"""

from __future__ import annotations

from dataclasses import replace

from rwkv_np.chat.templates import SEPARATOR, Template
from rwkv_np.completion import Completion, generate
from rwkv_np.generation import Progress
from rwkv_np.models.base import Model
from rwkv_np.sampling import SamplingParams
from rwkv_np.state import State
from rwkv_np.tokenizers import Tokenizer


class Conversation:
    """Turns between a person and a model."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, template: Template, params: SamplingParams
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.params = replace(params, stop=(*params.stop, *template.stop))
        self._state: State | None = None
        self._answer: Completion | None = None
        self._n_asked = 0

    @property
    def state(self) -> State | None:
        """The state after the last answer that ended; None before the first."""
        if self._answer is not None and self._answer.state is not None:
            return self._answer.state
        return self._state

    def ask(self, message: str, progress: Progress | None = None) -> Completion:
        """Say `message`; iterate over what is returned for the answer."""
        self._state = self.state
        # The separator that ended the last answer was rolled back with its stop string.
        prompt = self.template.turn(message)
        if self._state is not None:
            prompt = SEPARATOR + prompt
        self._answer = generate(self.model, self.tokenizer, prompt, self._turn_params(), self._state, progress)
        self._n_asked += 1
        return self._answer

    def _turn_params(self) -> SamplingParams:
        """The same seed for every turn would give a model that says little the same answer each time."""
        if self.params.seed is None:
            return self.params
        return replace(self.params, seed=self.params.seed + self._n_asked)

    def reset(self) -> None:
        """Forget everything that was said."""
        self._state = self._answer = None
        self._n_asked = 0
