"""The thread that owns the model: other threads submit requests, and this one calls their listeners.

The kernels release Python's global interpreter lock while they run, so the wire keeps working.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from rwkv_np.kernels.sample import SMALL
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.sampler import Sampler, choose_each
from rwkv_np.sampling import SamplingParams
from rwkv_np.serve.limits import EngineLimits
from rwkv_np.serve.pace import Pace
from rwkv_np.serve.request import Draining, Listener, Refused, Request
from rwkv_np.serve.scheduler import Observer, Scheduler
from rwkv_np.serve.states import StateCache
from rwkv_np.serve.waiting import Ticket, Waiting

_IDLE = 0.5  # seconds: the longest delay until a missed deadline in an idle queue is noticed


class Worker:
    """Answers requests until it is stopped.

    on_step  called in the worker's thread, once after each step in which listeners were called
    initial  the state before every prompt; None: the empty state
    pace     as in Scheduler
    lookup   whether to guess tokens while few answers are generated
    """

    def __init__(
        self,
        model: Model,
        limits: EngineLimits | None = None,
        on_step: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
        initial: State | None = None,
        pace: Pace | None = None,
        *,
        lookup: bool = True,
    ) -> None:
        self.model, self.initial, self.limits = model, initial, limits or EngineLimits()
        self.waiting = Waiting(self.limits.waiting, self.limits.waiting_tokens)
        self.cache = StateCache(self.limits.cache_bytes)
        self.scheduler = Scheduler(
            model, self.waiting, self.cache, self.limits.running, observer, initial, pace, lookup=lookup
        )
        self._on_step = on_step
        self._has_work = threading.Event()
        self._is_draining = self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="rwkv-np engine", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._prepare()
        self._thread.start()

    def _prepare(self) -> None:
        """Compile the kernels that choose, or load them from the cache, so that no answer waits for it."""
        n_vocab = self.model.config.vocab_size
        for n_rows in (1, max(2, -(-SMALL // n_vocab))):  # one row; and as many as several threads work on
            samplers = [Sampler(SamplingParams()) for _ in range(n_rows)]
            choose_each(samplers, np.zeros((n_rows, n_vocab), np.float32), getattr(self.model, "n_threads", None))

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Submit a request; from any thread.

        Raises Refused (or Draining): too much work, retry later; InputError: the model cannot answer this
        """
        if self._is_draining:
            raise Draining("the server is shutting down and accepts no new requests")
        self.limits.check(request, self.model.config.vocab_size)
        self._check_wait()
        ticket = Ticket(request, listener, time.monotonic(), wake=self._has_work.set)
        self.waiting.add(ticket)
        self._has_work.set()
        return ticket

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the server is shutting down."""
        return self._is_draining

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def drain(self, timeout: float) -> bool:
        """Refuse new requests and finish the others, which fail after `timeout` seconds. Returns whether all were
        finished.

        Blocks until then.
        """
        self._is_draining = True
        end = time.monotonic() + timeout
        while not self.scheduler.is_idle and time.monotonic() < end:
            time.sleep(0.02)
        is_finished = self.scheduler.is_idle
        self.stop()
        return is_finished

    def stop(self) -> None:
        """End the thread; unfinished requests fail."""
        self._is_draining = self._is_stopped = True
        self._has_work.set()
        if self._thread.is_alive():
            self._thread.join()

    def _check_wait(self) -> None:
        """Raise Refused if the prompts before this one would take too long."""
        rate = self.scheduler.pace.tokens_per_second
        if rate and (wait := self.scheduler.n_left / rate) > self.limits.wait_seconds:
            raise Refused(f"there are {wait:.0f} seconds of work already; try again later", wait)

    def _run(self) -> None:
        while not self._is_stopped:
            self._has_work.clear()
            if self.scheduler.step():
                self._on_step()
            elif not self._is_stopped:
                self._has_work.wait(_IDLE if len(self.waiting) else None)
        self.scheduler.fail_all(Draining("the server was stopped before this was answered"))
        self._on_step()
