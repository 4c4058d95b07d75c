"""The server under load: tokens per second and waiting times, for 1 to 32 clients.

    python bench/serve.py MODEL.bin [--clients 1,2,4,8,16,32] [--json]
    python bench/serve.py --shape 169m --format Q4_1 --only clients
    python bench/serve.py MODEL.bin --url http://127.0.0.1:8001      another server with the same model

The server and the load (http_load.py) are separate processes on the same two cores. Prompts are random ids and answers
have a fixed length, so a random model of a published shape is enough. Each figure is a ratio of two runs in the same
minute, since a machine's speed varies more from hour to hour than by most changes of the code.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from shapes import SHAPES
from synthetic import write_synthetic

HERE = Path(__file__).parent
PARTS = ("clients", "stall", "turns", "poisson", "cache")
PROMPT = 16


@contextmanager
def serving(model: Path, *options: str) -> Iterator[str]:
    """Start a server with that model; yields its address."""
    command = [sys.executable, "-m", "rwkv_np.serve", str(model), "--port", "0", *options]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        said = []
        for line in child.stderr:
            said.append(line)
            if found := re.search(r"http://[^/]+", line):
                yield found[0]
                return
        raise click.ClickException(f"the server did not start: {''.join(said)}")
    finally:
        child.terminate()
        child.communicate()


def load(url: str, *options: object) -> dict:
    """The results of http_load.py, run in a separate process."""
    command = [sys.executable, str(HERE / "http_load.py"), url, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr)
    found = json.loads(done.stdout)
    if found.get("failed") or "errors" in found:
        raise click.ClickException(f"the load failed: {found}")
    return found


def kernel_seconds(url: str) -> tuple[float, float]:
    """Seconds that the engine has spent on reading and sampling so far, and the tokens that it generated."""
    with urllib.request.urlopen(f"{url}/metrics") as reply:
        text = reply.read().decode()
    names = ("step_seconds_sum", "choice_seconds_total", "tokens_total")
    step, choice, tokens = (float(re.search(rf"^rwkv_np_{n} (\S+)", text, re.M)[1]) for n in names)  # type: ignore[index]
    return step + choice, tokens


def prefill_rate(url: str, vocab: int, n_tokens: int) -> float:
    """Tokens per second of one long prompt."""
    options = ("--clients", 1, "--requests", 1, "--prompt", n_tokens, "--tokens", 1, "--vocab", vocab)
    return n_tokens / load(url, *options, "--seed", 77)["first_s"]["p50"]


def by_clients(url: str, clients: list[int], tokens: int, vocab: int, is_ours: bool) -> dict:
    """Rates and waiting times for several numbers of clients, and the share of time outside the kernels."""
    found = {}
    for n in clients:
        before = kernel_seconds(url) if is_ours else (0.0, 0.0)
        # One round, long enough for all answers to overlap. A new seed, so that no prompt is in the cache.
        length = tokens + 3 * n
        options = ("--clients", n, "--requests", n, "--prompt", PROMPT, "--tokens", length, "--vocab", vocab)
        row = load(url, *options, "--seed", n)
        if is_ours:
            kernels, written = (after - b for after, b in zip(kernel_seconds(url), before))
            row["outside"] = 1 - kernels / (n * length / row["tokens_per_s"])
        found[n] = row
    return found


def with_stall(url: str, vocab: int, long: int) -> dict:
    """Time between tokens of seven clients while an eighth one's long prompt is read, relative to that without it."""
    row = load(url, "--clients", 7, "--prompt", PROMPT, "--vocab", vocab, "--seed", 5, "--stall", long)
    return row | {f"ratio_{p}": row["during"][p] / row["before"][p] for p in ("p50", "p99")}


def by_turns(url: str, vocab: int, n_turns: int) -> dict:
    """Time to the first token at turn 20 relative to turn 2, with messages of the same length."""
    first = load(url, "--turns", n_turns, "--prompt", 10, "--tokens", 20, "--vocab", vocab)["first_by_turn"]
    early, late = sorted(first[1:4])[1], sorted(first[-3:])[1]
    return {"first_by_turn": first, "ratio": late / early}


def with_cache(url: str, vocab: int) -> dict:
    """Time to the first token of prompts with a common prefix, when it is new and when it is in the cache."""
    options = ("--clients", 1, "--requests", 3, "--prompt", 600, "--shared", 560, "--tokens", 2, "--vocab", vocab)
    cold, warm = (load(url, *options, "--seed", 9)["first_s"] for _ in range(2))
    return {"cold_s": cold["p99"], "warm_s": warm["p50"]}


def with_poisson(url: str, vocab: int, tokens: int, rate: float, limit: tuple[float, float]) -> dict:
    """Requests at random times, at 50 % and 90 % of the server's capacity, and how many are answered within `limit`."""
    found = {}
    for share in (0.5, 0.9):
        per_second = share * rate / tokens
        options = ("--rate", per_second, "--requests", 24, "--prompt", PROMPT, "--tokens", tokens, "--vocab", vocab)
        row = load(url, *options, "--seed", int(100 * share), "--limit", *limit)
        found[str(share)] = row | {"requests_per_s": per_second}
    return found


def measure(
    url: str, clients: list[int], tokens: int, vocab: int, long: int, only: list[str], limit: tuple[float, float],
    is_ours: bool,
) -> dict:  # fmt: skip
    """All requested parts."""
    load(url, "--clients", 2, "--requests", 2, "--prompt", 8, "--tokens", 4, "--vocab", vocab)  # warms up
    found: dict = {}
    if "clients" in only:
        found["prefill_tokens_per_s"] = prefill_rate(url, vocab, 1024)
        found["clients"] = by_clients(url, clients, tokens, vocab, is_ours)
        alone = found["clients"][clients[0]]["together_per_s"]
        for row in found["clients"].values():
            row["by_one"] = row["together_per_s"] / alone
            row["by_prefill"] = row["together_per_s"] / found["prefill_tokens_per_s"]
    if "stall" in only:
        found["stall"] = with_stall(url, vocab, long)
    if "turns" in only:
        found["turns"] = by_turns(url, vocab, 20)
    if "cache" in only:
        found["cache"] = with_cache(url, vocab)
    if "poisson" in only:
        rate = max(row["tokens_per_s"] for row in found["clients"].values()) if "clients" in found else 100
        found["poisson"] = with_poisson(url, vocab, tokens, rate, limit)
    return found


def show(found: dict) -> None:
    """The figures as text."""
    if "clients" in found:
        click.echo(f"prompt: {found['prefill_tokens_per_s']:.0f} tokens/s")
        heads = (("clients", 7), ("tokens/s", 10), ("÷ one", 7), ("÷ prompt", 10), ("outside", 9))
        waits = (("first p50, p99", 18), ("between p50, p99", 17))
        click.echo("".join(f"{head:>{width}}" for head, width in heads + waits))
        for n, row in found["clients"].items():
            first, between = ([1e3 * row[name][p] for p in ("p50", "p99")] for name in ("first_s", "between_s"))
            click.echo(
                f"{n:>7}{row['together_per_s']:>10.1f}{row['by_one']:>7.2f}{row['by_prefill']:>10.2f}"
                f"{row.get('outside', float('nan')):>9.1%}{first[0]:>9.0f} {first[1]:>6.0f}ms"
                f"{between[0]:>8.1f} {between[1]:>6.1f}ms"
            )
    if stall := found.get("stall"):
        click.echo(
            f"seven write while one reads a long prompt ({stall['reading_s']:.1f} s): between tokens "
            f"x {stall['ratio_p50']:.2f} (p50), x {stall['ratio_p99']:.2f} (p99)"
        )
    if turns := found.get("turns"):
        click.echo(f"first token of turn 20 ÷ turn 2: {turns['ratio']:.2f}")
    if cache := found.get("cache"):
        click.echo(f"first token, beginning new / known: {cache['cold_s']:.3f} / {cache['warm_s']:.3f} s")
    for share, row in found.get("poisson", {}).items():
        first, between = ([row[name][p] for p in ("p50", "p99")] for name in ("first_s", "between_s"))
        click.echo(
            f"{row['requests_per_s']:.2f} requests/s ({float(share):.0%} of the most): first token "
            f"{first[0]:.2f}, {first[1]:.2f} s; between {1e3 * between[0]:.0f}, {1e3 * between[1]:.0f} ms; "
            f"in time {row['goodput_per_s']:.2f} requests/s"
        )


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Create a random model with this published shape.")
@click.option("--format", "type_name", default="Q4_1", help="Data type of that model.")
@click.option("--url", help="Measure the server at this address instead.")
@click.option("--clients", default="1,2,4,8,16,32", help="Numbers of clients; the first is the baseline.")
@click.option("--tokens", default=64, help="Tokens of an answer.")
@click.option("--long", default=4000, help="Tokens of the long prompt.")
@click.option("--vocab", default=50_000, help="Token ids of prompts are below this.")
@click.option("--only", default=",".join(PARTS), help="Which parts to measure.")
@click.option(
    "--limit", nargs=2, default=(1.0, 0.1), help="Seconds to the first token, and between tokens: what is in time."
)
@click.option("--tokenizer", help="As for the server.  [default: by the vocabulary]")
@click.option("--threads", type=int, help="Threads of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    model: Path | None, shape: str | None, type_name: str, url: str | None, clients: str, tokens: int, long: int,
    vocab: int, only: str, limit: tuple[float, float], tokenizer: str | None, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a server with MODEL, or with a synthetic model of a given --shape."""
    if sum(given is not None for given in (model, shape, url)) != 1:
        raise click.UsageError("Give one of MODEL, --shape and --url.")
    arguments = [int(n) for n in clients.split(",")], tokens, vocab, long, only.split(","), limit, url is None
    with tempfile.TemporaryDirectory() as folder:
        if url:
            found = measure(url, *arguments)
        else:
            path = model or write_synthetic(Path(folder) / f"{shape}-{type_name}.bin", shape, type_name)
            given = {"--threads": threads, "--tokenizer": tokenizer}
            with serving(path, *(part for name, value in given.items() if value for part in (name, str(value)))) as own:
                found = measure(own, *arguments)
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
