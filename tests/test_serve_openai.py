"""OpenAI's own Python client against this server."""

import json

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from serving import FRANCE, NAME, PlayedWorker, running, wait_for  # noqa: E402

from rwkv_np.serve.keys import Keys  # noqa: E402
from rwkv_np.serve.request import Refused  # noqa: E402

PARIS = "The capital of France is Paris."
KEY = "a-key-for-tests"


def client_of(made, **options):
    options = {"api_key": KEY, "max_retries": 0, "timeout": 20, **options}
    return openai.OpenAI(base_url=f"{made.url}/v1", **options)


@pytest.fixture(scope="module")
def made():
    with running(keys=Keys([KEY]), key=KEY) as server:
        yield server


@pytest.fixture
def client(made):
    with client_of(made) as found:
        yield found


def test_a_chat_and_its_stream(client):
    whole = client.chat.completions.create(model=NAME, messages=FRANCE, temperature=0)
    assert whole.choices[0].message.content == PARIS and whole.choices[0].finish_reason == "stop"
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0
    stream = client.chat.completions.create(
        model=NAME, messages=FRANCE, temperature=0, stream=True, stream_options={"include_usage": True},
        logprobs=True, top_logprobs=1,
    )  # fmt: skip
    pieces = list(stream)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == PARIS
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": pieces[-1].usage.prompt_tokens_details}
    )
    assert {piece.id for piece in pieces} == {pieces[0].id}


def test_the_client_s_own_stream_helper(client):
    with client.chat.completions.stream(model=NAME, messages=FRANCE, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == PARIS


def test_completions_and_models(client):
    found = client.completions.create(model=NAME, prompt=["Once upon", "a"], max_tokens=3, temperature=0, logprobs=1)
    assert [choice.index for choice in found.choices] == [0, 1] and len(found.choices[0].logprobs.tokens) == 3
    pieces = list(client.completions.create(model=NAME, prompt="Once upon", max_tokens=3, temperature=0, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == found.choices[0].text
    assert [card.id for card in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def test_extra_fields_work_with_extra_body(client):
    own = {"top_k": 1, "min_p": 0.1, "penalty_decay": 0.99, "think": "auto"}
    found = client.chat.completions.create(model=NAME, messages=FRANCE, temperature=1, seed=1, extra_body=own)
    assert found.choices[0].message.content == PARIS


def test_errors_have_the_client_s_classes(made, client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=NAME, messages=FRANCE, extra_body={"foo": 1})
    assert raised.value.param == "foo" and raised.value.code == "unknown_field"
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-4", messages=FRANCE)
    assert raised.value.code == "model_not_found"
    with client_of(made, api_key="another-key") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_the_client_retries_after_the_requested_time():
    worker = PlayedWorker(refuses=Refused("too much", 1))
    with running(worker=worker) as made, client_of(made, max_retries=1) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model=NAME, messages=FRANCE)
        assert raised.value.response.headers["retry-after"] == "1"
        wait_for(lambda: b'status="429"} 2.0' in made.server.service.metrics.text())


def test_a_schema_and_a_call(client):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"is_city": {"type": "boolean"}},
        "required": ["is_city"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    found = client.chat.completions.create(model=NAME, messages=FRANCE, temperature=0, response_format=named)
    assert set(json.loads(found.choices[0].message.content)) == {"is_city"}
    tools = [{"type": "function", "function": {"name": "check", "parameters": schema}}]
    asked = {"model": NAME, "temperature": 0, "tools": tools}
    found = client.chat.completions.create(messages=FRANCE, tool_choice="required", **asked)
    message = found.choices[0].message
    [call] = message.tool_calls
    assert call.function.name == "check" and set(json.loads(call.function.arguments)) == {"is_city"}
    answered = [*FRANCE, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "yes"}]
    assert client.chat.completions.create(messages=answered, **asked).choices
