"""Answers with a required format, and function calls: the format is kept whatever the model would generate."""

import json
import sys

import jsonschema
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("llguidance")

from serving import FRANCE, demo_tokenizer, joined, running  # noqa: E402

from rwkv_np.serve.errors import ApiError  # noqa: E402
from rwkv_np.serve.schema import Grammars, json_grammar  # noqa: E402

CHAT = "/v1/chat/completions"
WORD = {"type": "string", "pattern": "^[a-z]{1,8}$"}
SCHEMA = {
    "type": "object",
    "properties": {"city": WORD, "is_capital": {"type": "boolean"}, "kind": {"enum": ["old", "new"]}},
    "required": ["city", "is_capital", "kind"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time", "description": "What time it is."}},
]


@pytest.fixture(scope="module")
def server():
    with running() as made:
        yield made


def of(schema, **more):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}}


@pytest.mark.parametrize("fields", [{}, {"temperature": 1, "seed": 4}, {"stream": True}, {"n": 2, "seed": 1}])
def test_an_answer_fits_its_schema(server, fields):
    if fields.get("stream"):
        text = joined(server.stream(CHAT, {"messages": FRANCE, "temperature": 0, **of(SCHEMA)}))
        assert text == server.text(**of(SCHEMA))
        texts = [text]
    else:
        choices = server.chat(**{**of(SCHEMA, strict=True), **fields}).json()["choices"]
        assert {choice["finish_reason"] for choice in choices} == {"stop"}
        texts = [choice["message"]["content"] for choice in choices]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


def test_any_object(server):
    answer = server.chat(response_format={"type": "json_object"}, max_tokens=30).json()["choices"][0]
    assert answer["message"]["content"].startswith("{")


def test_other_servers_forms_of_a_schema(server):
    """llama.cpp's: a schema beside json_object, and a schema without a name."""
    unnamed = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for form in ({"type": "json_object", "schema": SCHEMA}, unnamed):
        assert server.text(response_format=form) == server.text(**of(SCHEMA)), form
    wrong = server.chat(response_format={"type": "json_object", "schema": {"type": "hiccup"}})
    assert wrong.json()["error"]["code"] == "invalid_schema"


def test_a_forced_call(server):
    for choice, name in (({"type": "function", "function": {"name": "weather"}}, "weather"), ("required", None)):
        found = server.chat(tools=TOOLS, tool_choice=choice).json()["choices"][0]
        [call] = found["message"]["tool_calls"]
        assert found["finish_reason"] == "tool_calls" and found["message"]["content"] is None
        assert call["type"] == "function" and call["id"].startswith("call_")
        assert name in (None, call["function"]["name"])
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "weather":
            jsonschema.validate(arguments, SCHEMA)
    body = {"messages": FRANCE, "temperature": 0, "tools": TOOLS, "tool_choice": "required"}
    pieces = server.stream(CHAT, body)
    deltas = [piece["choices"][0]["delta"] for piece in pieces[:-1]]
    [[streamed]] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert streamed["index"] == 0 and streamed["function"] == call["function"]
    assert pieces[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_model_may_answer_in_words_where_no_call_is_required(server):
    found = server.chat(tools=TOOLS).json()["choices"][0]
    assert found["finish_reason"] == "stop" and found["message"]["content"]
    none = server.chat(tools=TOOLS, tool_choice="none").json()
    assert none["choices"] == server.chat().json()["choices"]


@pytest.mark.parametrize(
    "schema", [{"type": "objct"}, {"type": "string", "pattern": "(a"}, {"$ref": "#/$defs/missing"}, {"if": {}}]
)
def test_a_schema_that_cannot_be_used_is_a_400(server, schema):
    error = server.chat(**of(schema)).json()["error"]
    assert (error["param"], error["code"]) == ("response_format", "invalid_schema") and "\n" not in error["message"]


def test_a_schema_that_no_text_fits_is_a_400_too(server):
    """This error is found during the answer."""
    for stream in (False, True):
        answer = server.chat(**of({"allOf": [{"$ref": "#"}]}), stream=stream)
        found = answer.text
        assert '"code":"invalid_schema"' in found, found


def test_schemas_have_limits(server):
    deep = {"type": "string"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    assert server.chat(**of(deep)).json()["error"]["code"] == "schema_too_deep"
    long = {"enum": ["a" * 1000] * 70}
    assert "65536" in server.chat(**of(long)).json()["error"]["message"]
    assert (
        server.chat(response_format={"type": "json_schema"}).json()["error"]["param"] == "response_format.json_schema"
    )
    wrong = server.chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}})
    assert wrong.json()["error"]["param"] == "tool_choice"


def test_without_the_package_the_error_says_what_to_install(monkeypatch, server):
    server.server.service.grammars.__dict__.pop("_tokens", None)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    answer = server.chat(**of(SCHEMA))
    assert answer.status_code == 400 and "pip install 'rwkv-np[server]'" in answer.json()["error"]["message"]
    assert server.chat().status_code == 200


@pytest.mark.parametrize(
    "lead, before", [(None, ""), (None, " "), (" <think>\n</think", ">\n"), (" <think", ">a thought\n</think>\n")]
)
def test_a_guide_continues_the_thinking_that_is_in_the_prompt(lead, before):
    tokenizer = demo_tokenizer()
    [guide] = Grammars(tokenizer, 0).guides(json_grammar({"const": {"a": 1}}, lead), 1, "x")
    for token in tokenizer.encode(f'{before}{{"a":1}}'):
        assert guide.allowed()[token]
        guide.accept(token)
    assert guide.allowed().nonzero()[0].tolist() == [0] and not guide.problem


def test_guides_of_one_request_are_independent():
    tokenizer = demo_tokenizer()
    one, two = Grammars(tokenizer, 0).guides(json_grammar({"const": "ab"}, None), 2, "x")
    before = two.allowed().copy()
    one.accept(tokenizer.encode('"ab"')[0])
    assert (two.allowed() == before).all() and (one.allowed() != before).any()
    with pytest.raises(ApiError):
        Grammars(tokenizer, 0).guides("start: (", 1, "x")
