"""A batch job's tokens per second: against the same prompts one after another, and with shared beginnings.

    python bench/batch.py MODEL.bin [--prompts 64] [--read 200] [--write 100] [--only together,shared] [--json]

Prompts are random ids and answers have a fixed length, so a random model of a published shape is enough. All parts use
one loaded model in one process, in turn; only `ray` (which needs the extra) has a node with its own, and compares in
pairs. `alone` reads and writes a few of the prompts, one after another, since all of them take minutes; its ratio is
per prompt. `prefill` is the speed of one long prompt: no job can be faster.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from rwkv_np.batch.answerer import Answerer, Desk, open_answerer, worker_of
from rwkv_np.batch.row import Form, read_row
from rwkv_np.batch.source import Line

PARTS = ("prefill", "alone", "together", "shared")  # and ray
OPTIONS: dict[str, Any] = dict.fromkeys(
    ("system", "opening", "state", "name", "template", "tokenizer", "threads", "head_q8_0", "head_epsilon")
) | {"chat": False, "think": "auto", "max_tokens": None, "max_prompt": 10**6, "seed": 0}


def rows(n: int, n_read: int, n_write: int, vocab: int, seed: int, shared: int = 0) -> list[Line]:
    """Requests for texts of `n_write` tokens after `n_read` random ones, the first `shared` of which are the same."""
    chance = random.Random(seed)
    begin = chance.choices(range(1, vocab), k=shared)
    made = []
    for i in range(n):
        ids = begin + chance.choices(range(1, vocab), k=n_read - shared)
        body = {"prompt": ids, "max_tokens": n_write, "ignore_eos": True}
        row = {"custom_id": f"{seed}-{i}", "url": "/v1/completions", "body": body}
        made.append(Line(i + 1, json.dumps(row).encode()))
    return made


def seconds(answerer: Answerer, lines: list[Line], most: int) -> float:
    """Time to answer all lines, at most `most` at the same time."""
    desk = Desk(answerer)
    begin = time.perf_counter()
    for line in lines:
        while desk.n_open >= most:
            assert not desk.take().is_error
        desk.submit(read_row(line, Form()))
    while desk.n_open:
        assert not desk.take().is_error
    return time.perf_counter() - begin


class Bench:
    """One model, and the answerers that are made of it."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path, self._options = path, OPTIONS | options
        self.answerer = open_answerer(path, self._options, lambda text: None, lambda *_: None)
        self.vocab = self.answerer.model.vocab_size

    @contextmanager
    def node(self) -> Iterator[Callable[[list[Line]], float]]:
        """A Ray cluster of one node, which has loaded the model; yields a function that answers lines on it."""
        from rwkv_np.batch.on_ray import open_desk
        from rwkv_np.cluster.parcel import pack
        from rwkv_np.cluster.pool import Pool

        pool = Pool("local", pack(self.path, self._options, open_desk), lambda text: None)

        def run(lines: list[Line]) -> float:
            begin = time.perf_counter()
            for row in pool.results(read_row(line, Form()) for line in lines):
                assert not row.is_error
            return time.perf_counter() - begin

        try:
            yield run
        finally:
            pool.close()

    def restart(self, **changes: Any) -> Answerer:
        """Another engine of the same model, with an empty cache."""
        self.answerer.stop()
        worker = worker_of(self.answerer.worker.model, self._options | changes)
        self.answerer = Answerer(self.answerer.model, worker, 0)
        return self.answerer


@click.command()
@click.argument("model", type=click.Path(exists=True))
@click.option("--prompts", default=64)
@click.option("--read", "n_read", default=200, help="Tokens of a prompt.")
@click.option("--write", "n_write", default=100, help="Tokens of an answer.")
@click.option("--shared", default=500, help="Tokens of the shared beginning.")
@click.option("--own", default=50, help="Tokens of a prompt after the shared beginning.")
@click.option("--shared-write", default=20, help="Tokens of an answer after a shared beginning.")
@click.option("--alone", "n_alone", default=2, help="Prompts that are answered one after another.")
@click.option("--running", default=64, help="Most answers at the same time.")
@click.option("--cache-mb", default=512)
@click.option("--tokenizer", help="As for the server.  [default: by the vocabulary]")
@click.option("--only", default=",".join(PARTS), help="Parts, with commas.")
@click.option("--json", "as_json", is_flag=True)
def main(
    model: str, only: str, as_json: bool, running: int, cache_mb: int, tokenizer: str | None, **sizes: int
) -> None:
    """Measure the batch jobs of MODEL."""
    bench = Bench(model, max_running=running, cache_mb=cache_mb, tokenizer=tokenizer)
    found: dict[str, float] = {}
    warm = rows(2, 140, 3, bench.vocab, 99)
    seconds(bench.answerer, warm, 2)  # pages of the model, caches of the kernels
    for part in only.split(","):
        found |= (new := MEASURES[part](bench, **sizes))
        click.echo(f"{part}: {new}", err=True)
    if "alone_s_each" in found and "together_s_each" in found:
        found["alone / together"] = found["alone_s_each"] / found["together_s_each"]
    bench.answerer.stop()
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:28} {value:10.3f}")


def _prefill(bench: Bench, **sizes: int) -> dict[str, float]:
    n = 1024
    took = seconds(bench.restart(), rows(1, n, 1, bench.vocab, 1), 1)
    return {"prefill_tokens_s": n / took}


def _alone(bench: Bench, n_read: int, n_write: int, n_alone: int, **sizes: int) -> dict[str, float]:
    took = seconds(bench.restart(), rows(n_alone, n_read, n_write, bench.vocab, 2), 1)
    return {"alone_s_each": took / n_alone, "alone_written_s": n_alone * n_write / took}


def _together(bench: Bench, prompts: int, n_read: int, n_write: int, **sizes: int) -> dict[str, float]:
    took = seconds(bench.restart(), rows(prompts, n_read, n_write, bench.vocab, 3), 10**6)
    return {
        "together_s_each": took / prompts,
        "together_written_s": prompts * n_write / took,
        "together_tokens_s": prompts * (n_read + n_write) / took,
    }


def _shared(bench: Bench, prompts: int, shared: int, own: int, shared_write: int, **sizes: int) -> dict[str, float]:
    lines = rows(prompts, shared + own, shared_write, bench.vocab, 4, shared)
    with_cache = seconds(bench.restart(), lines, 10**6)
    without = seconds(bench.restart(cache_mb=0), lines, 10**6)
    return {"shared_s": with_cache, "shared_without_cache_s": without, "without / with cache": without / with_cache}


def _ray(bench: Bench, prompts: int, n_read: int, n_write: int, **sizes: int) -> dict[str, float]:
    pairs = []
    with bench.node() as on_ray:
        on_ray(rows(2, 140, 3, bench.vocab, 99))
        for i in range(4):
            lines = rows(prompts, n_read, n_write, bench.vocab, 10 + i)
            there = on_ray(lines) if i % 2 else 0.0  # in turn first: a machine is not always equally fast
            pairs.append((seconds(bench.restart(), lines, 10**6), there or on_ray(lines)))
    local, remote = (statistics.median(each) for each in zip(*pairs))
    return {"here_s": local, "ray_s": remote, "ray / here": statistics.median(b / a for a, b in pairs)}


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "prefill": _prefill, "alone": _alone, "together": _together, "shared": _shared,
    "ray": _ray,
}  # fmt: skip

if __name__ == "__main__":
    main()
