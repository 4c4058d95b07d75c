"""From messages to ids: the server reads what the chat would have read, and knows where a message ends."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_parameters, write_model

pytest.importorskip("msgspec")

import rwkv_np  # noqa: E402
from rwkv_np.chat.conversation import Conversation  # noqa: E402
from rwkv_np.chat.opening import NO_OPENING, Opening, bundled_opening  # noqa: E402
from rwkv_np.chat.templates import TEMPLATES  # noqa: E402
from rwkv_np.sampling import SamplingParams  # noqa: E402
from rwkv_np.serve.bodies import CalledFunction, ChatRequest, FunctionSpec, Message, Tool, ToolCall  # noqa: E402
from rwkv_np.serve.chat_parts import ChatParts  # noqa: E402
from rwkv_np.serve.errors import ApiError  # noqa: E402
from rwkv_np.serve.prompt import Prompt, Prompts, language_of  # noqa: E402
from rwkv_np.serve.tools import ToolChoice  # noqa: E402
from rwkv_np.tokenizers import load_tokenizer  # noqa: E402

TOOL = Tool(type="function", function=FunctionSpec(name="look_up", parameters={"type": "object"}))


@pytest.fixture(scope="module")
def world():
    return load_tokenizer("world")


def said(*texts):
    """Messages in turns, the person's first."""
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


def no_tools(**fields):
    return ToolChoice(ChatRequest(messages=said("hi"), **fields))


def made(tokenizer, template, messages, opening=None, think="auto", goes_on=False, tools=None):
    prompts = Prompts(tokenizer, TEMPLATES[template], opening)
    return prompts.of(messages, think, tools or no_tools(), goes_on=goes_on)


def text(tokenizer, *args, **options):
    return tokenizer.decode(made(tokenizer, *args, **options).ids.tolist())


@pytest.mark.parametrize("template", ["world", "g1"])
@pytest.mark.parametrize("opening", [NO_OPENING, Opening(text="You answer in one sentence.")])
def test_the_ids_are_those_of_the_chat(tmp_path, world, template, opening):
    arrays = random_parameters(np.random.default_rng(0), 1, 32, 32, 65536)
    model = rwkv_np.load(write_model(tmp_path / "model.bin", arrays), threads=1)
    params = SamplingParams(max_tokens=3, seed=1)
    chat = Conversation(model, world, TEMPLATES[template], params, opening.render(TEMPLATES[template]))
    read = world.encode(chat.opening) if chat.opening else []
    messages = []
    for message in ("What is tea?\n\nAnd coffee?", "你好"):
        for _ in chat.ask(message):
            pass
        chat.turns[-1].text = "It is a drink."  # what the model says is of no use; the server gets such a text back
        chat.turns[-1].tokens = tuple(world.encode(" It is a drink."))
        messages += said(message, "It is a drink.")
    expected = [*read, *(token for turn in chat.turns for token in turn.ids)]
    asked = [*messages, *said("Why?")]
    found = made(world, template, asked, opening).ids.tolist()
    assert found[: len(expected)] == expected
    assert found[len(expected) :] == world.encode_prompt("\n\n" + TEMPLATES[template].prompt("Why?"))


def test_every_mark_is_an_edge_that_the_next_request_shares(world):
    first = made(world, "g1", [Message(role="system", content="Be brief."), *said("Hi", "Hello!", "Who are you?")])
    more = said("Hi", "Hello!", "Who are you?", "A model.", "Oh")
    later = made(world, "g1", [Message(role="system", content="Be brief."), *more])
    assert len(first.marks) == 4 and first.marks[-1] == first.ids.size  # system, turn, answer, turn
    assert set(first.marks) < set(later.marks)
    assert later.ids[: first.ids.size].tolist() == first.ids.tolist()
    assert world.decode(first.ids[: first.marks[0]].tolist()) == "System: Be brief."


def test_an_opening_stands_in_for_a_missing_system_text_only(world):
    system = Message(role="system", content="{user} is 7 years old.")
    assert text(world, "world", said("hi")).startswith("User: hi\n\nAssistant: Hi! I am your assistant.")
    assert text(world, "world", said("你好")).startswith("User: 你好\n\nAssistant: 你好")
    assert text(world, "world", [system, *said("hi")]) == "{user} is 7 years old.\n\nUser: hi\n\nAssistant:"
    assert text(world, "world", said("hi"), NO_OPENING) == "User: hi\n\nAssistant:"
    assert text(world, "g1", said("hi")) == "User: hi\n\nAssistant:"


def test_the_language_of_an_opening_is_the_first_message_s():
    assert [language_of([each]) for each in ("Hello", "法国", "フランス", "")] == ["en", "zh", "ja", "en"]
    assert bundled_opening(TEMPLATES["raven"], "ja").turns


def test_blank_lines_that_would_end_a_turn_are_closed_up(world):
    messages = said("a\n\nb", "c\n\nd", "e")
    assert "c\nd" in text(world, "world", messages, NO_OPENING)
    assert "c\n\nd" in text(world, "g1", messages)  # its answers have paragraphs


def test_thoughts_of_earlier_answers_are_left_out(world):
    messages = said("a", "b", "c")
    messages[1].reasoning_content = "hmm"
    assert text(world, "g1", messages, think="on") == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: <think"
    assert made(world, "g1", messages, think="off").lead == " <think>\n</think"


def test_an_answer_that_goes_on_keeps_its_thought(world):
    messages = said("a", "It")
    assert text(world, "g1", messages, goes_on=True) == "User: a\n\nAssistant: It"
    messages[1].reasoning_content = "\nhmm\n"
    assert text(world, "g1", messages, goes_on=True) == "User: a\n\nAssistant: <think>\nhmm\n</think>It"
    messages[1].content = ""
    assert text(world, "g1", messages, goes_on=True) == "User: a\n\nAssistant: <think>\nhmm\n"


def test_messages_of_one_role_in_a_row_are_one_turn(world):
    two = [*said("a"), *said("b")]
    assert text(world, "g1", two) == "User: a\nb\n\nAssistant:"
    assert text(world, "g1", said("a", "b")) == "User: a\n\nAssistant: b\n\nAssistant:"


def test_templates_with_single_turns_read_the_last_question_alone(world):
    assert text(world, "qa", said("a", "b", "c")) == "Q: c\n\nA:"
    with pytest.raises(ApiError, match="without system text"):
        made(world, "qa", [Message(role="system", content="x"), *said("a")])


def test_functions_calls_and_results_are_read(world):
    tools = no_tools(tools=[TOOL])
    call = ToolCall(CalledFunction("look_up", '{"word":"tea"}'), "call_1")
    messages = [
        Message(role="system", content="Be brief."),
        *said("What is tea?"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", tool_call_id="call_1", content="a drink"),
    ]
    found = text(world, "g1", messages, tools=tools)
    assert found.startswith("System: Be brief.\nYou can call functions.") and '"name": "look_up"' in found
    assert 'Assistant: {"name":"look_up","arguments":{"word":"tea"}}\n\nUser: look_up returned: a drink' in found


def parts(prompt, text, *, tools=None, begun=""):
    """What a client gets of a text that comes character by character, and all at once."""
    results = []
    for pieces in (list(text), [text]):
        found = ChatParts(prompt, begun, tools or no_tools())
        said = [found.push(piece) for piece in pieces] + [found.finish()]
        results.append(("".join(t for t, _ in said), "".join(a for _, a in said), found.call))
    assert results[0] == results[1]
    return results[0]


def test_thought_and_answer_are_told_apart():
    prompt = Prompt(np.zeros(1, np.int64), (), "")
    assert parts(prompt, " <think>hm</think>\n\nYes") == ("hm", "Yes", None)
    assert parts(prompt, " Yes <think>") == ("", "Yes <think>", None)
    assert parts(replace(prompt, lead=" <think"), ">hm</think> Yes") == ("hm", "Yes", None)
    assert parts(replace(prompt, lead=" <think>\n</think"), ">\nYes") == ("", "Yes", None)
    assert parts(replace(prompt, lead=None), " <think>") == ("", "<think>", None)
    assert parts(replace(prompt, begun=True), " more", begun="It is") == ("", " more", None)
    assert parts(replace(prompt, begun=True), "m</think>Yes", begun="<think>h") == ("m", "Yes", None)


def test_a_call_is_told_from_a_text():
    prompt = Prompt(np.zeros(1, np.int64), ())
    tools = no_tools(tools=[TOOL])
    assert parts(prompt, ' {"name": "look_up", "arguments": {"a": 1}}', tools=tools)[2].arguments == '{"a":1}'
    for no_call in (" Tea is {a}", ' {"name": "other", "arguments": {}}', ' {"name": "look_up"', ' {"a": 1}', " {"):
        assert parts(prompt, no_call, tools=tools) == ("", no_call.strip(), None)
