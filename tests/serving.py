"""For tests: a server with the demo model in a separate thread, and a server whose engine is scripted by the test."""

import contextlib
import functools
import json
import threading
import time
from dataclasses import dataclass, field, replace

import httpx

import rwkv_np
from rwkv_np import demo
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.limits import EngineLimits
from rwkv_np.serve.mailbox import Outbox
from rwkv_np.serve.prompt import Prompts
from rwkv_np.serve.server import Server, bind, submitter, url_of
from rwkv_np.serve.service import Service
from rwkv_np.serve.worker import Worker
from rwkv_np.tokenizers import load_tokenizer

NAME = "demo-FP16"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@functools.cache
def demo_model():
    return rwkv_np.load(demo.MODEL, threads=1)


@functools.cache
def demo_tokenizer():
    return load_tokenizer(vocab_size=4096, model_path=demo.MODEL)


def service(submit, outbox, *, template="raven", opening=None, tokenizer=None, **changes):
    tokenizer = tokenizer or demo_tokenizer()
    prompts = Prompts(tokenizer, TEMPLATES.get(template, template), opening)
    return Service(NAME, "fp_test", tokenizer, prompts, submit, outbox, **changes)


@dataclass
class Running:
    """A running server; `client` sends requests to it."""

    server: Server
    client: httpx.Client
    url: str

    def post(self, path, body, **options):
        return self.client.post(path, json=body, **options)

    def chat(self, messages=FRANCE, **fields):
        return self.post("/v1/chat/completions", {"messages": messages, "temperature": 0, **fields})

    def text(self, *args, **fields):
        answer = self.chat(*args, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def stream(self, path, body, **options):
        """The events of a stream, as (data, its JSON), including comments."""
        answer = self.post(path, {"stream": True, **body}, **options)
        assert answer.status_code == 200, answer.text
        return events(answer.content)


def events(content):
    assert content.endswith(b"\n\n")
    return [
        json.loads(part[6:]) if part.startswith(b"data: {") else part.decode() for part in content[:-2].split(b"\n\n")
    ]


def joined(pieces, index=0):
    deltas = [choice["delta"] for piece in pieces[:-1] for choice in piece["choices"] if choice["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


@contextlib.contextmanager
def running(*, limits=None, key=None, drain_seconds=5, worker=None, **changes):
    """A server on a free port."""
    outbox = Outbox()
    if worker is None:
        worker = Worker(demo_model(), limits or EngineLimits(), outbox.hand_over)
    worker.outbox = outbox
    made = service(
        submitter(worker), outbox, is_draining=lambda: worker.is_draining, is_alive=lambda: worker.is_alive, **changes
    )
    listening = bind("127.0.0.1", 0)
    url = url_of(listening)
    server = Server(made, worker, listening, drain_seconds)
    thread = threading.Thread(target=server.run)
    thread.start()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False) as client:
            wait_for(lambda: answers(client))
            yield Running(server, client, url)
    finally:
        server.end()
        thread.join(20)
        assert not thread.is_alive()


def answers(client):
    try:
        return client.get("/health").status_code in (200, 503)
    except httpx.TransportError:
        return False


def wait_for(condition, seconds=10.0):
    """Wait until a condition is true, long enough for a slow machine."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


@dataclass
class PlayedTicket:
    request: object
    listener: object
    is_cancelled: bool = False

    def cancel(self):
        self.is_cancelled = True


@dataclass
class PlayedWorker:
    """An engine whose output comes from the test, in the test's thread."""

    tickets: list = field(default_factory=list)
    owners: list = field(default_factory=list)
    refuses: Exception = None
    is_alive: bool = True
    is_draining: bool = False
    outbox: Outbox = None

    def start(self):
        pass

    def stop(self):
        pass

    def drain(self, timeout):
        self.is_draining = True

    def submit(self, request, listener):
        self.owners.append(request.owner)
        if self.refuses:
            raise self.refuses
        self.tickets.append(ticket := PlayedTicket(request, listener))
        return ticket

    def asked(self, n=1):
        return wait_for(lambda: len(self.tickets) >= n and self.tickets[n - 1])

    def say(self, listener, text, index=0):
        for token in demo_tokenizer().encode(text):
            listener.take(index, token, None)
        self.outbox.hand_over()


def small_bounds(**changes):
    return replace(Bounds(), **changes)
