"""Which token is chosen: against the official sampler, and by what each setting promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_np.errors import InputError
from rwkv_np.sampling import Sampler, SamplingParams, add_bias, penalize, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def official_probabilities(monkeypatch, logits, **settings):
    """What the `rwkv` package hands to its random choice, as (V,)."""
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
    assert ids[0] == logits.argmax() or logits[ids[0]] == logits.max()
    assert abs(p.sum() - 1) < 1e-9 and len(set(ids.tolist())) == len(ids)
    assert (np.diff(everything[ids]) <= 0).all()
    if top_k:
        assert len(ids) <= top_k
    assert (everything[ids] >= min_p * everything.max() - 1e-12).all()
    if len(ids) > 1:  # without its last token (and those as likely) it would not reach top_p
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
    # Token 0 costs 0.75, 0.5 one token later, 0.875 after its second time, and 1.0625 after its third.
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
def test_logits_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(InputError, match="largest logit is"):
        probabilities(np.array([0, bad, 1], np.float32))
    with pytest.raises(InputError, match="largest logit is -inf"):
        probabilities(np.full(3, -np.inf, np.float32))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2},
     {"penalty_decay": 1.1}, {"max_tokens": -1}, {"stop": "text"}, {"stop": ("",)}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} is .*; expected"):
        SamplingParams(**settings)
