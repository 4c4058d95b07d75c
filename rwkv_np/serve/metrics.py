"""Metrics for Prometheus: durations, load, and what the cache saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rwkv_np.serve.scheduler import Observer

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_COLUMNS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)

Stats = Callable[[], Mapping[str, float]]


class _Gauges(Collector):
    """The engine's current figures, read at each request."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self._stats().items():
            yield GaugeMetricFamily(f"rwkv_np_{name}", f"{name.replace('_', ' ')}, now", value)


class Metrics(Observer):
    """One server's metrics. Any thread may update them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("rwkv_np_requests", "Answered requests", ("route", "status"), registry=registry)
        self.rejected = Counter("rwkv_np_rejected", "Requests refused", ("why",), registry=registry)
        self.prompt_tokens = Counter("rwkv_np_prompt_tokens", "Tokens of prompts", registry=registry)
        self.cached_tokens = Counter("rwkv_np_cached_tokens", "Of these, not read again", registry=registry)
        self.tokens = Counter("rwkv_np_tokens", "Tokens written", registry=registry)
        self.guesses = Counter("rwkv_np_guessed_tokens", "Tokens guessed and read ahead", registry=registry)
        self.right_guesses = Counter("rwkv_np_right_guesses", "Of these, chosen", registry=registry)
        self._first = self._histogram("first_token_seconds", "From a request to its first token", _SECONDS)
        self._between = self._histogram("between_tokens_seconds", "Between two tokens of a request", _STEPS)
        self._whole = self._histogram("request_seconds", "From a request to its end", _SECONDS)
        self._queue = self._histogram("queue_seconds", "Waiting before the prompt is read", _SECONDS)
        self._step = self._histogram("step_seconds", "One step of the engine", _STEPS)
        self._choice = Counter("rwkv_np_choice_seconds", "Choosing the next tokens", registry=registry)
        self._columns = self._histogram("step_columns", "Tokens in one step", _COLUMNS)

    def watch(self, stats: Stats) -> None:
        """Also report the figures of `stats`."""
        self.registry.register(_Gauges(stats))

    def text(self) -> bytes:
        """All metrics, in Prometheus' format."""
        return generate_latest(self.registry)

    # --- called by the wire

    def first(self, seconds: float) -> None:
        """A request's first token arrived."""
        self._first.observe(seconds)

    def between(self, seconds: float) -> None:
        """The next token arrived."""
        self._between.observe(seconds)

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request was answered, with that status."""
        self.requests.labels(route, str(status)).inc()
        self._whole.observe(seconds)

    # --- called by the engine

    def started(self, waited: float, n_cached: int, n_prompt: int) -> None:
        """The engine starts to read a request's prompt, after it waited `waited` seconds."""
        self._queue.observe(waited)
        self.prompt_tokens.inc(n_prompt)
        self.cached_tokens.inc(n_cached)

    def stepped(self, seconds: float, n_writing: int, n_read: int) -> None:
        """A step processed one token of each of `n_writing` answers and `n_read` tokens of prompts."""
        self._step.observe(seconds)
        self._columns.observe(n_writing + n_read)
        self.tokens.inc(n_writing)

    def chose(self, seconds: float) -> None:
        """The next tokens of a step were chosen."""
        self._choice.inc(seconds)

    def guessed(self, n_guesses: int, n_right: int) -> None:
        """A step also read `n_guesses` guessed tokens, of which `n_right` were chosen."""
        self.guesses.inc(n_guesses)
        self.right_guesses.inc(n_right)
        self.tokens.inc(n_right)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"rwkv_np_{name}", meaning, buckets=buckets, registry=self.registry)
