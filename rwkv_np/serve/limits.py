"""How much work a server accepts. A request beyond the limits is refused at once, not after an hour in the queue."""

from __future__ import annotations

from dataclasses import dataclass

from rwkv_np.errors import InputError
from rwkv_np.serve.request import Request

MOST_ANSWERS_TOP = 20  # alternatives with log probabilities: OpenAI's limit


@dataclass(frozen=True)
class EngineLimits:
    """Limits of the engine.

    running         answers that are generated at the same time; each needs a state in memory
    waiting         requests in the queue
    waiting_tokens  tokens of all their prompts together
    prompt_tokens   tokens of one prompt
    wait_seconds    a request that would probably wait longer is refused
    cache_bytes     size of the states that are kept for prompts with the same prefix
    """

    running: int = 32
    waiting: int = 256
    waiting_tokens: int = 1_000_000
    prompt_tokens: int = 1_000_000
    wait_seconds: float = 300.0
    cache_bytes: int = 2**29

    def check(self, request: Request, vocab_size: int) -> None:
        """Raise InputError if the engine can never answer this request."""
        prompt = request.prompt
        if not prompt.size:
            raise InputError("the prompt is empty; expected at least one token")
        if prompt.size > self.prompt_tokens:
            raise InputError(f"the prompt has {prompt.size} tokens; expected at most {self.prompt_tokens}")
        if prompt.min() < 0 or prompt.max() >= vocab_size:
            raise InputError(f"the prompt contains a token id outside the vocabulary, 0 to {vocab_size - 1}")
        if not 1 <= request.n <= self.running:
            raise InputError(f"n is {request.n}; expected 1 to {self.running}")
        if request.guides and len(request.guides) != request.n:
            raise InputError(f"there are {len(request.guides)} guides for {request.n} answers")
