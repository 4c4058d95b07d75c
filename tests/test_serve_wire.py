"""The server's responses, as bytes and objects, over real HTTP with the demo model."""

import json

import pytest

pytest.importorskip("uvicorn")

from serving import FRANCE, NAME, events, joined, running  # noqa: E402

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def server():
    with running() as made:
        yield made


def test_a_chat_answer_has_every_field_that_clients_read(server):
    answer = server.chat()
    found = answer.json()
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"].startswith("req_")
    assert found["id"].startswith("chatcmpl-") and found["object"] == "chat.completion" and found["model"] == NAME
    assert isinstance(found["created"], int) and found["system_fingerprint"]
    message = {"role": "assistant", "content": PARIS}
    assert found["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


def test_the_demo_model_answers_in_chinese_and_continues_a_conversation(server):
    assert "巴黎" in server.text([{"role": "user", "content": "法国的首都是哪里？"}])
    talk = [*FRANCE, {"role": "assistant", "content": PARIS}, {"role": "user", "content": "What is 3 plus 4?"}]
    assert "7" in server.text(talk) or "seven" in server.text(talk)


def test_the_frames_of_a_stream_byte_by_byte(server):
    body = {"messages": FRANCE, "temperature": 0, "max_tokens": 2, "stream": True}
    answer = server.post(CHAT, {**body, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = events(answer.content)[0]
    head = (
        f'data: {{"id":"{found["id"]}","object":"chat.completion.chunk","created":{found["created"]},'
        f'"model":"{NAME}","system_fingerprint":"fp_test","choices":['
    )
    usage = events(answer.content)[-2]["usage"]

    def frame(delta, finish="null"):
        return (
            f'{head}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}\n\n'
        ).encode()

    assert answer.content == b"".join(
        [
            frame('{"role":"assistant","content":""}'), frame('{"content":"The"}'), frame('{"content":" capital"}'),
            frame("{}", '"length"'), f'{head}],"usage":{json.dumps(usage, separators=(",", ":"))}}}\n\n'.encode(),
            b"data: [DONE]\n\n",
        ]
    )  # fmt: skip


def test_without_include_usage_no_chunk_has_it(server):
    pieces = server.stream(CHAT, {"messages": FRANCE, "temperature": 0})
    assert pieces[-1] == "data: [DONE]"
    assert all("usage" not in piece and piece["choices"] for piece in pieces[:-1])


@pytest.mark.parametrize("fields", [{}, {"seed": 5, "temperature": 1}, {"stop": ["Fra", "is P"]}, {"max_tokens": 3}])
def test_a_stream_joined_is_the_whole_answer(server, fields):
    body = {"messages": FRANCE, "temperature": 0, "logprobs": True, "top_logprobs": 2, **fields}
    whole = server.post(CHAT, body).json()["choices"][0]
    pieces = server.stream(CHAT, body)
    assert joined(pieces) == whole["message"]["content"]
    choices = [choice for piece in pieces[:-1] for choice in piece["choices"]]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    prices = [each for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]]
    assert prices == whole["logprobs"]["content"]


def test_a_seed_gives_the_same_answers_and_n_of_them_differ(server):
    asked = {"messages": [{"role": "user", "content": "Tell me a story."}], "seed": 3, "n": 3, "max_tokens": 40}
    first, again = (server.post(CHAT, asked).json()["choices"] for _ in range(2))
    assert first == again
    assert len({choice["message"]["content"] for choice in first}) == 3
    pieces = server.stream(CHAT, asked)
    assert [joined(pieces, i) for i in range(3)] == [choice["message"]["content"] for choice in first]


def test_a_stop_string_is_never_shown_and_may_span_tokens(server):
    whole = server.chat(stop=["ance is"]).json()["choices"][0]
    assert whole["message"]["content"] == "The capital of Fr" and whole["finish_reason"] == "stop"


def test_chat_logprobs_have_bytes_and_alternatives(server):
    asked = [{"role": "user", "content": "法国的首都是哪里？"}]
    choice = server.chat(asked, logprobs=True, top_logprobs=3).json()["choices"][0]
    content = choice["logprobs"]["content"]
    text = b"".join(bytes(each["bytes"]) for each in content).decode()
    assert text.strip() == choice["message"]["content"].strip()
    for each in content:
        assert len(each["top_logprobs"]) == 3
        assert each["top_logprobs"][0]["logprob"] == each["logprob"] <= 0  # greedy
        assert each["token"] == bytes(each["bytes"]).decode("utf-8", "replace")


def test_completion_logprobs_distinguish_tokens_that_are_not_text(server):
    body = {"prompt": "Bob: 龘靐", "temperature": 0, "max_tokens": 8, "logprobs": 5, "echo": True}
    prices = server.post(TEXT, body).json()["choices"][0]["logprobs"]
    assert sum(name.startswith("bytes:\\x") for name in prices["tokens"]) >= 6
    assert len(set(prices["tokens"])) > 6  # as text all of these would be the same
    for name, logprob, top in list(zip(prices["tokens"], prices["token_logprobs"], prices["top_logprobs"]))[1:]:
        assert top[name] == logprob and 5 <= len(top) <= 6


def test_echo_gives_the_prompt_with_its_probabilities(server):
    body = {"prompt": "Bob: hi\n\nAlice:", "temperature": 0, "max_tokens": 3, "logprobs": 1, "echo": True}
    choice = server.post(TEXT, body).json()["choices"][0]
    prices, text = choice["logprobs"], choice["text"]
    assert text.startswith(body["prompt"]) and "".join(prices["tokens"]) == text
    assert prices["token_logprobs"][0] is None and prices["top_logprobs"][0] is None
    assert all(lp <= 0 for lp in prices["token_logprobs"][1:])
    assert [text[at : at + len(name)] for at, name in zip(prices["text_offset"], prices["tokens"])] == prices["tokens"]
    pieces = server.stream(TEXT, body)
    assert "".join(piece["choices"][0]["text"] for piece in pieces[:-1]) == text
    assert [lp for p in pieces[:-1] for lp in p["choices"][0]["logprobs"]["token_logprobs"]] == prices["token_logprobs"]


def test_a_prompt_can_be_scored_without_generating_tokens(server):
    body = {"prompt": "Bob: hi\n\nAlice:", "max_tokens": 0, "logprobs": 1, "echo": True}
    choice = server.post(TEXT, body).json()["choices"][0]
    assert choice["text"] == body["prompt"] and len(choice["logprobs"]["tokens"]) > 3
    assert choice["finish_reason"] == "length"


def test_prompts_in_all_four_forms(server):
    ids = server.post("/tokenize", {"prompt": "Once upon"}).json()["tokens"]

    def texts(prompt, **fields):
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 5, **fields}
        return [(c["index"], c["text"]) for c in server.post(TEXT, body).json()["choices"]]

    [(_, one)] = texts("Once upon")
    assert one and texts(ids) == [(0, one)]
    assert texts(["Once upon", "Bob: hi"])[0] == (0, one) and texts([ids, ids]) == [(0, one), (1, one)]
    assert [index for index, _ in texts(["Once upon", "a"], n=2)] == [0, 1, 2, 3]
    assert texts("") and server.post(TEXT, {"prompt": []}).status_code == 400
    assert server.post(TEXT, {"prompt": ["a", 1]}).json()["error"]["param"] == "prompt"
    assert server.post(TEXT, {"prompt": [4096]}).json()["error"]["param"] == "prompt"


def test_best_of_gives_the_most_likely(server):
    body = {"prompt": "Once", "seed": 1, "max_tokens": 8, "logprobs": 0}
    every = server.post(TEXT, {**body, "n": 4}).json()["choices"]
    best = server.post(TEXT, {**body, "best_of": 4}).json()
    mean = {c["text"]: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"]) for c in every}
    assert [c["text"] for c in best["choices"]] == [max(mean, key=mean.get)]
    assert server.post(TEXT, {**body, "best_of": 2, "n": 3}).json()["error"]["param"] == "best_of"


def test_tokens_and_back(server):
    found = server.post("/tokenize", {"prompt": "法国 and Bob", "add_special_tokens": False}).json()
    assert found["count"] == len(found["tokens"]) > 3
    assert server.post("/detokenize", {"tokens": found["tokens"]}).json()["prompt"] == "法国 and Bob"
    info = server.client.get("/tokenizer_info").json()
    assert server.post("/tokenize", {"content": info["eos_token"]}).json()["tokens"] == [info["eos_token_id"]]
    assert server.post("/detokenize", {"tokens": [9999]}).json()["error"]["param"] == "tokens"
    assert server.post("/tokenize", {}).status_code == 400


def test_a_base_url_without_v1_works(server):
    body = {"messages": FRANCE, "temperature": 0, "max_tokens": 5}
    short, full = (server.post(f"{prefix}/chat/completions", body).json()["choices"] for prefix in ("", "/v1"))
    assert short == full
    assert server.client.get("/models").json() == server.client.get("/v1/models").json()
    assert server.post("/completions", {"prompt": "a", "max_tokens": 1}).json()["object"] == "text_completion"


def test_models_health_and_metrics(server):
    card = server.client.get("/v1/models").json()["data"][0]
    assert card["id"] == NAME and server.client.get(f"/v1/models/{NAME}").json() == card
    assert server.client.get("/v1/models/gpt-4").json()["error"]["code"] == "model_not_found"
    assert server.client.get("/health").json() == {"status": "ok"}
    server.chat()
    figures = server.client.get("/metrics").text
    assert 'rwkv_np_requests_total{route="/v1/chat/completions",status="200"}' in figures
    assert "rwkv_np_first_token_seconds_count" in figures


def test_penalties_bias_and_ends_reach_the_sampler(server):
    assert (
        server.text(logit_bias={str(server.post("/tokenize", {"prompt": " The"}).json()["tokens"][0]): -100}) != PARIS
    )
    plain = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60}
    text = server.post(TEXT, plain).json()["choices"][0]["text"]
    changed = server.post(TEXT, {**plain, "frequency_penalty": 2.0}).json()["choices"][0]["text"]
    assert changed != text
    assert (
        server.post(TEXT, {**plain, "max_tokens": 300, "ignore_eos": True}).json()["usage"]["completion_tokens"] == 300
    )


BAD = [
    (CHAT, {"messages": FRANCE, "foo": 1}, "foo"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": FRANCE, "n": 0}, "n"),
    (CHAT, {"messages": FRANCE, "n": "2"}, "n"),
    (CHAT, {"messages": FRANCE, "temperature": -1}, "temperature"),
    (CHAT, {"messages": FRANCE, "top_p": 1.5}, "top_p"),
    (CHAT, {"messages": FRANCE, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": FRANCE, "max_completion_tokens": 10**9}, "max_completion_tokens"),
    (CHAT, {"messages": FRANCE, "stop": ["a" * 300]}, "stop[0]"),
    (CHAT, {"messages": FRANCE, "stop": "a" * 300}, "stop"),
    (CHAT, {"messages": FRANCE, "stop": ["a"] * 17}, "stop"),
    (CHAT, {"messages": FRANCE, "logit_bias": {"5000": 1}}, "logit_bias"),
    (CHAT, {"messages": FRANCE, "logit_bias": {"x": 1}}, "logit_bias"),
    (CHAT, {"messages": FRANCE, "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    (CHAT, {"messages": FRANCE, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": FRANCE, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": FRANCE, "functions": []}, "functions"),
    (CHAT, {"messages": FRANCE, "store": True}, "store"),
    (CHAT, {"messages": FRANCE, "think": "on"}, "think"),
    (CHAT, {"messages": FRANCE, "reasoning_effort": "high"}, "reasoning_effort"),
    (CHAT, {"messages": FRANCE, "continue_final_message": True}, "continue_final_message"),
    (CHAT, {"messages": FRANCE, "tool_choice": "required"}, "tool_choice"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXT, {"prompt": "a", "logprobs": 50}, "logprobs"),
    (TEXT, {"prompt": ["a"] * 65}, "prompt"),
    (TEXT, {"prompt": ["a"] * 64, "n": 3}, "n"),
    (TEXT, {}, "prompt"),
]  # fmt: skip


@pytest.mark.parametrize("path, body, param", BAD)
def test_an_error_names_the_invalid_field(server, path, body, param):
    answer = server.post(path, body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["param"] == param


NEUTRAL = {
    "user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "stop": None, "logit_bias": None, "tools": None,
    "parallel_tool_calls": True, "functions": None, "modalities": ["text"], "response_format": {"type": "text"},
    "stream_options": None, "seed": -1, "prompt_cache_key": "x", "store": False, "model": NAME, "n": 1,
}  # fmt: skip


def test_fields_without_effect_are_accepted(server):
    assert server.text(**NEUTRAL) == PARIS


def test_invalid_json_and_unknown_paths_get_the_error_object(server):
    for content in (b"{", b"", b"[1]", b"\xff", b'{"messages":' + b"[" * 100_000):
        answer = server.client.post(CHAT, content=content)
        assert answer.status_code == 400 and answer.json()["error"]["message"], content
    assert server.client.get("/nope").json()["error"]["code"] == "not_found"
    assert server.client.get("/health/").status_code == 404
    wrong = server.client.get(CHAT)
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and wrong.json()["error"]["code"]
    assert server.chat(model="gpt-4").status_code == 404
    half = server.client.post(CHAT, content=rb'{"messages":[{"role":"user","content":"\ud800"}]}')
    assert half.status_code == 400


def test_content_in_parts_and_the_developer_s_role(server):
    parts = [{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}]
    assert server.text([{"role": "user", "content": parts}]) == PARIS
    system, developer = (
        server.chat([{"role": role, "content": "Bob asks and Alice answers."}, *FRANCE]).json()
        for role in ("system", "developer")
    )
    assert system["choices"] == developer["choices"]
    assert system["usage"]["prompt_tokens"] > server.chat().json()["usage"]["prompt_tokens"]


def test_an_answer_can_be_continued(server):
    begun = [*FRANCE, {"role": "assistant", "content": "The capital of"}]
    assert server.text(begun, continue_final_message=True) == " France is Paris."


def test_the_description_names_every_route_and_resolves(server):
    document = server.client.get("/openapi.json").json()
    assert {
        CHAT,
        TEXT,
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/health",
        "/metrics",
    } <= set(document["paths"])
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"]) and "ChatRequest" in names
    assert not document["components"]["schemas"]["ChatRequest"]["additionalProperties"]


def test_tokens_that_another_request_has_read_are_not_read_again(server):
    asked = [{"role": "user", "content": "Which planet is the largest? " * 20}]
    first, second = (server.chat(asked, max_tokens=4).json() for _ in range(2))
    details = second["usage"]["prompt_tokens_details"]
    assert first["choices"] == second["choices"] and details["cached_tokens"] > 20
