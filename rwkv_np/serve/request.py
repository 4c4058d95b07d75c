"""What the wire asks of the engine, and what the engine tells it: token ids only.

One thread owns the model (`worker.py`). A request is submitted with a listener, which that thread
calls: `take` for each token of each answer, and then `end`. A listener must not block: the
thread that calls it computes everybody's next token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from rwkv_np.errors import RwkvError
from rwkv_np.sampling import SamplingParams


class Logprob(NamedTuple):
    """How likely a token was, by the model's own probabilities: before penalties, bias and temperature.

    token    its id
    logprob  the natural logarithm of its probability
    top      the most likely tokens (id, logprob), the most likely first, as many as were asked for
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Guide(Protocol):
    """Which tokens an answer may go on with, such as those of a JSON schema. One for each answer."""

    def allowed(self) -> np.ndarray:
        """(V,) bool: whether each token may come next. A token that ends the answer is one of them at the end."""

    def accept(self, token: int) -> None:
        """The answer goes on with this token."""


@dataclass(frozen=True)
class Request:
    """A prompt, and how to answer it.

    prompt      its ids, at least one, all of the model's vocabulary
    params      how tokens are chosen, and `stop_ids`. `stop` and `max_tokens` are not read here: strings are
                the listener's business
    max_tokens  how many tokens an answer has at most; 0 only reads the prompt
    n           how many answers; each has its own seed, which follows from `params.seed`
    top         None, or for how many of the most likely tokens `take` gets log probabilities, 0 to 20
    echo        whether the prompt's own tokens get them too. Then nothing comes from the cache
    marks       after how many tokens of the prompt the state is worth keeping: the ends of its messages
    owner       who asks: waiting requests are served in turns, owner by owner
    salt        requests share states only with those of the same salt, so that nobody can measure
                what another one has asked
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
    """Whoever waits for the answers. The engine's thread calls these, and soon after calls `Worker.on_step`."""

    def prompt_read(self, n_cached: int, logprobs: Sequence[Logprob] | None) -> None:
        """The prompt has been read: how many of its tokens came from the cache; with `echo` what each was worth.

        The first token has no probability: `logprobs` begins with the second.
        """

    def take(self, index: int, token: int, logprob: Logprob | None) -> str | None:
        """Answer `index` goes on with `token`. Returns None, or why the answer ends here ("stop")."""

    def end(self, index: int, reason: str) -> None:
        """Answer `index` has ended: "stop_id" (a stop id, which `take` never gets), "length", or what `take` said."""

    def fail(self, error: Exception) -> None:
        """There will be no (more) answers."""


class Refused(RwkvError):
    """There is too much work already; `retry_after` is in how many seconds it is worth asking again."""

    def __init__(self, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class Draining(Refused):
    """The server is shutting down and takes no new work."""


class TimedOut(RwkvError):
    """A request's deadline passed before its answers were complete."""


class Ticket(Protocol):
    """A request that was submitted."""

    def cancel(self) -> None:
        """Nobody waits for the answers any more: they end within a step, and the listener is not called again."""


Submit = Callable[[Request, Listener], Ticket]
"""`Worker.submit`: may be called from any thread. Raises Refused, InputError."""
