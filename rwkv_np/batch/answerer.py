"""A loaded model that answers rows: the server's plans and engine, for throughput instead of waiting times.

There is no client who watches an answer grow, so a step reads as many prompt tokens as fit into one pass: the weights
are read once for all of them. Several threads may submit rows; each gets its own back.
"""

from __future__ import annotations

import math
from dataclasses import replace
from queue import Empty, SimpleQueue

from rwkv_np.batch.answered import Answered, failed
from rwkv_np.batch.collecting import Collecting
from rwkv_np.batch.planned import Planned
from rwkv_np.batch.row import Row
from rwkv_np.errors import RwkvError
from rwkv_np.models import Model
from rwkv_np.models.base import Progress
from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.limits import EngineLimits
from rwkv_np.serve.loading import (
    Notify,
    Options,
    chosen_opening,
    load_all,
    name_of,
    print_of,
    prompts_of,
    start_state,
)
from rwkv_np.serve.pace import Pace
from rwkv_np.serve.served import ServedModel
from rwkv_np.serve.worker import Worker

MB = 1_000_000
_UNBOUNDED = 2**62
_LOOK_EVERY = 5.0  # seconds between two looks at the engine's thread


class Answerer:
    """Answers rows until it is stopped.

    worker  the engine, started
    seed    of the job
    """

    def __init__(self, model: ServedModel, worker: Worker, seed: int) -> None:
        self.model, self.worker, self.seed = model, worker, seed
        worker.start()

    @property
    def n_ahead(self) -> int:
        """How many rows to submit before waiting for one: those being answered, and some that can start at once."""
        running = self.worker.limits.running
        return running + max(8, running // 4)

    def stop(self) -> None:
        """Stop; rows that are not done are dropped."""
        self.worker.stop()


class Desk:
    """Rows at an answerer; `submit` and `take` may be called from different threads."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._done: SimpleQueue[Collecting | Answered] = SimpleQueue()
        self.n_open = 0

    @property
    def n_ahead(self) -> int:
        """As of the answerer."""
        return self._answerer.n_ahead

    def stop(self) -> None:
        """Stop the answerer."""
        self._answerer.stop()

    def submit(self, row: Row) -> None:
        """Have a row answered."""
        self.n_open += 1
        try:
            planned = Planned(self._answerer.model, row, self._answerer.seed)
            collecting = Collecting(planned, planned.asked(), self._done.put)
        except Exception as error:
            self._done.put(failed(row.number, row.custom_id, error))
        else:
            collecting.submit(self._answerer.worker.submit)

    def take(self) -> Answered:
        """The next row that is done, of those submitted here; waits for it. Raises RwkvError: the engine has died."""
        while True:
            try:
                return self.take_within(_LOOK_EVERY)
            except Empty:
                pass

    def take_within(self, seconds: float) -> Answered:
        """The same; raises Empty if none is done in that time."""
        if self._done.empty() and not self._answerer.worker.is_alive:
            raise RwkvError("the engine has stopped because of an error; start the job again")
        done = self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        self.n_open -= 1
        return done if isinstance(done, Answered) else done.answered()


def open_answerer(path: str, options: Options, notify: Notify, progress: Progress) -> Answerer:
    """Load the model at `path` and start its engine; `options` are those of `rwkv-np batch`."""
    opening = chosen_opening(options)
    model, tokenizer, template = load_all(path, options, notify, progress)
    running = options["max_running"]
    bounds = Bounds(seconds=math.inf, answers=running)
    if options["max_tokens"] is not None:
        bounds = replace(
            bounds, default_tokens=options["max_tokens"], max_tokens=max(bounds.max_tokens, options["max_tokens"])
        )
    served = ServedModel(
        name_of(path, options), print_of(path), tokenizer, prompts_of(tokenizer, template, opening),
        think=options["think"], bounds=bounds,
    )  # fmt: skip
    return Answerer(served, worker_of(model, options), options["seed"])


def worker_of(model: Model, options: Options) -> Worker:
    """The engine, not started. Its queue has no limit: a job submits only what it wants to wait for."""
    limits = EngineLimits(
        running=options["max_running"], waiting=_UNBOUNDED, waiting_tokens=_UNBOUNDED, wait_seconds=math.inf,
        prompt_tokens=options["max_prompt"], cache_bytes=options["cache_mb"] * MB,
    )  # fmt: skip
    return Worker(model, limits, initial=start_state(model, options), pace=Pace(math.inf))
