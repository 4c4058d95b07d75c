"""Ten thousand short requests of every kind against one server with the demo model, for an hour's worth of trouble.

    python tests/serve_soak.py --requests 10000 --seed 1

Answers that are streamed or not, clients that hang up at any moment, bodies that are cut or are no JSON, clients that
read slowly or not at all, several at a time. At the end four conditions must be true:

- every answer that was finished is, to the byte, what the same request got alone, before the traffic began;
- every request that is wrong got an error object with a status of 4xx, and nothing got a 500;
- no slot is taken and nothing waits;
- the process's own memory is at most 2 % above what it was after the first fifth of the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from urllib.request import urlopen

HOST = "127.0.0.1"
GROWTH = 1.02
CLIENTS = 12
SAID = (
    "Hello!", "What is the capital of Peru?", "Tell me a story.", "秘鲁用什么货币？", "How do you say tea in Chinese?",
    "What is seven times eight?", "🦙?", "Tell me another story.", "法国的首都是哪里？", "And then?",
)  # fmt: skip
MALFORMED = (
    b"", b"{", b"[]", b"null", b'{"messages": 3}', b'{"messages": []}', b'{"messages": [{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}', b"\xff\xfe", b"[" * 5000,
    b'{"messages": [{"role": "user", "content": "hi"}], "n": 100000}', b'{"messages": [{"role": "x"}]}',
)  # fmt: skip


def chat(rng: random.Random) -> dict:
    """The body of a request: a short conversation."""
    messages = []
    for _ in range(rng.randrange(3)):
        messages.append({"role": "user", "content": rng.choice(SAID)})
        messages.append({"role": "assistant", "content": "Yes."})
    messages.append({"role": "user", "content": rng.choice(SAID)})
    body = {"messages": messages, "seed": rng.randrange(5), "temperature": rng.choice([0, 1]), "max_tokens": 24}
    if rng.random() < 0.2:
        body["n"] = 2
    if rng.random() < 0.2:
        body |= {"logprobs": True, "top_logprobs": 2}
    return body


async def send(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**16)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


async def receive(reader: asyncio.StreamReader, slowly: bool = False) -> tuple[int, bytes]:
    """Status and body of a reply."""
    status = int((await reader.readline()).split()[1])
    is_chunked = False
    while line := (await reader.readline()).strip():
        is_chunked |= line.lower() == b"transfer-encoding: chunked"
    parts = []
    while part := await reader.read(64 if slowly else 2**16):
        parts.append(part)
        if slowly:
            await asyncio.sleep(0.001)
    data = b"".join(parts)
    return status, _unchunked(data) if is_chunked else data


def _unchunked(data: bytes) -> bytes:
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


def answer_of(body: dict, data: bytes) -> list:
    """What of a reply follows from its request alone: texts, log probabilities and reasons."""
    if not body.get("stream"):
        choices = json.loads(data)["choices"]
        found = [(c["message"]["content"], c["logprobs"], c["finish_reason"]) for c in choices]
        return json.loads(json.dumps(found))
    prices: dict[int, list] = {}
    reasons: dict[int, str | None] = {}
    joined: dict[int, str] = {}
    for line in data.split(b"\n\n"):
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            index = choice["index"]
            joined[index] = joined.get(index, "") + (choice["delta"].get("content") or "")
            if choice["logprobs"]:
                prices.setdefault(index, []).extend(choice["logprobs"]["content"])
            reasons[index] = choice["finish_reason"] or reasons.get(index)
    return [[joined[i], {"content": prices[i]} if i in prices else None, reasons[i]] for i in sorted(joined)]


class Soak:
    """One run. `counts` says how many requests ended in which way."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.rng, self.counts = port, random.Random(seed), Counter()
        self.known: list[tuple[dict, list]] = []
        self.problems: list[str] = []

    async def learn(self, n: int) -> None:
        """What `n` requests get when nobody else asks."""
        for _ in range(n):
            body = chat(self.rng)
            reader, writer = await send(self.port, json.dumps(body).encode())
            status, data = await receive(reader)
            writer.close()
            assert status == 200, data
            self.known.append((body, answer_of(body, data)))

    async def one(self, rng: random.Random) -> None:
        kind = rng.choices(["whole", "hang up", "malformed", "cut", "slow", "deaf"], [60, 18, 8, 6, 6, 2])[0]
        body, expected = rng.choice(self.known)
        body = body | {"stream": rng.random() < 0.5}
        data = rng.choice(MALFORMED) if kind == "malformed" else json.dumps(body).encode()
        reader, writer = await send(self.port, data)
        try:
            if kind == "hang up":
                await asyncio.sleep(rng.expovariate(100))
            elif kind == "deaf":
                await asyncio.sleep(0.3)
            elif kind == "cut":
                await self._cut(rng, data)
            else:
                status, reply = await asyncio.wait_for(receive(reader, kind == "slow"), 60)
                self._check(kind, body, expected, status, reply)
            self.counts[kind] += 1
        except (OSError, asyncio.TimeoutError, IndexError, ValueError) as error:
            self.problems.append(f"{kind}: {type(error).__name__} {error}")
        finally:
            writer.close()

    async def _cut(self, rng: random.Random, data: bytes) -> None:
        """A body that is shorter than promised, and then the end."""
        _, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data))
        writer.write(data[: rng.randrange(len(data))])
        await asyncio.sleep(rng.expovariate(200))
        writer.close()

    def _check(self, kind: str, body: dict, expected: list, status: int, reply: bytes) -> None:
        if kind == "malformed":
            error = json.loads(reply)["error"]
            if not 400 <= status < 500 or not error["message"]:
                self.problems.append(f"malformed: {status} {reply[:200]!r}")
        elif status == 429 or status == 503:
            self.counts["refused"] += 1
        elif status != 200 or answer_of(body, reply) != expected:
            self.problems.append(f"{kind}: {status} {body} gave {reply[:300]!r}; expected {expected}")

    async def run(self, n: int) -> None:
        """`n` requests, a dozen at a time."""
        numbers = iter(range(n))

        async def client(number: int) -> None:
            rng = random.Random(self.rng.random() + number)
            for _ in numbers:
                await self.one(rng)

        await asyncio.gather(*map(client, range(CLIENTS)))


def figures(port: int) -> dict[str, float]:
    """What the server says of itself."""
    with urlopen(f"http://{HOST}:{port}/metrics") as reply:
        found = re.findall(r"^(\w+) ([0-9.e+-]+)$", reply.read().decode(), re.M)
    return {name: float(value) for name, value in found}


def own_memory(pid: int) -> int:
    """Bytes of the process's own memory: not of mapped files."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def idle_figures(port: int) -> dict[str, float]:
    """The figures once nothing runs, or after ten seconds."""
    end = time.monotonic() + 10
    while True:
        found = figures(port)
        busy = sum(found[f"rwkv_np_{name}"] for name in ("waiting_requests", "reading_prompts", "writing_answers"))
        if not busy or time.monotonic() > end:
            return found | {"busy": busy}
        time.sleep(0.1)


def main() -> int:
    """Run it. The exit status is 1 if a condition is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=GROWTH, help="most memory at the end, by that at a fifth")
    parser.add_argument("--known", type=int, default=60, help="how many different requests")
    options = parser.parse_args()
    command = [sys.executable, "-m", "rwkv_np.serve", "--port", "0", "--cache-mb", "8"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        port = next(int(found[1]) for line in server.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        soak = Soak(port, options.seed)
        asyncio.run(soak.learn(options.known))
        asyncio.run(soak.run(options.requests // 5))
        idle_figures(port)
        before = own_memory(server.pid)
        asyncio.run(soak.run(options.requests - options.requests // 5))
        after, last = own_memory(server.pid), idle_figures(port)
    finally:
        server.terminate()
        server.wait(60)
    growth = after / before
    report = {
        "requests": dict(soak.counts), "memory_mb": [round(before / 1e6, 1), round(after / 1e6, 1)],
        "growth": round(growth, 4), "busy_at_the_end": last["busy"],
        "problems": soak.problems[:10], "n_problems": len(soak.problems),
    }  # fmt: skip
    print(json.dumps(report, ensure_ascii=False, indent=1))
    return int(bool(soak.problems) or growth > options.growth or last["busy"] > 0)


if __name__ == "__main__":
    sys.exit(main())
