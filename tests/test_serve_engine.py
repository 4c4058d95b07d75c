"""The engine of the server: every answer is the same as alone, whatever else is running and whatever is in the
cache."""

import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from conftest import random_parameters, write_model
from rwkv_np.kernels.sample import SMALL

import rwkv_np
from rwkv_np.errors import InputError
from rwkv_np.position import Position
from rwkv_np.sampler import Sampler
from rwkv_np.sampling import SamplingParams
from rwkv_np.serve.limits import EngineLimits
from rwkv_np.serve.logprobs import logprob_of
from rwkv_np.serve.pace import MOST, Pace
from rwkv_np.serve.request import Draining, Refused, Request, TimedOut
from rwkv_np.serve.scheduler import Scheduler
from rwkv_np.serve.sequences import Reading
from rwkv_np.serve.states import Found, StateCache
from rwkv_np.serve.waiting import Ticket, Waiting
from rwkv_np.serve.worker import Worker

VOCAB = 101
NEUTRAL = SamplingParams(top_p=1, presence_penalty=0, frequency_penalty=0, stop_ids=(0,), seed=1)


@pytest.fixture(scope="module", params=["v4", "v7"])
def model(request, tmp_path_factory):
    """A small random model: one version with heads, and one without."""
    options = {} if request.param == "v4" else {"head_size": 32, "ranks": (16, 4, 12, 40)}
    arrays = random_parameters(np.random.default_rng(0), 2, 64, 64, VOCAB, request.param, **options)
    return rwkv_np.load(write_model(tmp_path_factory.mktemp("serve") / "model.bin", arrays, "Q4_1"), threads=1)


@dataclass
class Heard:
    """A listener that records its calls; `stop` is a token after which it ends an answer."""

    stop: int = -1
    n_cached: int = -1
    prompt: list = None
    tokens: dict = field(default_factory=dict)
    logprobs: dict = field(default_factory=dict)
    reasons: dict = field(default_factory=dict)
    error: Exception = None

    def prompt_read(self, n_cached, logprobs):
        self.n_cached, self.prompt = n_cached, logprobs

    def take(self, index, token, logprob):
        self.tokens.setdefault(index, []).append(token)
        self.logprobs.setdefault(index, []).append(logprob)
        return "stop" if token == self.stop else None

    def end(self, index, reason):
        assert index not in self.reasons
        self.reasons[index] = reason

    def fail(self, error):
        assert self.error is None
        self.error = error

    @property
    def result(self):
        return self.tokens, self.logprobs, self.reasons, self.prompt, self.error


def ask(prompt, **options):
    params = replace(NEUTRAL, **options.pop("params", {}))
    return Request(np.asarray(prompt, np.int64), params, options.pop("max_tokens", 12), **options)


def scheduler(model, slots=8, cache=2**24):
    return Scheduler(model, Waiting(1000, 10**6), StateCache(cache), slots)


def add(engine, request, stop=-1):
    ticket = Ticket(request, Heard(stop), time.monotonic())
    engine.waiting.add(ticket)
    return ticket


def run(engine, most=10_000):
    for _ in range(most):
        if engine.is_idle:
            return
        engine.step()
    raise AssertionError("the engine does not come to an end")


def alone(model, request, stop=-1):
    """The request's answers, computed one token at a time without other requests."""
    heard = Heard(stop)
    state, rows = model.initial_state(), []
    for token in request.prompt.tolist():
        rows.append(model.advance(token, state))
    if request.echo:
        following = request.prompt[1:].tolist()
        heard.prompt = [logprob_of(row, token, request.top or 0) for row, token in zip(rows, following)]
    for index in range(request.n):
        params = request.params
        sampler = Sampler(params)
        if index and params.seed is not None:
            sampler.reseed([params.seed, index])
        here, logits = state.copy(), rows[-1]
        reason = None if request.max_tokens else "length"
        while reason is None:
            token = sampler.choose(logits)
            if token in params.stop_ids:
                reason = "stop_id"
                break
            logprob = None if request.top is None else logprob_of(logits, token, request.top)
            reason = heard.take(index, token, logprob)
            if reason is None and len(heard.tokens[index]) == request.max_tokens:
                reason = "length"
            logits = model.advance(token, here)
        heard.end(index, reason)
    return heard


def random_request(rng, texts):
    """A prompt with the same start as others, and random settings."""
    text = texts[rng.integers(len(texts))]
    prompt = [*text[: rng.integers(1, len(text) + 1)], *rng.integers(0, VOCAB, rng.integers(0, 30))]
    marks = tuple(int(mark) for mark in sorted(rng.integers(1, len(prompt) + 1, 3)))
    params = {
        "temperature": float(rng.choice([0, 0.7, 1])), "top_p": float(rng.choice([0.5, 1])),
        "presence_penalty": float(rng.choice([0, 0.4])), "seed": int(rng.integers(1000)),
    }  # fmt: skip
    return ask(
        prompt, params=params, n=int(rng.choice([1, 1, 1, 3])), top=rng.choice([None, 0, 5]), marks=marks,
        echo=bool(rng.random() < 0.1), max_tokens=int(rng.integers(0, 40)), owner=str(rng.integers(3)),
        salt=str(rng.integers(2)),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_answers_under_random_load_are_the_same_as_alone(model, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, VOCAB, size).tolist() for size in (40, 300, 700)]
    engine = scheduler(model, cache=int(rng.choice([0, 20_000, 2**24])))
    wanted = [(random_request(rng, texts), int(rng.integers(VOCAB))) for _ in range(30)]
    tickets = []
    for request, stop in wanted:
        tickets.append(add(engine, request, stop))
        for _ in range(rng.integers(0, 6)):
            engine.step()
        if rng.random() < 0.15:
            tickets[rng.integers(len(tickets))].cancel()
    run(engine)
    finished = [ticket for ticket in tickets if not ticket.is_cancelled]
    assert len(finished) > 15
    for ticket in finished:
        assert ticket.listener.result == alone(model, ticket.request, ticket.listener.stop).result
    assert engine.table.n_free == 8 and engine.cache.n_bytes <= engine.cache.most_bytes


def test_the_same_prompt_again_reads_nothing_and_answers_the_same(model):
    engine, prompt = scheduler(model), list(range(1, 60))
    first, second = add(engine, ask(prompt)), None
    run(engine)
    second = add(engine, ask(prompt))
    run(engine)
    assert (first.listener.n_cached, second.listener.n_cached) == (0, len(prompt))
    assert first.listener.result == second.listener.result
    assert engine.cache.counts.hits == 1 and engine.cache.counts.misses == 1


def test_the_next_turn_begins_with_the_state_after_the_answer(model):
    engine, prompt = scheduler(model), list(range(1, 60))
    first = add(engine, ask(prompt, max_tokens=40, params={"stop_ids": ()}))
    run(engine)
    answer = first.listener.tokens[0]
    second = add(engine, ask([*prompt, *answer, 5, 6, 7]))
    run(engine)
    assert second.listener.n_cached == len(prompt) + len(answer) - 1  # the last one was never read


def test_every_prompt_begins_in_the_initial_state(model):
    initial = model.forward([9, 8, 7])[1]
    engine = Scheduler(model, Waiting(1000, 10**6), StateCache(2**24), 8, initial=initial)
    tickets = [add(engine, ask([1, 2, 3, *[last] * 20])) for last in (5, 6)]
    run(engine)
    for ticket in tickets:
        request = replace(ticket.request, prompt=np.array([9, 8, 7, *ticket.request.prompt]))
        assert ticket.listener.result == alone(model, request).result


def test_a_third_prompt_starts_where_the_first_two_diverge(model):
    engine, system = scheduler(model), list(range(1, 80))
    for question in (10, 20, 30):
        last = add(engine, ask([*system, *[question] * 20]))
        run(engine)
    assert last.listener.n_cached == len(system)


def test_states_are_kept_where_messages_end(model):
    engine, system = scheduler(model), list(range(1, 80))
    for question in (10, 20):
        last = add(engine, ask([*system, *[question] * 20], marks=(len(system),)))
        run(engine)
    assert last.listener.n_cached == len(system)


def test_only_one_of_several_requests_reads_a_common_prefix(model):
    engine, system = scheduler(model), list(range(1, 90)) * 4
    tickets = [add(engine, ask([*system, *[question] * 20])) for question in range(1, 6)]
    run(engine)
    assert [ticket.listener.n_cached for ticket in tickets] == [0] + [len(system)] * 4


def test_if_the_reading_request_is_cancelled_the_next_one_continues(model):
    engine, prompt = scheduler(model), list(range(1, 90)) * 4
    first, second = (add(engine, ask([*prompt, *[last] * 20])) for last in (7, 8))
    engine.step()
    first.cancel()
    run(engine)
    assert second.listener.n_cached == MOST and first.listener.result == Heard().result
    assert second.listener.result == alone(model, second.request).result


def test_requests_with_different_salts_share_no_states(model):
    engine, prompt = scheduler(model), list(range(1, 60))
    for salt in "ab":
        last = add(engine, ask(prompt, salt=salt))
        run(engine)
    assert last.listener.n_cached == 0


def test_a_long_prompt_does_not_stop_running_answers(model):
    engine = scheduler(model)
    writer = add(engine, ask([1, 2, 3], max_tokens=200, params={"stop_ids": ()}))
    engine.step()
    engine.pace.room = lambda n_writing: 7
    add(engine, ask(np.arange(1000) % VOCAB))
    before = len(writer.listener.tokens[0])
    for _ in range(20):
        engine.step()
    assert len(writer.listener.tokens[0]) == before + 20
    assert engine.table.reading[0].n_read == 20 * 7


def test_a_short_prompt_overtakes_a_long_one_but_the_long_one_continues(model):
    engine = scheduler(model)
    engine.pace.room = lambda n_writing: 8
    long = add(engine, ask(np.arange(500) % VOCAB, owner="long"))
    engine.step()
    for i in range(60):
        add(engine, ask([i + 1] * 40, max_tokens=1, owner="short"))
    short_ones_left = []
    while long.listener.n_cached < 0:
        engine.step()
        short_ones_left.append(len(engine.waiting))
    assert short_ones_left[20] < 60 and short_ones_left[-1] > 0  # some overtook it, and it did not come last


def test_owners_take_turns(model):
    engine = scheduler(model, slots=1)
    many = [add(engine, ask([i + 1] * 3, max_tokens=3, owner="many")) for i in range(10)]
    one = add(engine, ask([50] * 3, max_tokens=3, owner="one"))
    while not one.listener.reasons:
        engine.step()
    assert sum(bool(ticket.listener.reasons) for ticket in many) <= 2


def test_a_listener_that_raises_loses_its_own_answers_only(model):
    engine = scheduler(model)
    bad, good = add(engine, ask([1, 2, 3], n=2)), add(engine, ask([1, 2, 4]))
    bad.listener.take = lambda *_: 1 / 0
    run(engine)
    assert isinstance(bad.listener.error, ZeroDivisionError) and not bad.listener.reasons
    assert good.listener.result == alone(model, good.request).result and engine.table.n_free == 8


def test_an_answer_without_a_next_token_fails_alone(model):
    engine = scheduler(model)
    banned = {token: -np.inf for token in range(VOCAB)}
    bad, good = add(engine, ask([1, 2, 3], params={"logit_bias": banned})), add(engine, ask([1, 2, 4]))
    run(engine)
    assert isinstance(bad.listener.error, InputError)
    assert good.listener.result == alone(model, good.request).result


def test_an_error_of_the_model_ends_requests_with_a_slot_and_the_others_continue(model):
    engine = scheduler(model, slots=1)
    first, second = add(engine, ask([1, 2, 3])), add(engine, ask([1, 2, 4]))
    engine.step()
    read = engine._model.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._model, "read", lambda *_: 1 / 0)
        engine.step()
    assert engine._model.read == read and isinstance(first.listener.error, ZeroDivisionError)
    run(engine)
    assert second.listener.result == alone(model, second.request).result


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_request_past_its_deadline_fails_wherever_it_is(model, steps):
    engine = scheduler(model)
    ticket = add(engine, ask(np.arange(300) % VOCAB, max_tokens=500, params={"stop_ids": ()}))
    for _ in range(steps):
        engine.step()
    object.__setattr__(ticket.request, "deadline", time.monotonic() - 1)
    assert engine.step() and isinstance(ticket.listener.error, TimedOut)
    assert engine.is_idle and engine.table.n_free == 8


class OnlyEven:
    """A guide that allows only even tokens."""

    def __init__(self):
        self.accepted = []

    def allowed(self):
        return np.arange(VOCAB) % 2 == 0

    def accept(self, token):
        self.accepted.append(token)


def test_a_guide_forbids_tokens_and_receives_the_chosen_ones(model):
    engine, guides = scheduler(model), [OnlyEven(), OnlyEven()]
    guided = add(engine, ask([1, 2, 3], n=2, guides=guides, top=3, params={"stop_ids": ()}))
    free = add(engine, ask([1, 2, 3], params={"stop_ids": ()}))
    run(engine)
    for index in range(2):
        tokens = guided.listener.tokens[index]
        assert tokens == guides[index].accepted and not any(token % 2 for token in tokens)
    # Log probabilities are the model's own: odd tokens are among the likely ones.
    assert any(token % 2 for logprob in guided.listener.logprobs[0] for token, _ in logprob.top)
    assert free.listener.result == alone(model, free.request).result


# The cache of states


def position(model, value, has_logits=True):
    state = model.initial_state()
    state.data[:] = value
    return Position(np.full(VOCAB, value, np.float32) if has_logits else None, state)


def keep(cache, ids, value, model, salt=""):
    found = position(model, value)
    return cache.put(salt, np.array(ids), found.n_bytes, lambda: found)


def test_the_tree_finds_the_same_as_a_dictionary_of_all_prefixes(model):
    rng = np.random.default_rng(1)
    cache, known = StateCache(30 * position(model, 0).n_bytes), {}
    for step in range(600):
        ids = tuple(rng.integers(0, 3, rng.integers(1, 12)).tolist())
        found = cache.find("", np.array(ids))
        kept = {tuple(kept_ids.tolist()): at for _, kept_ids, at in cache.entries()}
        best = max((beginning for beginning in kept if ids[: len(beginning)] == beginning), key=len, default=())
        assert found.n == len(best)
        if best:
            assert found.position.state.data[0] == known[best]
        shared = max((len(_common(ids, other)) for other in kept), default=0)
        assert found.n_shared == shared
        if rng.random() < 0.5:
            keep(cache, ids, step, model)
            known.setdefault(ids, step)
            if ids not in kept:
                known[ids] = step
        assert len(cache) <= 30 and cache.n_bytes == sum(at.n_bytes for _, _, at in cache.entries())
    assert cache.counts.evictions > 100


def _common(a, b):
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]


def test_the_most_recently_used_states_stay(model):
    size = position(model, 0).n_bytes
    cache = StateCache(2 * size)
    keep(cache, [1], 1, model)
    keep(cache, [2], 2, model)
    cache.find("", np.array([1, 5]))
    keep(cache, [3], 3, model)
    assert [cache.find("", np.array([first, 9])).n for first in (1, 2, 3)] == [1, 0, 1]


def test_old_states_are_dropped_before_a_new_one_is_copied(model):
    size = position(model, 0).n_bytes
    cache, sizes = StateCache(2 * size), []
    for first in range(5):

        def make():
            sizes.append(cache.n_bytes)
            return position(model, 0)

        assert cache.put("", np.array([first]), size, make)
    assert max(sizes) <= size
    assert not cache.put("", np.array([9]), 3 * size, make) and len(sizes) == 5


def test_all_of_a_prompt_counts_only_with_its_logits(model):
    cache = StateCache(2**24)
    found = position(model, 1, has_logits=False)
    cache.put("", np.array([1, 2]), found.n_bytes, lambda: found)
    assert cache.find("", np.array([1, 2])).n == 0 and cache.find("", np.array([1, 2, 3])).n == 2
    keep(cache, [1, 2], 1, model)
    assert cache.find("", np.array([1, 2])).n == 2


def test_an_empty_cache_has_no_tree(model):
    cache = StateCache(position(model, 0).n_bytes)
    for ids in ([1, 2, 3], [1, 2, 4], [5]):
        keep(cache, ids, 0, model)
    assert cache.find("", np.array([1, 2, 3, 4])).n_shared == 0
    cache.clear()
    assert not cache._roots and cache.n_bytes == 0 and len(cache) == 0


def test_marks_are_not_close_to_each_other_nor_to_the_end():
    request = ask(np.zeros(1000, np.int64), marks=(5, 100, 105, 130, 256, 990, 2000))
    reading = Reading(Ticket(request, None, 0.0), [0], Found(0, None, 700))
    assert reading.marks == [100, 130, 256, 512, 700, 768]
    assert reading.stop_at(200) and 200 in reading.marks
    reading.n_read = 300
    assert not reading.stop_at(250) and reading.piece(1000) == 512 - 300


# How many tokens a step processes


def test_the_step_grows_until_it_takes_too_long_and_stays_below():
    pace = Pace(stall=1.5)
    seconds = {group: 1 + 0.2 * (group - 1) for group in range(1, 17)}  # 3 groups take 1.4 times as long as one
    columns = []
    for _ in range(60):
        pace.took(7, seconds[1])
        room = pace.room(7)
        columns.append(7 + room)
        pace.took(7 + room, seconds[-(-(7 + room) // 8)])
    assert columns[0] == 16 and columns[-1] == 24 and max(columns) == 32 and columns.count(32) == 1


def test_a_prompt_always_progresses_by_at_most_one_pass():
    pace = Pace()
    assert pace.room(0) == MOST
    for n_writing in range(1, 121):
        pace.took(n_writing, 1.0)
        pace.took(min(n_writing + 8, MOST), 100.0)
        assert 1 <= pace.room(n_writing) <= MOST - n_writing


# The thread


class Waits(Heard):
    """A listener that can be waited for."""

    def __init__(self):
        super().__init__()
        self.is_done = threading.Event()

    def end(self, index, reason):
        super().end(index, reason)
        self.is_done.set()

    def fail(self, error):
        super().fail(error)
        self.is_done.set()


@pytest.fixture
def worker(model):
    made = Worker(model, EngineLimits(running=2, waiting=3, prompt_tokens=500, cache_bytes=2**20))
    yield made
    made.stop()


def test_a_worker_answers_requests_from_several_threads(model, worker):
    worker.start()
    requests = [ask([i + 1, 2, 3], params={"seed": i}) for i in range(3)]
    heard = [Waits() for _ in requests]
    threads = [threading.Thread(target=worker.submit, args=pair) for pair in zip(requests, heard)]
    for thread in threads:
        thread.start()
    for listener, request in zip(heard, requests):
        assert listener.is_done.wait(60)
        assert listener.result == alone(model, request).result
    for thread in threads:
        thread.join()


def test_too_many_and_invalid_requests_are_refused_with_a_reason(worker):
    for _ in range(3):
        worker.submit(ask([1, 2]), Waits())
    with pytest.raises(Refused, match="3 requests are waiting already"):
        worker.submit(ask([1, 2]), Waits())
    for wrong, message in (
        (ask([]), "empty"), (ask([VOCAB]), "outside"), (ask([1] * 501), "at most 500"), (ask([1], n=3), "n is 3"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            worker.submit(wrong, Waits())
    worker.scheduler.pace.tokens_per_second = 0.01
    with pytest.raises(Refused, match="600 seconds of work") as refused:
        worker.submit(ask([1, 2]), Waits())
    assert refused.value.retry_after == pytest.approx(600)


def test_draining_finishes_accepted_requests_and_accepts_no_new_ones(model, worker):
    heard = Waits()
    worker.submit(ask([1, 2, 3], max_tokens=50), heard)
    worker.start()
    assert worker.drain(60) and heard.reasons
    with pytest.raises(Draining):
        worker.submit(ask([1, 2]), Waits())
    assert not worker.is_alive


def test_requests_that_are_not_finished_in_time_fail(worker):
    heard = Waits()
    worker.submit(ask([1, 2, 3], max_tokens=10**6, params={"stop_ids": ()}), heard)
    worker.start()
    assert not worker.drain(0.1) and isinstance(heard.error, Draining)


def test_both_kernels_that_choose_are_compiled_before_the_first_answer(worker, monkeypatch):
    sizes = []
    monkeypatch.setattr("rwkv_np.serve.worker.choose_each", lambda samplers, logits, threads: sizes.append(logits.size))
    worker.start()
    assert sizes[0] == VOCAB and sizes[1] >= SMALL


def test_each_step_that_called_a_listener_is_followed_by_one_call(model):
    calls, heard = [], Waits()
    made = Worker(model, on_step=lambda: calls.append(len(heard.tokens.get(0, ()))))
    made.submit(ask([1, 2, 3], max_tokens=5, params={"stop_ids": ()}), heard)
    made.start()
    assert heard.is_done.wait(60)
    made.stop()
    assert calls[:5] == [1, 2, 3, 4, 5]
