"""The metrics of a report, from the scores of all positions, each with its standard error.

    perplexity        e^m, where m is the mean negative log-likelihood; error e^m s(m)
    perplexity ratio  e^d, where d is the mean difference of the two models' negative log-likelihoods.
                      These rise and fall together, so the error of d is far below that of either m.
    correlation       of both models' negative log-likelihoods
    mean KL, mean Δp  means over positions; Δp is the right token's probability minus that of the base
    RMS Δp            the root of the mean square of Δp; error s(Δp²) / (2 RMS)
    KL points         the KL divergence that 50, 90, 99 and 99.9 % of positions are below, and the
                      largest; interpolated linearly between two positions
    same top          the share of positions whose most likely token is the base's

s(mean) is the standard deviation of the values divided by the root of their number. It treats positions
as independent, but neighbours in a text are not: it is a lower bound.
Source: the formulas of llama.cpp's report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwkv_np.evaluation.divergence import Scores

POINTS = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Quality:
    """How one model predicts the text; everything except the perplexity is None for the base itself."""

    n_tokens: int
    perplexity: Estimate
    perplexity_ratio: Estimate | None = None
    correlation: float | None = None
    kl: Estimate | None = None
    kl_points: dict[str, float] | None = None
    kl_max: float | None = None
    delta_p: Estimate | None = None
    delta_p_rms: Estimate | None = None
    same_top: Estimate | None = None


def quality(scores: Scores, base: Scores | None = None) -> Quality:
    """The metrics of a model over the positions so far, relative to the base.

    At least two positions are needed for an error.
    """
    nll = mean(scores.nll)
    perplexity = exponential(nll)
    if base is None:
        return Quality(len(scores.nll), perplexity)
    delta_p = scores.p_right - base.p_right
    return Quality(
        n_tokens=len(scores.nll),
        perplexity=perplexity,
        perplexity_ratio=exponential(mean(scores.nll - base.nll)),
        correlation=_correlation(scores.nll, base.nll),
        kl=mean(scores.kl),
        kl_points={f"{p:g}": float(x) for p, x in zip(POINTS, np.percentile(scores.kl, POINTS))},
        kl_max=float(scores.kl.max()),
        delta_p=mean(delta_p),
        delta_p_rms=_root(mean(np.square(delta_p))),
        same_top=share(scores.same_top),
    )


def mean(x: np.ndarray) -> Estimate:
    """The mean of x (n,), n >= 2."""
    return Estimate(float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))))


def exponential(mean: Estimate) -> Estimate:
    """e^x; its error is multiplied by the slope."""
    value = float(np.exp(mean.value))
    return Estimate(value, value * mean.error)


def _root(mean: Estimate) -> Estimate:
    value = float(np.sqrt(mean.value))
    return Estimate(value, mean.error / (2 * value) if value else 0.0)


def share(is_so: np.ndarray) -> Estimate:
    """The share of True in (n,) booleans, n >= 2."""
    share = float(is_so.mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / (len(is_so) - 1))))


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """The correlation; None if one of them is constant."""
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
