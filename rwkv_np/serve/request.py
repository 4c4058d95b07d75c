"""The interface between the wire and the engine: token ids only.

One thread owns the model (`worker.py`). A request is submitted with a listener. The thread calls the listener's `take`
for each token of each answer, and then `end`. A listener must not block: the same thread computes the next tokens of
all answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from rwkv_np.errors import RwkvError
from rwkv_np.sampling import SamplingParams


class Logprob(NamedTuple):
    """A token's log probability from the model itself: before penalties, bias and temperature.

    token    its id
    logprob  the natural logarithm of its probability
    top      the most likely tokens (id, logprob), the most likely first, as many as requested
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Guide(Protocol):
    """Which tokens may come next in an answer, for example by a JSON schema. One for each answer."""

    def allowed(self) -> np.ndarray:
        """(V,) bool: whether each token may come next. At the end, a token that ends the answer is allowed."""

    def accept(self, token: int) -> None:
        """The answer continues with this token."""


@dataclass(frozen=True)
class Request:
    """A prompt, and how to answer it.

    prompt      its ids: at least one, all in the model's vocabulary
    params      how tokens are chosen, and `stop_ids`. `stop` and `max_tokens` are not used here: the listener
                handles strings
    max_tokens  the most tokens of an answer; 0 only reads the prompt
    n           how many answers; each has its own seed, derived from `params.seed`
    top         None, or the number of most likely tokens for which `take` gets log probabilities, 0 to 20
    echo        whether the prompt's own tokens get log probabilities too. Then the cache is not used
    marks       prompt positions whose state is worth keeping: the ends of its messages
    owner       the client: waiting requests are served in turns, owner by owner
    salt        requests share states only with requests of the same salt, so that a client cannot find out
                by timing what another client has sent
    deadline    on the clock of time.monotonic(); None: no limit
    guides      a guide for each answer, or none
    """

    prompt: np.ndarray
    params: SamplingParams
    max_tokens: int
    n: int = 1
    top: int | None = None
    echo: bool = False
    marks: tuple[int, ...] = ()
    owner: str = ""
    salt: str = ""
    deadline: float | None = None
    guides: Sequence[Guide] = field(default=())


class Listener(Protocol):
    """Receives the answers. The engine's thread calls these methods, and soon after calls `Worker.on_step`."""

    def prompt_read(self, n_cached: int, logprobs: Sequence[Logprob] | None) -> None:
        """The prompt has been read. `n_cached` of its tokens came from the cache; with `echo`, there are log
        probabilities.

        The first token has no probability: `logprobs` begins with the second.
        """

    def take(self, index: int, token: int, logprob: Logprob | None) -> str | None:
        """Answer `index` continues with `token`. Returns None, or the reason why the answer ends here ("stop")."""

    def end(self, index: int, reason: str) -> None:
        """Answer `index` has ended: "stop_id" (a stop id, which `take` never gets), "length", or the result of
        `take`."""

    def fail(self, error: Exception) -> None:
        """There will be no (more) answers."""


class Refused(RwkvError):
    """There is too much work already; the client may retry after `retry_after` seconds."""

    def __init__(self, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class Draining(Refused):
    """The server is shutting down and accepts no new requests."""


class TimedOut(RwkvError):
    """A request's deadline passed before its answers were complete."""


class Ticket(Protocol):
    """A request that was submitted."""

    def cancel(self) -> None:
        """Cancel the answers: they end within a step, and the listener is not called again."""


Submit = Callable[[Request, Listener], Ticket]
"""`Worker.submit`: may be called from any thread. Raises Refused, InputError."""
