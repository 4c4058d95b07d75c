"""Every figure of a report against torch's own losses, on logits of the official `rwkv` package."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN, official_package
from torch.nn import functional

import rwkv_np
from rwkv_np.evaluation.divergence import log_softmax, score
from rwkv_np.evaluation.quality import POINTS, quality
from rwkv_np.evaluation.record import Record
from rwkv_np.evaluation.walk import ModelReader, Passage, walk
from rwkv_np.files.format import read_model_file

N_TOKENS = 400


def official_logits(folder, end, tokens):
    """What the official package computes in float32 from the weights of a golden model file."""
    tensors = {}
    for name, p in read_model_file(GOLDEN / f"golden-4v0.{end}").parameters.items():
        array = p.array()
        if name.endswith("time_decay"):
            array = np.log(-array)  # the file contains -exp of the checkpoint's value
        tensors[name] = torch.from_numpy(array.reshape((1, 1, -1) if ".time_mix_" in name else array.shape).copy())
    torch.save(tensors, folder / f"{end}.pth")
    model = official_package().RWKV(str(folder / end), "cpu fp32", verbose=False)
    return model.forward(tokens.tolist(), None, full_output=True)[0].double()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(token ids, official logits of the float model, official logits of the Q4_1 model)."""
    folder = tmp_path_factory.mktemp("official")
    tokens = np.random.default_rng(5).integers(0, 101, N_TOKENS).astype(np.uint32)
    return tokens, *(official_logits(folder, end, tokens[:-1]) for end in ("FP32.bin", "Q4_1.bin"))


@pytest.fixture(scope="module")
def oracle(both):
    """Every figure, computed with torch only."""
    tokens, base, other = both
    targets = torch.from_numpy(tokens[1:].astype(np.int64))
    nll = [functional.cross_entropy(logits, targets, reduction="none") for logits in (base, other)]
    log_probs = [functional.log_softmax(logits, dim=1) for logits in (base, other)]
    kl = functional.kl_div(log_probs[1], log_probs[0], reduction="none", log_target=True).sum(dim=1)
    p = [torch.softmax(logits, 1).gather(1, targets[:, None])[:, 0] for logits in (base, other)]
    same = (base.argmax(dim=1) == other.argmax(dim=1)).double()
    return dict(nll=nll, kl=kl, delta=p[1] - p[0], same=same)


def error_of_mean(x):
    return (x.var(unbiased=True) / len(x)).sqrt()


def close(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found, float(expected), rtol=rtol)


@pytest.fixture(scope="module")
def figures(both):
    """Our figures, from the same logits."""
    tokens, *logits = both
    record = Record(2, N_TOKENS - 1)
    record.append(score([x.float().numpy() for x in logits], tokens[1:]))
    return quality(record.scores(1), record.scores(0)), quality(record.scores(0))


def test_the_perplexities_are_those_of_cross_entropy(figures, oracle):
    for found, nll in zip(figures[::-1], oracle["nll"]):
        close(found.perplexity.value, nll.mean().exp())
        close(found.perplexity.error, nll.mean().exp() * error_of_mean(nll))


def test_the_ratio_s_error_is_that_of_the_two_together(figures, oracle):
    base, other = oracle["nll"]
    close(figures[0].perplexity_ratio.value, other.mean().exp() / base.mean().exp())
    # As in llama.cpp, from both variances and the covariance of the means.
    covariance = torch.cov(torch.stack([base, other])) / len(base)
    error = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]).sqrt()
    close(figures[0].perplexity_ratio.error, figures[0].perplexity_ratio.value * error)
    close(figures[0].correlation, covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt())


def test_the_kl_divergence_is_torch_s_with_its_points_and_its_maximum(figures, oracle):
    found, kl = figures[0], oracle["kl"]
    close(found.kl.value, kl.mean())
    close(found.kl.error, error_of_mean(kl))
    for point in POINTS:
        close(found.kl_points[f"{point:g}"], torch.quantile(kl, point / 100))
    close(found.kl_max, kl.max())


def test_the_change_of_the_right_token_s_probability_is_the_difference_of_softmaxes(figures, oracle):
    found, delta = figures[0], oracle["delta"]
    close(found.delta_p.value, delta.mean())
    close(found.delta_p.error, error_of_mean(delta))
    rms = delta.square().mean().sqrt()
    close(found.delta_p_rms.value, rms)
    close(found.delta_p_rms.error, error_of_mean(delta.square()) / (2 * rms))


def test_the_most_likely_tokens_are_compared_position_by_position(figures, oracle):
    share = oracle["same"].mean()
    assert 0.5 < share < 1  # otherwise the next lines would prove little
    close(figures[0].same_top.value, share)
    close(figures[0].same_top.error, (share * (1 - share) / (len(oracle["same"]) - 1)).sqrt())


def test_our_own_reading_of_the_files_gives_the_figures_of_the_official_package(both, oracle):
    tokens = both[0]
    record = Record(2, N_TOKENS - 1)
    paths = [GOLDEN / f"golden-4v0.{end}" for end in ("FP32.bin", "Q4_1.bin")]
    readers = [ModelReader(path.name, rwkv_np.load(path, engine="numpy", head_q8_0=False)) for path in paths]
    walk(readers, Passage(tokens), record)
    found = quality(record.scores(1), record.scores(0))
    close(found.perplexity.value, oracle["nll"][1].mean().exp())
    close(found.kl.value, oracle["kl"].mean())
    close(found.delta_p_rms.value, oracle["delta"].square().mean().sqrt())


def test_log_softmax_neither_overflows_nor_loses_what_is_small():
    x = np.array([[1e4, 1e4 - 50, -1e4], [-3e4, -3e4, -3e4]], np.float32)
    expected = torch.log_softmax(torch.from_numpy(x).double(), dim=1)
    np.testing.assert_allclose(log_softmax(x), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
def test_a_divergence_far_below_the_probabilities_is_still_right(scale):
    rng = np.random.default_rng(0)
    base = 3 * rng.standard_normal((4, 50277))
    other = (base + scale * rng.standard_normal(base.shape)).astype(np.float32)
    base = base.astype(np.float32)
    log_probs = [torch.log_softmax(torch.from_numpy(x).double(), dim=1) for x in (base, other)]
    expected = functional.kl_div(log_probs[1], log_probs[0], reduction="none", log_target=True).sum(dim=1)
    found = score([base, other], np.zeros(4, int))[1].kl
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found < scale**2).all() and (found > 0).all()
