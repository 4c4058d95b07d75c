"""Time the choice of a token: the kernel, and the NumPy reference that makes the same choices.

    python bench/sampling.py
    python bench/sampling.py --spread 1 --threads 2 --json

The logits are noise. Their standard deviation (spread) decides how many tokens top-p keeps, and so how
long the selection takes. A trained model has about 3 (the demo model: 3.2), where top_p 0.5 keeps a hundred
of 65,536; at 1 it keeps ten thousand. Both sides get the same logits, penalties and random numbers, and the
program first checks that they choose the same tokens. Times are medians, per row.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate

import click
import numpy as np
from rwkv_np.kernels.threads import default_threads

from rwkv_np.cli import Command
from rwkv_np.evaluation.machine import processor
from rwkv_np.evaluation.speed import median_seconds
from rwkv_np.sampler import Sampler, choose_many
from rwkv_np.sampling import SamplingParams, choices, draw, penalize

N_PENALIZED = 200
CHAT = SamplingParams()  # the chat's settings are the defaults
PLAIN = replace(CHAT, top_p=1.0, presence_penalty=0.0, frequency_penalty=0.0)
# The timed cases: name, settings, and number of rows processed together.
CASES = (
    ("temperature 1, top_p 1", PLAIN, 1),
    (f"the chat's, {N_PENALIZED} penalized", CHAT, 1),
    ("top_k 40", replace(PLAIN, top_k=40), 1),
    ("the chat's, 8 rows", CHAT, 8),
    ("the chat's, 32 rows", CHAT, 32),
)


class Texts:
    """Several texts, with the logits (n, V) of the next token of each."""

    def __init__(self, params: SamplingParams, logits: np.ndarray) -> None:
        self.params, self.logits = params, logits
        rng = np.random.default_rng(0)
        self.said = [rng.permutation(logits.shape[1])[:N_PENALIZED].tolist() for _ in logits]
        self.samplers = [Sampler(replace(params, seed=row), said) for row, said in enumerate(self.said)]

    def by_kernel(self, threads: int) -> list[int]:
        """The next token of each text; this advances the samplers."""
        if len(self.samplers) == 1:
            return [self.samplers[0].choose(self.logits[0])]
        return choose_many(self.samplers, self.logits, threads)

    def by_reference(self) -> list[int]:
        """The first tokens that `by_kernel` chose."""
        p, tokens = self.params, []
        ages = list(accumulate([p.penalty_decay] * (N_PENALIZED - 1), float.__mul__, initial=1.0))
        for row, (logits, said) in enumerate(zip(self.logits, self.said)):
            counts = dict(zip(reversed(said), ages))
            logits = penalize(logits, counts, p.presence_penalty, p.frequency_penalty)
            kept = choices(logits, p.temperature, p.top_p, p.top_k, p.min_p)
            tokens.append(draw(*kept, np.random.default_rng(row).random()))
        return tokens


def measure(params: SamplingParams, n_rows: int, n_vocab: int, spread: float, threads: int) -> dict[str, float]:
    """Milliseconds per row; first checks that both choose the same tokens."""
    logits = np.random.default_rng(0).standard_normal((n_rows, n_vocab)) * spread
    texts = Texts(params, logits.astype(np.float32))
    if texts.by_kernel(threads) != texts.by_reference():
        raise AssertionError("the kernel and the reference chose different tokens")
    per_row = 1e3 / n_rows
    return {
        "kernel_ms": per_row * median_seconds(lambda: texts.by_kernel(threads), 101),
        "reference_ms": per_row * median_seconds(texts.by_reference, 7 if n_rows == 1 else 3),
    }


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--vocab", "vocabs", type=int, multiple=True, default=(50277, 65536), help="Logits per row; repeatable.")
@click.option("--spread", type=float, default=3.0, help="Standard deviation of the logits.")
@click.option("--threads", type=int, help="Number of threads for several rows; default: the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(vocabs: tuple[int, ...], spread: float, threads: int | None, as_json: bool) -> None:
    """Time the choice of a token: median milliseconds per row."""
    threads = threads or default_threads()
    rows = [
        {"vocab": n_vocab, "settings": name, **measure(params, n_rows, n_vocab, spread, threads)}
        for n_vocab in vocabs
        for name, params, n_rows in CASES
    ]
    if as_json:
        click.echo(json.dumps({"processor": processor(), "threads": threads, "spread": spread, "rows": rows}))
        return
    click.echo(f"{processor()}, {threads} threads for several rows; milliseconds per row\n")
    click.echo(f"{'logits':>7}  {'settings':<28}{'kernel':>8}{'NumPy':>8}")
    for row in rows:
        click.echo(f"{row['vocab']:>7}  {row['settings']:<28}{row['kernel_ms']:>8.3f}{row['reference_ms']:>8.2f}")


if __name__ == "__main__":
    command()
