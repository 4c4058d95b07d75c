"""A load generator for servers with OpenAI's API: many clients, and the arrival time of each token.

The client is 60 lines on asyncio's sockets: it shares two cores with the measured server, and an HTTP library needs as
long for a chunk as the server does. Prompts are token ids, so that their length is exact and a random model can be
measured. Answers never end early, since the end of text is banned.

    python bench/http_load.py http://127.0.0.1:8000 --clients 8 --requests 32 --prompt 32 --tokens 64 --json
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import urlsplit

import click
import numpy as np

END_OF_TEXT = 0


@dataclass
class Answer:
    """The result of a request; times are seconds since the start of the run.

    asked  when the request was sent
    times  when each chunk with text arrived
    error  the error, if there was one
    """

    asked: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    n_tokens: int = 0
    n_cached: int = 0
    error: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.asked

    @property
    def between(self) -> list[float]:
        """Seconds between tokens."""
        return np.diff(self.times).tolist()


class Clock:
    """Seconds since its creation."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._begin


async def events(url: str, path: str, body: dict, key: str = "") -> AsyncIterator[dict]:
    """The JSON documents of a streamed answer. Raises OSError, ValueError with the server's error."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json", "Connection: close"]
    head += [f"Content-Length: {len(data)}", *([f"Authorization: Bearer {key}"] if key else [])]
    try:
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        status = (await reader.readline()).split()
        while (await reader.readline()).strip():
            pass
        if status[1:2] != [b"200"]:
            raise ValueError(f"{status[1:2]} {(await reader.read(2000))!r}")
        async for line in reader:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
    finally:
        writer.close()


async def ask(url: str, path: str, body: dict, clock: Clock, answer: Answer | None = None) -> Answer:
    """Send a request, and record the arrival times of its tokens, in `answer` if given."""
    answer = answer or Answer(0.0)
    answer.asked = clock()
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async for event in events(url, path, body):
            if "error" in event:
                raise ValueError(event["error"])
            if usage := event.get("usage"):
                answer.n_tokens = usage["completion_tokens"]
                answer.n_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            for choice in event["choices"]:
                if text := choice.get("text") or choice.get("delta", {}).get("content"):
                    answer.times.append(clock())
                    answer.text += text
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        answer.error = str(error) or type(error).__name__
    return answer


@dataclass(frozen=True)
class Load:
    """The requests of the clients.

    prompt, tokens  number of tokens in a prompt and in an answer
    shared          number of tokens in the common prefix of all prompts
    """

    url: str
    prompt: int
    tokens: int
    vocab: int = 50_000
    shared: int = 0
    seed: int = 0

    def body(self, number: int) -> dict:
        """Request `number`: always the same."""
        both = np.random.default_rng(self.seed), np.random.default_rng([self.seed, number + 1])
        common, own = (rng.integers(1, self.vocab, self.prompt).tolist() for rng in both)
        prompt = common[: self.shared] + own[self.shared :]
        return {"prompt": prompt, "max_tokens": self.tokens, "seed": number, "logit_bias": {END_OF_TEXT: -100}}

    async def ask(self, number: int, clock: Clock) -> Answer:
        return await ask(self.url, "/v1/completions", self.body(number), clock)


async def closed(load: Load, clients: int, requests: int) -> list[Answer]:
    """Each client sends its next request as soon as it has its answer."""
    clock, numbers = Clock(), iter(range(requests))

    async def client() -> list[Answer]:
        return [await load.ask(number, clock) for number in numbers]

    found = await asyncio.gather(*(client() for _ in range(clients)))
    return [answer for answers in found for answer in answers]


async def poisson(load: Load, per_second: float, requests: int) -> list[Answer]:
    """Requests arrive at random times, `per_second` on average, whether others have been answered or not."""
    clock, rng = Clock(), np.random.default_rng(load.seed)
    times = np.cumsum(rng.exponential(1 / per_second, requests))

    async def one(number: int) -> Answer:
        await asyncio.sleep(max(0.0, times[number] - clock()))
        return await load.ask(number, clock)

    return list(await asyncio.gather(*map(one, range(requests))))


async def stalled(load: Load, writers: int, long_prompt: int, before: float) -> dict:
    """Seconds between the tokens of `writers` answers, while after `before` seconds another long prompt is read."""
    clock, endless = Clock(), replace(load, tokens=30_000)
    answers = [Answer(0.0) for _ in range(writers)]
    tasks = [
        asyncio.create_task(ask(load.url, "/v1/completions", endless.body(number), clock, answer))
        for number, answer in enumerate(answers)
    ]
    while not all(answer.times or answer.error for answer in answers):
        await asyncio.sleep(0.05)
    begin = clock()
    await asyncio.sleep(before)
    middle = clock()
    long = await Load(load.url, long_prompt, 1, load.vocab, seed=1).ask(0, clock)
    end = clock()
    for task in tasks:
        task.cancel()
    if long.error or any(answer.error for answer in answers):
        raise click.ClickException(f"the load failed: {long.error} {[answer.error for answer in answers]}")
    gaps = [pair for answer in answers for pair in zip(answer.times[1:], answer.between)]
    return {
        "before": _percentiles([gap for at, gap in gaps if begin < at <= middle]),
        "during": _percentiles([gap for at, gap in gaps if middle < at <= end]),
        "reading_s": end - middle,
    }


async def turns(load: Load, n_turns: int) -> list[Answer]:
    """A conversation whose messages and answers all have the same length."""
    clock, messages, found = Clock(), [], []
    rng = np.random.default_rng(load.seed)
    for _ in range(n_turns):
        words = " ".join(str(number) for number in rng.integers(100, 999, load.prompt))
        messages.append({"role": "user", "content": words})
        body = {"messages": messages, "max_tokens": load.tokens, "seed": 1, "logit_bias": {END_OF_TEXT: -100}}
        answer = await ask(load.url, "/v1/chat/completions", body, clock)
        messages.append({"role": "assistant", "content": answer.text})
        found.append(answer)
    return found


def summary(answers: list[Answer]) -> dict:
    """Rates and percentiles of a run."""
    good = [answer for answer in answers if answer.times and not answer.error]
    if not good:
        return {"requests": len(answers), "errors": [answer.error for answer in answers][:3]}
    seconds = max(answer.times[-1] for answer in good) - min(answer.asked for answer in good)
    between = [gap for answer in good for gap in answer.between]
    # While all answers are being generated: when the first ends, the others become faster.
    begin, end = max(answer.times[0] for answer in good), min(answer.times[-1] for answer in good)
    n_written = sum(begin < at <= end for answer in good for at in answer.times)
    together = {"together_per_s": n_written / (end - begin)} if end > begin else {}
    return together | {
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "tokens_per_s": sum(answer.n_tokens for answer in good) / seconds,
        "first_s": _percentiles([answer.first for answer in good]),
        "between_s": _percentiles(between or [0.0]),
    }


def goodput(answers: list[Answer], first: float, between: float) -> float:
    """Requests per second with the first token within `first` seconds and 99 % of the gaps at most `between`
    seconds."""
    good = [answer for answer in answers if answer.times and not answer.error]
    if not good:
        return 0.0
    in_time = [a for a in good if a.first <= first and np.percentile(a.between or [0.0], 99) <= between]
    return len(in_time) / (max(answer.times[-1] for answer in good) - min(answer.asked for answer in good))


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}


@click.command(context_settings={"show_default": True})
@click.argument("url")
@click.option("--clients", default=8, help="Number of concurrent clients.")
@click.option("--rate", type=float, help="Requests per second at random times, instead of --clients.")
@click.option("--stall", type=int, help="Tokens of a prompt that is read while the clients' answers are generated.")
@click.option("--turns", "n_turns", type=int, help="Turns of a conversation, instead of --clients.")
@click.option("--requests", default=32, help="How many requests.")
@click.option("--prompt", default=32, help="Tokens (with --turns: words) of a prompt.")
@click.option("--shared", default=0, help="Length of the common prefix of all prompts.")
@click.option("--tokens", default=64, help="Tokens of an answer.")
@click.option("--vocab", default=50_000, help="Token ids are below this.")
@click.option("--seed", default=0, help="Seed of the prompts.")
@click.option("--limit", nargs=2, type=float, help="Seconds to the first token, and between tokens, for the goodput.")
@click.option("--answers", "with_answers", is_flag=True, help="Print every answer too, with its times.")
def main(
    url: str, clients: int, rate: float | None, stall: int | None, n_turns: int | None, requests: int, prompt: int,
    shared: int, tokens: int, vocab: int, seed: int, limit: tuple[float, float] | None, with_answers: bool,
) -> None:  # fmt: skip
    """Put a load on the server at URL, and print one JSON document."""
    load = Load(url.rstrip("/"), prompt, tokens, vocab, shared, seed)
    if stall:
        click.echo(json.dumps(asyncio.run(stalled(load, clients, stall, before=4.0))))
        return
    if n_turns:
        answers = asyncio.run(turns(load, n_turns))
    elif rate:
        answers = asyncio.run(poisson(load, rate, requests))
    else:
        answers = asyncio.run(closed(load, clients, requests))
    extra = {"first_by_turn": [answer.first for answer in answers]} if n_turns else {}
    document = summary(answers) | extra | ({"goodput_per_s": goodput(answers, *limit)} if limit else {})
    if with_answers:
        document["answers"] = [asdict(answer) for answer in answers]
    click.echo(json.dumps(document))


if __name__ == "__main__":
    main()
