"""Tokens per second of `generate()`, including sampling and text, and of many sequences together.

The kernels are timed inside the same runs; the rest is the share of Python: checks, bookkeeping,
text. For many sequences the loop is that of a server without its network: one `Model.read` for all,
one `choose_many`, and one text stream for each.

    python bench/generate.py MODEL.bin [--tokens 64] [--counts 1,2,4,8,16,32] [--json]
    python bench/generate.py --shape 169m --format Q4_1
    python bench/generate.py MODEL.bin --lookup               # guessing, on texts that repeat in different degrees
    python bench/generate.py MODEL.bin --draft SMALL.bin      # guesses of a small model, if so many of them are right

Speed does not depend on the words, so they are made up unless --tokenizer is given. How many guesses are right does
depend on them: with --lookup the answers are the texts of repeating.py, which stand in for what a trained model would
write. Each token is chosen as usual, at the usual price, and then the text's own token takes its place.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from repeating import texts
from rwkv_np.kernels import program, sample
from shapes import SHAPES
from synthetic import write_synthetic

import rwkv_np
from rwkv_np import generation
from rwkv_np.draft_model import DraftModel
from rwkv_np.drafts import Drafts
from rwkv_np.generation import generate_tokens
from rwkv_np.lookup import Lookup
from rwkv_np.models import Model, Run
from rwkv_np.position import Position
from rwkv_np.sampler import Sampler, choose_many
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import TextStream
from rwkv_np.tokenizers.base import Tokenizer

PROMPT = 16
# The chat's settings, without anything that would end an answer early.
SETTINGS = SamplingParams(stop=("\n\n",), stop_ids=(), seed=1)
# The functions whose time is measured: (object, attribute name).
KERNELS = ((program._run, "enter"), (sample, "_choose_one"), (sample._choose_rows, "enter"))


class MadeUpWords(Tokenizer):
    """Every id is a different word, so that text costs as much as with a real vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__("made-up words", vocab_size, vocab_size, "bench")

    def _encode(self, text: str) -> list[int]:
        return [hash(word) % self.n_ids for word in text.split()]

    def _build_pieces(self) -> list[bytes]:
        return [f" {i:x}".encode() for i in range(self.n_ids)]


@contextmanager
def kernel_seconds() -> Iterator[list[float]]:
    """Collect the seconds of each kernel call inside the `with` block."""
    taken: list[float] = []
    kept = [(place, name, getattr(place, name)) for place, name in KERNELS]

    def timed(function):
        def call(*args):
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                taken.append(time.perf_counter() - start)

        return call

    for place, name, function in kept:
        setattr(place, name, timed(function))
    try:
        yield taken
    finally:
        for place, name, function in kept:
            setattr(place, name, function)


def one(model: Model, tokenizer: Tokenizer, n_tokens: int) -> dict[str, float]:
    """`generate()` for one sequence: tokens per second after the prompt, and the share outside the kernels."""
    params = replace(SETTINGS, stop=("a text that no model says",), max_tokens=n_tokens + 1)
    answer = rwkv_np.generate(model, tokenizer, list(range(1, PROMPT + 1)), params)
    next(answer)  # this reads the prompt
    with kernel_seconds() as kernels:
        start = time.perf_counter()
        for _ in answer:
            pass
        seconds = time.perf_counter() - start
    return {"tokens_per_s": n_tokens / seconds, "outside": 1 - sum(kernels) / seconds}


def many(model: Model, tokenizer: Tokenizer, count: int, n_tokens: int) -> dict[str, float]:
    """The same for `count` sequences in one pass; tokens per second of all together."""
    pool = model.new_pool(count)
    slots = [pool.take() for _ in range(count)]
    samplers = [Sampler(replace(SETTINGS, seed=i)) for i in range(count)]
    streams = [TextStream() for _ in range(count)]
    logits = model.read([Run(list(range(i + 1, i + PROMPT)), slot) for i, slot in enumerate(slots)], pool)
    with kernel_seconds() as kernels:
        start = time.perf_counter()
        for _ in range(n_tokens):
            tokens = choose_many(samplers, logits)
            for stream, token in zip(streams, tokens):
                stream.push(tokenizer.token_bytes(token))
            logits = model.read([Run(token, slot) for token, slot in zip(tokens, slots)], pool)
        seconds = time.perf_counter() - start
    return {"tokens_per_s": count * n_tokens / seconds, "outside": 1 - sum(kernels) / seconds}


class Reciting(Sampler):
    """Chooses a token, and returns the next one of a text in its place."""

    text: Iterator[int]

    def choose(self, logits: np.ndarray) -> int:
        super().choose(logits)
        return next(self.text)


def recited(model: Model, prompt: list[int], answer: list[int], guessers: list) -> tuple[float, float]:
    """(seconds per token, tokens per pass) for an answer whose tokens are known; the prompt is only looked up."""
    start = Position(*model.forward([1]))
    drafts = Drafts(guessers)
    drafts.extend(prompt)
    steps = generate_tokens(model, (), replace(SETTINGS, max_tokens=len(answer)), start, drafts=drafts)
    Reciting.text = iter(answer)
    generation.Sampler, kept = Reciting, generation.Sampler  # type: ignore[misc]
    try:
        next(steps)
        begin = time.perf_counter()
        n = sum(1 for _ in steps)
        return (time.perf_counter() - begin) / n, n / max(1, drafts.n_passes)
    finally:
        generation.Sampler = kept  # type: ignore[misc]


class Hinted(DraftModel):
    """Takes the time of a small model; each of its guesses is right with a given probability."""

    def __init__(self, small: Model, text: list[int], share: float) -> None:
        super().__init__(small)
        self.text, self.share, self.rng = text, share, np.random.default_rng(1)

    def _most_likely(self, logits: np.ndarray, i: int) -> int:
        guess, at = super()._most_likely(logits, i), len(self._tokens) + i
        return self.text[at] if at < len(self.text) and self.rng.random() < self.share else guess


def draft_gains(
    model: Model, small: Model, rounds: int, shares: tuple[float, ...] = (0.0, 0.6, 0.75, 0.9)
) -> dict[str, dict[str, float]]:
    """The speed with a draft model ÷ without, if that share of its guesses is right; on a text that repeats nothing."""
    ids, found = list(range(1, 121)), {}
    for share in shares:
        ratios, per_pass = [], 0.0
        for _ in range(rounds):
            without, _ = recited(model, [], ids[:40], [])
            seconds, per_pass = recited(model, [], ids, [Hinted(small, ids, share)])
            again, _ = recited(model, [], ids[:40], [])
            ratios.append((without + again) / 2 / seconds)
        gain = float(np.median(ratios))
        found[f"{share:.0%}"] = {"tokens": len(ids), "gain": gain, "tokens_per_pass": per_pass}
    return found


def lookup_gains(model: Model, rounds: int) -> dict[str, dict[str, float]]:
    """For each text of repeating.py: speed with lookup ÷ without, and tokens per pass.

    Without, each token takes the same time, so the first 100 of a long text are enough. Both are measured in turn.
    The tokens are those of the World vocabulary, numbered as they come, so that any model has them.
    """
    found, tokenizer, numbers = {}, rwkv_np.load_tokenizer("world"), defaultdict[int, int](lambda: len(numbers))
    for name, (prompt, answer) in texts().items():
        known, ids = ([numbers[token] for token in tokenizer.encode(text)] for text in (prompt, answer))
        ratios, per_pass = [], 0.0
        for _ in range(rounds):
            without, _ = recited(model, known, ids[:100], [])
            seconds, per_pass = recited(model, known, ids, [Lookup()])
            again, _ = recited(model, known, ids[:100], [])
            ratios.append((without + again) / 2 / seconds)
        found[name] = {"tokens": len(ids), "gain": float(np.median(ratios)), "tokens_per_pass": per_pass}
    return found


def step_seconds(model: Model, counts: list[int], rounds: int) -> dict[int, list[float]]:
    """Seconds of one pass with a token and logits for each sequence; every round measures all counts."""
    pool = model.new_pool(max(counts))
    slots = [pool.take() for _ in range(max(counts))]
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for i in range(rounds + 1):
        for count in counts:
            runs = [Run((i + slot) % model.config.vocab_size, slot) for slot in slots[:count]]
            start = time.perf_counter()
            model.read(runs, pool)
            if i:
                taken[count].append(time.perf_counter() - start)
    return taken


def prefill_rate(model: Model, rounds: int) -> float:
    """Tokens per second of a prompt of 128 tokens."""
    tokens, state = np.arange(128) % model.config.vocab_size, model.initial_state()
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        model.advance(tokens, state)
        taken.append(time.perf_counter() - start)
    return 128 / float(np.median(taken[1:]))


def measure(model: Model, tokenizer: Tokenizer, counts: list[int], n_tokens: int, rounds: int) -> dict:
    """All measurements, as medians over `rounds`."""
    one(model, tokenizer, 4), many(model, tokenizer, 2, 2)  # compiles
    single = [one(model, tokenizer, n_tokens) for _ in range(rounds)]
    together = {count: [many(model, tokenizer, count, n_tokens) for _ in range(rounds)] for count in counts}
    steps, prefill = step_seconds(model, counts, 5 * rounds), prefill_rate(model, rounds)
    found = {"generate": _medians(single), "prefill_tokens_per_s": prefill, "sequences": {}}
    for count in counts:
        ratios = [many_s / one_s for many_s, one_s in zip(steps[count], steps[counts[0]])]
        found["sequences"][count] = _medians(together[count]) | {
            "step_ms": 1e3 * float(np.median(steps[count])), "step_ratio": float(np.median(ratios)),
            "of_prefill": count / float(np.median(steps[count])) / prefill,
        }  # fmt: skip
    return found


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def _tokenizer(model: Model, name: str | None) -> Tokenizer:
    n_vocab = model.config.vocab_size
    return rwkv_np.load_tokenizer(name, n_vocab) if name else MadeUpWords(n_vocab)


def show_gains(found: dict[str, dict[str, float]], as_json: bool) -> None:
    """Print the result of `lookup_gains`."""
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'text':>9}{'tokens':>8}{'with ÷ without':>16}{'tokens a pass':>15}")
    for name, row in found.items():
        click.echo(f"{name:>9}{row['tokens']:>8}{row['gain']:>16.2f}{row['tokens_per_pass']:>15.2f}")


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Create a random model with this published shape.")
@click.option("--format", "type_name", default="Q4_1", help="Data type of that model.")
@click.option("--threads", type=int, help="Number of threads; default: the physical cores.")
@click.option("--tokenizer", help="As in the chat: a tokenizer.json, 20B, world or bytes.  [default: made-up words]")
@click.option("--tokens", default=64, help="Tokens per answer.")
@click.option("--counts", default="1,2,4,8,16,32", help="Numbers of sequences run together; the first is the baseline.")
@click.option("--rounds", default=3, help="Number of runs; the median is shown.")
@click.option("--lookup", is_flag=True, help="Measure guessing instead, on texts that repeat in different degrees.")
@click.option("--draft", type=click.Path(exists=True, path_type=Path), help="Measure guesses of this model instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    model: Path | None, shape: str | None, type_name: str, threads: int | None, tokenizer: str | None,
    tokens: int, counts: str, rounds: int, lookup: bool, draft: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure MODEL, or a synthetic model of a given --shape."""
    if (model is None) == (shape is None):
        raise click.UsageError("Give either MODEL or --shape.")
    with tempfile.TemporaryDirectory() as folder:
        path = model or write_synthetic(Path(folder) / f"{shape}-{type_name}.bin", shape, type_name)
        loaded = rwkv_np.load(path, threads)
        if lookup:
            show_gains(lookup_gains(loaded, rounds), as_json)
            return
        if draft:
            show_gains(draft_gains(loaded, rwkv_np.load(draft, threads), rounds), as_json)
            return
        found = measure(loaded, _tokenizer(loaded, tokenizer), [int(n) for n in counts.split(",")], tokens, rounds)
    if as_json:
        click.echo(json.dumps(found))
        return
    single = found["generate"]
    click.echo(f"generate(): {single['tokens_per_s']:.1f} tokens/s, {single['outside']:.1%} outside the kernels")
    click.echo(f"prompt of 128: {found['prefill_tokens_per_s']:.1f} tokens/s")
    click.echo(f"{'sequences':>9}{'tokens/s':>10}{'outside':>9}{'step, ms':>10}{'÷ one':>7}{'÷ prompt':>10}")
    for count, row in found["sequences"].items():
        click.echo(
            f"{count:>9}{row['tokens_per_s']:>10.1f}{row['outside']:>9.1%}{row['step_ms']:>10.2f}"
            f"{row['step_ratio']:>7.2f}{row['of_prefill']:>10.2f}"
        )


if __name__ == "__main__":
    main()
