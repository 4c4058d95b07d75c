"""Which token is chosen: compared with the official sampler, and with the definition of each setting."""

import itertools
import threading

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv_np.kernels import sample
from rwkv_np.kernels.choice import NOT_FINITE
from rwkv_np.kernels.region import one_at_a_time
from rwkv_np.kernels.weights import scale_of, weights

from rwkv_np.errors import InputError
from rwkv_np.sampler import Sampler, choose_many
from rwkv_np.sampling import SamplingParams, add_bias, choices, draw, penalize, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def official_probabilities(monkeypatch, logits, **settings):
    """The probabilities that the `rwkv` package samples from, (V,)."""
    torch = pytest.importorskip("torch")
    pipeline = pytest.importorskip("rwkv.utils").PIPELINE
    seen = {}
    monkeypatch.setattr(np.random, "choice", lambda a, p: seen.setdefault("p", p) is None or 0)
    pipeline.sample_logits(None, torch.from_numpy(logits), **settings)
    return seen["p"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.85, 0.99])
@pytest.mark.parametrize("top_k", [0, 1, 40])
def test_probabilities_are_those_of_the_official_sampler(monkeypatch, temperature, top_p, top_k):
    logits = np.random.default_rng(0).standard_normal(2000).astype(np.float32) * 3
    settings = dict(temperature=temperature, top_p=top_p, top_k=top_k)
    expected = official_probabilities(monkeypatch, logits, **settings)
    ids, p = probabilities(logits, **settings)
    np.testing.assert_allclose(p, expected[ids], rtol=1e-4, atol=1e-7)
    assert len(ids) == np.count_nonzero(expected)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300), scale=st.floats(0, 30),
    top_p=st.floats(0, 1), top_k=st.integers(0, 20), min_p=st.floats(0, 1), temperature=st.floats(0, 5),
)  # fmt: skip
def test_what_is_kept_is_the_smallest_set_that_the_settings_allow(seed, size, scale, top_p, top_k, min_p, temperature):
    logits = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    ids, p = probabilities(logits, temperature, top_p, top_k, min_p)
    everything = np.exp(logits - logits.max(), dtype=np.float64)
    everything /= everything.sum()
    assert everything[ids[0]] == everything.max()
    assert abs(p.sum() - 1) < 1e-9 and len(set(ids.tolist())) == len(ids)
    assert (np.diff(everything[ids]) <= 0).all()
    if top_k:
        assert len(ids) <= top_k
    assert (everything[ids] >= min_p * everything.max() - 1e-12).all()
    if len(ids) > 1:  # without the last token (and those as likely) the sum would be below top_p
        assert everything[ids][everything[ids] > everything[ids][-1]].sum() < top_p + 1e-9


def test_temperature_zero_takes_the_likeliest():
    sampler = Sampler(SamplingParams(temperature=0, top_p=1, presence_penalty=0, frequency_penalty=0))
    assert [sampler.choose(LOGITS) for _ in range(20)] == [1] * 20


def test_choices_have_the_right_frequencies():
    params = SamplingParams(temperature=1, top_p=1, presence_penalty=0, frequency_penalty=0, seed=5)
    sampler = Sampler(params)
    counts = np.bincount([sampler.choose(LOGITS) for _ in range(20000)], minlength=5)
    np.testing.assert_allclose(counts / 20000, np.exp(LOGITS), atol=0.015)


def test_a_seed_repeats_the_choices_and_another_does_not():
    def choices(seed):
        sampler = Sampler(SamplingParams(temperature=2, top_p=1, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(50)]

    assert choices(1) == choices(1) != choices(2)


def test_penalties_take_off_presence_and_decayed_frequency():
    np.testing.assert_allclose(
        penalize(np.zeros(4, np.float32), {1: 1.0, 3: 2.5}, 0.25, 0.5), [0, -0.75, 0, -1.5], rtol=1e-6
    )
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=0.25, frequency_penalty=0.5, penalty_decay=0.5))
    logits = np.array([1.0, 0.3, 0.0], np.float32)
    # Token 0 has the penalty 0.75, then 0.5 one token later, 0.875 after its second use, and 1.0625 after its third.
    assert [sampler.choose(logits) for _ in range(5)] == [0, 1, 0, 0, 2]


def test_logits_given_are_never_changed():
    before = LOGITS.copy()
    sampler = Sampler(SamplingParams(logit_bias={2: 5.0}))
    for _ in range(3):
        sampler.choose(LOGITS)
    np.testing.assert_array_equal(LOGITS, before)


def test_bias_adds_and_bans():
    assert add_bias(LOGITS, {2: 9.0}).argmax() == 2
    ids, _ = probabilities(add_bias(LOGITS, {1: -np.inf}), top_p=1)
    assert sorted(ids) == [0, 2, 3, 4]
    with pytest.raises(InputError, match="logit_bias names token id 5; .* 0 to 4"):
        add_bias(LOGITS, {5: 1.0})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    with pytest.raises(InputError, match="largest logit is"):
        probabilities(np.array([0, bad, 1], np.float32))
    with pytest.raises(InputError, match="largest logit is -inf"):
        probabilities(np.full(3, -np.inf, np.float32))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2},
     {"penalty_decay": 1.1}, {"max_tokens": -1}, {"stop": "text"}, {"stop": ("",)}],
)  # fmt: skip
def test_invalid_settings_are_refused(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} is .*; expected"):
        SamplingParams(**settings)


# === Edge cases === #


def test_a_weight_is_the_exponential_in_units_of_two_to_the_minus_forty():
    x = np.concatenate([np.linspace(-32, 0, 20001), [-1e-30, -0.0, -1e30, -np.inf]])
    for temperature in (0.3, 1, 7):
        exact = 2.0**40 * np.exp(x / temperature)
        found = weights(x + 5, 5.0, scale_of(temperature))
        assert (np.abs(found - exact) <= 0.5001 + 5e-12 * exact).all()
    assert found.dtype == np.int64 and found[-1] == 0 and found.max() == 2**40


def test_the_draw_walks_in_the_order_of_ids():
    ids, w = choices(LOGITS, top_p=1)
    assert ids.tolist() == [1, 3, 4, 0, 2]
    # Their shares are 0.1, 0.4, 0.05, 0.3 and 0.15.
    found = [draw(ids, w, number) for number in (0, 0.099, 0.101, 0.499, 0.501, 0.549, 0.551, 0.849, 0.851, 1 - 2**-53)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_tokens_as_likely_as_the_last_one_stay_but_for_top_k():
    logits = np.array([0, 1, 0, 1, 0], np.float32)  # 1 and 3 have a share of 0.32 each, the others of 0.12
    assert choices(logits, top_p=0.3)[0].tolist() == choices(logits, top_p=0)[0].tolist() == [1, 3]
    assert choices(logits, top_p=0.7)[0].tolist() == [1, 3, 0, 2, 4]
    assert choices(logits, min_p=1)[0].tolist() == [1, 3]
    assert choices(logits, top_k=1)[0].tolist() == [1]
    assert choices(logits, top_k=4)[0].tolist() == choices(logits, top_k=4, top_p=0.7)[0].tolist() == [1, 3, 0, 2]


def test_top_p_of_one_keeps_all_but_the_banned():
    logits = np.array([0, -1000, -np.inf, 0], np.float32)
    ids, p = probabilities(logits, top_p=1)
    assert ids.tolist() == [0, 3, 1] and p.tolist() == [0.5, 0.5, 0]
    assert probabilities(logits, top_p=1 - 2**-53)[0].tolist() == [0, 3]  # the others have no weight
    assert probabilities(logits, temperature=1e5)[1].min() > 0.3  # here they have


# === The kernel: the same random number, the same token === #


def arrays(numbers, kind):
    return np.array(list(numbers), np.int64), np.array(list(numbers.values()), kind)


def kernel_row(number, temperature, top_p, top_k, min_p, presence=0.0, frequency=0.0):
    row = sample.settings_row(temperature, top_p, top_k, min_p, presence, frequency)
    row["number"] = number
    return row


def assert_same_token(logits, number, temperature, top_p, top_k, min_p, bias=None, counts=None, penalties=(0.0, 0.0)):
    bias, counts = bias or {}, counts or {}
    row = kernel_row(number, temperature, top_p, top_k, min_p, *penalties)
    found = sample.choose(logits, row, arrays(bias, np.float32), arrays(counts, np.float64))
    adjusted = penalize(add_bias(logits, bias), counts, *penalties)
    try:
        expected = draw(*choices(adjusted, temperature, top_p, top_k, min_p), number)
    except InputError:
        expected = NOT_FINITE
    assert found == expected


# 1 itself is never drawn; but if it is given, nothing may be read past the end.
NUMBERS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1 - 2**-53]))
SETTINGS = dict(
    temperature=st.one_of(st.sampled_from([0, 0.01, 1, 100]), st.floats(0, 3)),
    top_p=st.one_of(st.sampled_from([0, 0.5, 1]), st.floats(0, 1)),
    top_k=st.one_of(st.sampled_from([0, 1, 2, 40]), st.integers(0, 3000)),
    min_p=st.one_of(st.sampled_from([0, 0, 1]), st.floats(0, 1)),
)


def random_logits(seed, size, scale, levels=0, banned=0.0):
    """Normally distributed logits; with `levels`, many are equal; with `banned`, some are -inf."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size) * scale
    x = np.round(x * levels) / levels if levels else x
    x[rng.random(size) < banned] = -np.inf
    return x.astype(np.float32)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 2, 3, 257, 1024, 1025, 3000]), scale=st.floats(0, 12),
    levels=st.sampled_from([0, 0, 1, 5]), banned=st.sampled_from([0, 0.5, 0.99]), number=NUMBERS, **SETTINGS,
)  # fmt: skip
def test_the_kernel_chooses_what_the_reference_does(seed, size, scale, levels, banned, number, **how):
    logits = random_logits(seed, size, scale, levels, banned)
    rng = np.random.default_rng(seed)
    ids = rng.permutation(size)[:50].tolist()
    bias = {token: float(rng.choice([-np.inf, -1, 0.3, 3])) for token in ids[::2]}
    counts = {token: float(rng.random() * 4) for token in ids[1:]}
    assert_same_token(logits, number, **how, bias=bias, counts=counts, penalties=(0.2, 0.7))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0, 0.1, 1, 3, 8]), levels=st.sampled_from([0, 0, 3]),
    number=NUMBERS, **SETTINGS,
)  # fmt: skip
def test_the_kernel_chooses_what_the_reference_does_from_a_whole_vocabulary(seed, scale, levels, number, **how):
    assert_same_token(random_logits(seed, 65536, scale, levels), number, **how)


EXTREMES = [1e30, -1e30, 3.4028235e38, -3.4028235e38, 0.0, -0.0, 1e-45, -1e-45, 1e-30, 7.0, 7.000001, -np.inf]


@settings(max_examples=300, deadline=None)
@given(
    logits=st.lists(st.sampled_from([*EXTREMES, np.nan, np.inf]), min_size=1, max_size=9), number=NUMBERS, **SETTINGS
)
def test_the_kernel_chooses_what_the_reference_does_from_extreme_logits(logits, number, **how):
    assert_same_token(np.array(logits, np.float32), number, **how)


@pytest.mark.parametrize("logits", [[0], [0, 0], [0, -1], [-1, 0, 0], [0, -1, -1000], [-1, -2, 0], [0, -np.inf, -1]])
def test_the_kernel_chooses_what_the_reference_does_in_every_small_case(logits):
    cuts = itertools.product((0, 1, 1e5), (0, 0.4, 0.75, 1 - 2**-53, 1), range(5), (0, 0.5, 1))
    for cut, number in itertools.product(cuts, (0, 0.3, 0.4, 0.6, 0.9, 1)):
        assert_same_token(np.array(logits, np.float32), number, *cut)


def test_the_kernel_rounds_penalties_as_the_reference_does():
    """A penalized token ties with one whose logit equals its penalized logit: the first one is chosen."""
    rng = np.random.default_rng(0)
    for logit, presence, frequency, count in rng.random((200, 4)):
        a = np.float32(logit)
        left = a - (np.float32(presence) + np.float32(frequency) * np.float32(count))
        for counted, logits in ((0, [a, left]), (1, [left, a])):
            row = kernel_row(0.5, 0, 1, 0, 0, presence, frequency)
            said = arrays({counted: count}, np.float64)
            assert sample.choose(np.array(logits, np.float32), row, arrays({}, np.float32), said) == 0


@pytest.mark.parametrize(("size", "step"), [(300, 3), (5000, 211)])
def test_kernel_and_reference_agree_on_either_side_of_every_boundary(size, step):
    """At points where a sum with another order of addition or other rounding would be on the wrong side."""
    logits = random_logits(0, size, 2)
    ids, w = choices(logits)
    for place in range(0, size, step):
        edge = float(w[:place].sum() / w.sum())  # the sum of the first tokens' probabilities
        for top_p in (np.nextafter(edge, 0), edge, np.nextafter(edge, 1)):
            n = len(choices(logits, 1, float(top_p))[0])
            assert n in (place, place + 1) or place == 0
            # At this temperature all kept tokens are about equally likely: the draws find the first and the last.
            for number in (0, 0.5 / n, 1 - 0.5 / n, 1 - 2**-53):
                assert_same_token(logits, number, 100, top_p, 0, 0)
        number = float(w[np.argsort(ids)][:place].sum() / w.sum())
        for near in (np.nextafter(number, 0), number, np.nextafter(number, 1)):
            assert_same_token(logits, near, 1, 1, 0, 0)


def test_the_kernel_keeps_neither_more_nor_less_than_the_reference():
    """All kept tokens are drawn: at that temperature they are about equally likely."""
    for seed in range(5):
        logits = random_logits(seed, 2000, 2, levels=5 * (seed % 2))
        for cut in ((0.5, 0, 0), (0.9, 300, 0), (1, 37, 0), (1, 0, 0.02), (0.8, 100, 0.1), (0.999, 0, 0)):
            ids = choices(logits, 1e6, *cut)[0]
            numbers = (np.arange(len(ids)) + 0.5) / len(ids)
            rows = np.concatenate([kernel_row(number, 1e6, *cut) for number in numbers])
            nothing = arrays({}, np.float32), arrays({}, np.float64)
            found = [sample.choose(logits, rows[i : i + 1], *nothing) for i in range(len(ids))]
            assert found == sorted(ids.tolist())


SEVERAL = (
    dict(temperature=0), dict(temperature=1, top_p=1), dict(), dict(top_k=7, top_p=1, temperature=2),
    dict(min_p=0.1, top_p=1), dict(logit_bias={5: 3.0, 8: -np.inf}), dict(not_first=frozenset({1, 2})),
    dict(presence_penalty=2, frequency_penalty=0), dict(top_p=0.99, top_k=40, min_p=0.01, temperature=0.01),
)  # fmt: skip


def several_samplers():
    return [Sampler(SamplingParams(seed=i, **how), said=range(i)) for i, how in enumerate(SEVERAL)]


@pytest.mark.parametrize("n_threads", [1, 2, 3, None])
@pytest.mark.parametrize(("size", "steps"), [(50, 20), (20000, 6), (65536, 4)])
def test_a_row_gets_the_same_token_alone_and_with_others(size, steps, n_threads):
    n_threads = n_threads and min(n_threads, numba.config.NUMBA_NUM_THREADS)
    alone, together = several_samplers(), several_samplers()
    for step in range(steps):
        logits = random_logits(step, (len(alone), size + 14), 3)[:, :size]  # rows with gaps in between
        logits.flags.writeable = bool(step % 2)
        assert choose_many(together, logits, n_threads) == [s.choose(row) for s, row in zip(alone, logits)]


def test_many_rows_need_a_sampler_each():
    assert choose_many([], np.zeros((0, 5), np.float32)) == []
    with pytest.raises(InputError, match=r"\(3, 5\); expected \(9, V\)"):
        choose_many(several_samplers(), np.zeros((3, 5), np.float32))


def test_a_row_without_a_token_is_an_error_and_no_text_goes_on():
    samplers = [Sampler(SamplingParams(temperature=0, presence_penalty=5)) for _ in range(3)]
    logits = np.array([[1, 2, 3]] * 3, np.float32)
    bad = logits.copy()
    bad[1, 0] = np.nan
    with pytest.raises(InputError, match="largest logit is nan: the model file is damaged, or the state"):
        choose_many(samplers, bad, 2)
    assert choose_many(samplers, logits, 2) == [2, 2, 2]  # otherwise its penalty would count
    with pytest.raises(InputError, match="largest logit is inf"):
        samplers[0].choose(np.array([1, np.inf, 3], np.float32))
    with pytest.raises(InputError, match="largest logit is -inf"):
        Sampler(SamplingParams(logit_bias=dict.fromkeys(range(3), -np.inf))).choose(logits[0])


def test_ids_outside_the_vocabulary_are_errors():
    with pytest.raises(InputError, match="logit_bias names token id 3; .* 0 to 2"):
        Sampler(SamplingParams(logit_bias={3: 1.0})).choose(np.zeros(3, np.float32))
    for token in (-1, 3):
        with pytest.raises(InputError, match=f"token id {token} was used; .* 0 to 2"):
            Sampler(SamplingParams(), said=[0, token]).choose(np.zeros(3, np.float32))


def test_one_row_waits_for_no_other_call():
    found = []
    sampler = Sampler(SamplingParams(temperature=0))
    with one_at_a_time:  # which every parallel region takes
        worker = threading.Thread(target=lambda: found.append(choose_many([sampler], LOGITS[None])), daemon=True)
        worker.start()
        worker.join(120)
    assert found == [[1]]


def test_threads_of_python_do_not_disturb_each_other():
    logits = random_logits(0, (4, 5000), 2)

    def text(i):
        sampler = Sampler(SamplingParams(seed=i, temperature=1.5))
        return [sampler.choose(logits[i]) for _ in range(100)]

    alone, together = [text(i) for i in range(4)], [[] for _ in range(4)]
    workers = [threading.Thread(target=lambda i=i: together[i].extend(text(i))) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert together == alone


def test_what_a_text_may_not_begin_with_may_follow():
    sampler = Sampler(SamplingParams(temperature=0, not_first=frozenset({1}), presence_penalty=0, frequency_penalty=0))
    assert [sampler.choose(LOGITS) for _ in range(3)] == [3, 1, 1]


# === Counts === #


@pytest.mark.parametrize("decay", [0, 0.9, 1])
def test_counts_fade_with_every_token(decay):
    """Compared with a dictionary, with more tokens than the initial size of the arrays."""
    how = dict(presence_penalty=0.5, frequency_penalty=1, penalty_decay=decay)
    params = SamplingParams(temperature=2, top_p=1, seed=1, **how)
    logits, said = random_logits(0, 500, 1), [3, 4, 3]
    sampler, random, counts = Sampler(params, said), np.random.default_rng(1), {}
    for _ in range(300):
        for token in said:
            counts = {t: n * decay for t, n in counts.items()}
            counts[token] = counts.get(token, 0.0) + 1
        said = [sampler.choose(logits)]
        assert said == [draw(*choices(penalize(logits, counts, 0.5, 1), 2), random.random())]
    assert len(counts) > 128


def test_a_copy_of_a_sampler_goes_on_as_it_would_have():
    sampler = Sampler(SamplingParams(temperature=2, top_p=1, seed=3, not_first=frozenset({1})))
    logits = random_logits(0, 300, 1)
    first = sampler.copy()
    for _ in range(5):
        sampler.choose(logits)
    later = sampler.copy()
    rest = [sampler.choose(logits) for _ in range(100)]
    assert [later.choose(logits) for _ in range(100)] == rest
    assert [first.choose(logits) for _ in range(105)][5:] == rest
