"""Guesses in the server: the same bytes with and without them, alone and in company; and no slot is lost."""

import numpy as np
import pytest
from test_serve_engine import VOCAB, Heard, add, alone, ask, model, run, scheduler  # noqa: F401

from rwkv_np.drafts import EXPECTED, Account
from rwkv_np.lookup import Lookup
from rwkv_np.serve.scheduler import Observer
from rwkv_np.serve.table import SPARES
from rwkv_np.serve.waiting import Waiting


class Counting(Observer):
    def __init__(self):
        self.n_guesses = self.n_right = self.n_steps = 0

    def stepped(self, seconds, n_writing, n_read):
        self.n_steps += 1

    def guessed(self, n_guesses, n_right):
        self.n_guesses += n_guesses
        self.n_right += n_right


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Passes cost what is expected, whatever the clock says."""
    monkeypatch.setattr(Account, "price", lambda self, n: EXPECTED[n])


@pytest.fixture
def counts(monkeypatch):
    made = Counting()
    monkeypatch.setattr("rwkv_np.serve.scheduler.Observer", lambda: made)
    return made


@pytest.fixture
def knowing(monkeypatch):
    """Lookups that know what comes next, from a table of texts by their prompt; the second half of a guess is wrong
    now and then."""
    texts, rng = {}, np.random.default_rng(0)

    def guess(self, n):
        read = self._tokens
        for prompt, answer in texts.items():
            if tuple(read[: len(prompt)]) == prompt and read[len(prompt) :] == answer[: len(read) - len(prompt)]:
                coming = (answer[len(read) - len(prompt) :] + n * [1])[:n]
                wrong = int(rng.integers(0, n + 1))
                return coming[:wrong] + [(token + 1) % VOCAB for token in coming[wrong:]]
        return []

    monkeypatch.setattr(Lookup, "guess", guess)
    return texts


class Letters:
    """A guide that allows other tokens at each place."""

    def __init__(self):
        self.n = 0

    def allowed(self):
        return (np.arange(VOCAB) + self.n) % 3 > 0

    def accept(self, token):
        assert self.allowed()[token]
        self.n += 1


def random_request(rng):
    prompt = rng.integers(1, VOCAB, rng.integers(1, 30))
    params = dict(
        seed=int(rng.integers(99)), temperature=float(rng.choice([0, 1])), top_k=int(rng.choice([0, 3])),
        frequency_penalty=float(rng.choice([0, 0.5])), logit_bias={int(rng.integers(1, VOCAB)): 5.0},
    )  # fmt: skip
    n = int(rng.choice([1, 1, 2]))
    return prompt, dict(params=params, max_tokens=int(rng.integers(30, 120)), n=n, top=rng.choice([None, 2]))


def free_slots(engine):
    return engine.table.n_free


@pytest.mark.parametrize("seed", range(6))
def test_guesses_change_nothing_in_any_company(model, counts, knowing, seed):  # noqa: F811
    rng = np.random.default_rng(seed)
    requests = [
        (ask(prompt, **options), int(rng.integers(1, VOCAB))) for prompt, options in map(random_request, 6 * [rng])
    ]
    expected = [alone(model, request, stop) for request, stop in requests]
    for (request, _), heard in zip(requests, expected):
        knowing[tuple(request.prompt.tolist())] = heard.tokens.get(0, [])
    engine = scheduler(model, slots=6)
    tickets = []
    for request, stop in requests:
        tickets.append(add(engine, request, stop))
        for _ in range(rng.integers(0, 40)):
            engine.step()
    run(engine)
    for ticket, heard in zip(tickets, expected):
        assert ticket.listener.result == heard.result
    assert counts.n_right > 5 and counts.n_guesses > counts.n_right
    assert free_slots(engine) == 6


def test_an_answer_that_repeats_takes_fewer_steps(model, counts):  # noqa: F811
    request = ask([1, 2, 3], params={"logit_bias": {7: 1000.0}, "temperature": 0}, max_tokens=60)
    engine = scheduler(model)
    ticket = add(engine, request)
    run(engine)
    assert ticket.listener.tokens == {0: 60 * [7]}
    assert counts.n_steps < 20


def test_without_lookup_nothing_is_guessed(model, counts):  # noqa: F811
    engine = scheduler(model)
    engine._guesses.is_on = False
    add(engine, ask([1, 2, 3], params={"logit_bias": {7: 1000.0}, "temperature": 0}, max_tokens=60))
    run(engine)
    assert counts.n_guesses == 0 and counts.n_steps == 60


def test_a_guide_sees_the_tokens_in_their_order(model, counts, knowing):  # noqa: F811
    first, second = ([ask([5, 6], max_tokens=30, guides=[Letters()], params={"temperature": 0})] for _ in range(2))
    engine = scheduler(model)
    plain = add(engine, first[0])
    run(engine)
    knowing[(5, 6)] = plain.listener.tokens[0]
    guessed = add(engine, second[0])
    run(engine)
    assert guessed.listener.tokens == plain.listener.tokens and counts.n_right > 3


def test_the_state_of_an_answer_that_ended_among_guesses_is_kept_for_the_next_turn(model, counts, knowing):  # noqa: F811
    prompt = list(range(1, 40))
    knowing[tuple(prompt)] = tokens = alone(model, ask(prompt, max_tokens=30)).tokens[0]
    for stop_at in [i for i in range(18, 28) if tokens[i] not in tokens[:i]]:
        engine = scheduler(model)
        ticket = add(engine, ask(prompt, max_tokens=30), stop=tokens[stop_at])
        run(engine)
        answer = ticket.listener.tokens[0]
        later = ask([*prompt, *answer, 3, 4], max_tokens=5)
        again = add(engine, later)
        run(engine)
        assert again.listener.n_cached == len(prompt) + len(answer) - 1
        assert again.listener.tokens == alone(model, later).tokens
    assert counts.n_right


def test_a_cancelled_request_and_a_broken_step_lose_no_slot(model, counts, monkeypatch):  # noqa: F811
    repeating = dict(params={"logit_bias": {7: 1000.0}, "temperature": 0}, max_tokens=1000)
    engine = scheduler(model, slots=3)

    class Cancelling(Heard):
        def take(self, index, token, logprob):
            if len(self.tokens.get(0, [])) == 30:
                tickets[0].cancel()
            return super().take(index, token, logprob)

    tickets = [add(engine, ask([1, 2], **repeating)), add(engine, ask([3], **repeating))]
    tickets[0].listener = Cancelling()
    for _ in range(12):
        engine.step()
    assert counts.n_right and tickets[0].is_cancelled and free_slots(engine) == 2

    def broken(*args):
        raise MemoryError

    monkeypatch.setattr(model, "_read", broken)
    engine.step()
    monkeypatch.undo()
    assert isinstance(tickets[1].listener.error, MemoryError) and free_slots(engine) == 3
    assert len(engine.table._spares) == engine.table._n_spares <= SPARES
    later = add(engine, ask([1, 2, 3]))
    run(engine)
    assert later.listener.result == alone(model, ask([1, 2, 3])).result


def test_nothing_is_guessed_while_there_are_prompts_or_many_answers(model, counts):  # noqa: F811
    repeating = dict(params={"logit_bias": {7: 1000.0}, "temperature": 0}, max_tokens=20)
    engine = scheduler(model, slots=20)
    assert isinstance(engine.waiting, Waiting)
    for i in range(8):
        add(engine, ask([1 + i], **repeating))
    while engine.table.reading or len(engine.waiting) or not engine.table.writing:
        engine.step()
    while len(engine.table.writing) == 8:
        assert counts.n_guesses == 0
        engine.step()
    run(engine)
