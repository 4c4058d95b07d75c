"""Measure speed and memory of the World tokenizer, and of `pyrwkv-tokenizer` in the same run.

    python bench/tokenizer.py
    python bench/tokenizer.py --text README.md --json

Speed is MB of UTF-8 per second from a str to a list of ids, the median of runs that alternate between
the two, after checking that their ids are the same. Without --text there are three texts, repeated to
--mb: this repository's README, its Python sources, and Chinese sentences.

Memory is the growth of RssAnon in a child process, from before the tokenizer is created until a first
text is encoded and decoded; only Linux reports it. Together with a model, which uses Numba, a Numba kernel
cuts the texts; for this case the child loads another kernel before measuring. `ours, alone` is a process
without a model, where NumPy cuts them: with the kernel it would take 35 MB more, 21 to import Numba and 15 for
the tables that Numba builds for its first function. The loading time is measured in the same two cases.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
from rwkv_np.kernels import trie

from rwkv_np.cli import Command
from rwkv_np.evaluation.machine import processor
from rwkv_np.tokenizers import load_tokenizer, world

ROOT = Path(__file__).parents[1]
CHINESE = "今天天气很好，我们一起去公园散步吧。人工智能的发展改变了我们的生活方式，也带来了新的问题。\n"

Encode = Callable[[str], list[int]]

CHILD = """
import json, time
import numpy as np
from rwkv_np.memory import resident_anonymous
{before}
memory, start = resident_anonymous(), time.perf_counter()
{load}
seconds = time.perf_counter() - start
print(json.dumps({{"load_s": seconds, "memory_mb": (resident_anonymous() - memory) / 1e6}}))
"""
KERNEL = "from rwkv_np.sampler import Sampler; from rwkv_np.sampling import SamplingParams\n" \
         "Sampler(SamplingParams(), []).choose(np.zeros(300, np.float32))"  # fmt: skip
OURS = "from rwkv_np.tokenizers import load_tokenizer\n" \
       "t = load_tokenizer('world'); t.decode(t.encode('hello'))"  # fmt: skip
THEIRS = "from pyrwkv_tokenizer import RWKVTokenizer\n" \
         "t = RWKVTokenizer(); t.decode(t.encode('hello'))"  # fmt: skip
LOADS = {"ours": (KERNEL, OURS), "ours, alone": ("", OURS), "pyrwkv-tokenizer": ("", THEIRS)}


def texts(path: Path | None, n_bytes: int) -> dict[str, str]:
    if path is not None:
        found = {path.name: path.read_text(encoding="utf-8")}
    else:
        sources = sorted((ROOT / "rwkv_np").rglob("*.py"))
        found = {
            "English": (ROOT / "README.md").read_text(encoding="utf-8"),
            "Python": "".join(source.read_text(encoding="utf-8") for source in sources),
            "Chinese": CHINESE,
        }
    return {name: text * max(1, n_bytes // len(text.encode())) for name, text in found.items()}


def speeds(encoders: dict[str, Encode], text: str, runs: int) -> dict[str, float]:
    """MB per second of each; the runs alternate."""
    results = {name: encode(text) for name, encode in encoders.items()}
    if any(ids != results["ours"] for ids in results.values()):
        raise click.ClickException("the ids differ")
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(runs):
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode(text)
            seconds[name].append(time.perf_counter() - start)
    n_bytes = len(text.encode())
    return {name: n_bytes / 1e6 / statistics.median(found) for name, found in seconds.items()}


def with_numba() -> Encode:
    """As in a process with a model."""
    from rwkv_np.kernels import longest_match  # noqa: F401, this loads Numba

    return load_tokenizer("world").encode


def with_numpy() -> Encode:
    """As in a process without a model."""
    vocabulary = world.load_vocabulary(world.VOCABULARY)
    found = trie.build(vocabulary.data, vocabulary.lengths)
    return lambda text: trie.cut(np.frombuffer(text.encode(), np.uint8), found).tolist()


def load_costs(before: str, load: str) -> dict[str, float]:
    """Seconds and MB to load a tokenizer and encode once, in a child process."""
    code = CHILD.format(before=before, load=load)
    found: dict[str, float] = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    return found


@click.command(cls=Command, context_settings={"show_default": True})
@click.option("--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Encode this file instead.")
@click.option("--mb", type=float, default=2.0, help="Repeat each text up to this size.")
@click.option("--runs", type=click.IntRange(1), default=7, help="Runs of each; they alternate.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(text: Path | None, mb: float, runs: int, as_json: bool) -> None:
    """Time encoding, and measure the memory of the tokenizer."""
    encoders: dict[str, Encode] = {"ours": with_numba(), "ours, alone": with_numpy()}
    loads = dict(LOADS)
    if find_spec("pyrwkv_tokenizer"):
        from pyrwkv_tokenizer import RWKVTokenizer  # type: ignore[import-untyped,unused-ignore]

        encoders["pyrwkv-tokenizer"] = RWKVTokenizer().encode
    else:
        del loads["pyrwkv-tokenizer"]
    speed = {name: speeds(encoders, content, runs) for name, content in texts(text, int(mb * 1e6)).items()}
    load = {name: load_costs(*codes) for name, codes in loads.items()}
    if as_json:
        click.echo(json.dumps({"processor": processor(), "mb_per_s": speed, "load": load}))
        return
    click.echo(f"{processor()}, one thread\n\n{'MB/s':<20}" + "".join(f"{name:>18}" for name in encoders))
    for name, found in speed.items():
        click.echo(f"{name:<20}" + "".join(f"{value:>18.1f}" for value in found.values()))
    click.echo(f"\n{'load':<20}{'RssAnon MB':>18}{'seconds':>18}")
    for name, costs in load.items():
        click.echo(f"{name:<20}{costs['memory_mb']:>18.1f}{costs['load_s']:>18.3f}")


if __name__ == "__main__":
    command()
