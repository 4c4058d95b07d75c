"""Which matrix gets which type, so that a file of a given size loses least.

The loss of a matrix in a type is measured (`body.py`), and the losses of different matrices nearly add up. So the best
mixture is found step by step: start with the smallest type everywhere, and give the next larger one to the matrix
where a byte saves most. Types that are worse than a mix of their neighbours are never chosen (the convex hull).
The head and the embedding are Q8_0 first: their bytes are worth more elsewhere, and a quantized model's head is read
as Q8_0 in any case (`models/head.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

from rwkv_np.errors import InputError

ENDS = ("emb.weight", "head.weight")


class Choice(NamedTuple):
    """A type for a matrix: its bytes, and its loss, the KL divergence that it is expected to add."""

    data_type: str
    n_bytes: int
    loss: float


class Chosen(NamedTuple):
    """A matrix with its choice, and the smallest one that it could have had."""

    name: str
    choice: Choice
    smallest: Choice


def best_mixture(choices: Mapping[str, list[Choice]], n_bytes: int) -> list[Chosen]:
    """A choice for every matrix, with at most `n_bytes` in all, and the smallest sum of losses.

    Raises  InputError: even the smallest types take more
    """
    hulls = {name: hull(found) for name, found in choices.items()}
    left = n_bytes - sum(steps[0].n_bytes for steps in hulls.values())
    if left < 0:
        raise InputError(
            f"the smallest mixture takes {-left:,} bytes more than the size that was asked for; give a larger --size"
        )
    at = dict.fromkeys(hulls, 0)
    queue = [_step(name, hulls[name], 0) for name in hulls if len(hulls[name]) > 1]
    heapq.heapify(queue)
    while queue:
        _, name, cost = heapq.heappop(queue)
        if cost > left:
            continue  # a cheaper step of another matrix may still fit
        left -= cost
        at[name] += 1
        if at[name] + 1 < len(hulls[name]):
            heapq.heappush(queue, _step(name, hulls[name], at[name]))
    return [Chosen(name, steps[at[name]], steps[0]) for name, steps in hulls.items()]


def hull(choices: list[Choice]) -> list[Choice]:
    """The choices that are best for some price of a byte, by bytes: each further byte saves less than those before."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.n_bytes, c.loss)):
        if found and choice.loss >= found[-1].loss:
            continue
        while len(found) > 1 and _saving(found[-2], found[-1]) <= _saving(found[-1], choice):
            found.pop()
        found.append(choice)
    return found


def _saving(one: Choice, other: Choice) -> float:
    """Loss saved by a further byte."""
    return (one.loss - other.loss) / (other.n_bytes - one.n_bytes)


def _step(name: str, steps: list[Choice], at: int) -> tuple[float, str, int]:
    return -_saving(steps[at], steps[at + 1]), name, steps[at + 1].n_bytes - steps[at].n_bytes


def table(chosen: list[Chosen]) -> list[str]:
    """Lines that say what each choice bought: kinds of matrices, their types, bytes, and expected KL divergence."""
    kinds: dict[tuple[str, str], list[Chosen]] = {}
    for one in chosen:
        kind = one.name.split(".", 2)[-1].removesuffix(".weight")
        kinds.setdefault((kind, one.choice.data_type), []).append(one)
    lines = [f"{'matrices':24} {'type':5} {'number':>6} {'MB':>9}  {'expected KL':>11}  saved by the bytes beyond"]
    for (kind, data_type), ones in sorted(kinds.items()):
        n_bytes, loss = sum(o.choice.n_bytes for o in ones), sum(o.choice.loss for o in ones)
        more, saved = n_bytes - sum(o.smallest.n_bytes for o in ones), sum(o.smallest.loss for o in ones) - loss
        bought = f"{saved:.2e} for {more / 1e6:.2f} MB more than {ones[0].smallest.data_type}" if more else "-"
        lines.append(f"{kind:24} {data_type:5} {len(ones):6} {n_bytes / 1e6:9.2f}  {loss:11.2e}  {bought}")
    return lines
