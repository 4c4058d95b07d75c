"""The same request gets the same answer alone and among others, whatever was read before, whole or as a stream."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn")

from serving import joined, running  # noqa: E402

from rwkv_np.serve.limits import EngineLimits  # noqa: E402

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WORDS = ["What is the capital of France?", "法国的首都是哪里？", "Tell me a story.", "Hi!", "What is 3 plus 4?"]


def a_request(chance):
    """(path, body) of a random request."""
    sampled = {"seed": chance.randrange(100), "temperature": chance.choice([0, 0.7, 1]), "n": chance.choice([1, 1, 2])}
    sampled |= {"max_tokens": chance.randrange(1, 30), "frequency_penalty": chance.choice([0, 0.3])}
    if chance.random() < 0.4:
        prompt = chance.choice([chance.choice(WORDS), ["Once upon", "Bob: hi\n\nAlice:"]])
        return TEXT, {"prompt": prompt, "logprobs": chance.choice([None, 2]), "echo": chance.random() < 0.3, **sampled}
    said = [{"role": "system", "content": "Alice is kind."}] if chance.random() < 0.3 else []
    for _ in range(chance.randrange(3)):
        said += [{"role": "user", "content": chance.choice(WORDS)}, {"role": "assistant", "content": "I see."}]
    said.append({"role": "user", "content": chance.choice(WORDS)})
    return CHAT, {"messages": said, "logprobs": chance.random() < 0.3, **sampled}


def asked(made, path, body, *, stream=False):
    """The content of the answer, without the fields that may differ."""
    if stream:
        pieces = made.stream(path, {**body, "stream_options": {"include_usage": True}})
        *pieces, last, _ = pieces
        usage = last["usage"]
        if path == CHAT:
            texts = [joined([*pieces, None], i) for i in range(body["n"])]
        else:
            n = max(choice["index"] for piece in pieces for choice in piece["choices"]) + 1
            texts = [
                "".join(c["text"] for piece in pieces for c in piece["choices"] if c["index"] == i) for i in range(n)
            ]
        return texts, usage["total_tokens"]
    found = made.post(path, body).json()
    texts = [choice["message"]["content"] if path == CHAT else choice["text"] for choice in found["choices"]]
    return found["choices"], texts, found["usage"]["total_tokens"]


def test_other_requests_and_the_cache_change_nothing():
    chance = random.Random(7)
    requests = [a_request(chance) for _ in range(40)]
    with running() as made:
        alone = [asked(made, *request) for request in requests]
    order = list(range(len(requests))) * 2
    chance.shuffle(order)
    streams = [chance.random() < 0.4 for _ in order]
    with running(limits=EngineLimits(running=6, cache_bytes=2_000_000)) as made, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda i, stream: asked(made, *requests[i], stream=stream), order, streams))
    for i, stream, answer in zip(order, streams, found):
        assert answer == (alone[i][1:] if stream else alone[i]), requests[i]
