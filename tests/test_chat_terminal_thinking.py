"""RWKV-7 from a checkpoint to a chat that thinks, on a real screen and in lines of JSON."""

import json
import re

import pytest
from terminal import chat_starter, holds, thinker  # noqa: F401 (a fixture)

PROMPT = "User: x\n\nAssistant:"


@pytest.fixture
def model(run_cli, tmp_path):
    """A model file that `rwkv-np convert` made from a checkpoint."""
    checkpoint = thinker(tmp_path / "rwkv7-g1-tiny.pth")
    run_cli("convert", checkpoint, tmp_path / "rwkv7-g1-tiny.bin")
    return tmp_path / "rwkv7-g1-tiny.bin"


@pytest.fixture
def sit(sit_down, model):
    return lambda *options: sit_down(
        model,
        "--template",
        "g1",
        "--seed",
        3,
        "--temperature",
        1.5,
        "--top-p",
        1,
        "--top-k",
        0,
        "--figures",
        *options,
        name="User:",
    )


@pytest.mark.parametrize(("mode", "n_more"), [("on", 7), ("short", 7 + 14)])
def test_a_model_of_rwkv_7_thinks_on_the_screen(sit, mode, n_more):
    chat = sit("--think", mode, "--max-tokens", 40)
    assert holds(chat.screen.rows[0] + chat.screen.rows[1], "rwkv7-g1-tiny.bin: RWKV-7, 2 layers", "g1 template")
    shown = chat.say("x")
    (thought,) = re.findall("^Assistant: ([a-z]{39})$", shown, re.M)
    assert f"\x1b[2m{thought[0]}" in chat.raw, "it is dimmed"
    assert "[stopped after 40 tokens" in shown and f"prompt {len(PROMPT) + n_more}," in shown
    assert chat.say("/thought") == thought
    assert chat.say("/set show_thinking off") == "show_thinking = False"
    shown = chat.say("/regen")
    assert "[thought for 40 tokens; /thought shows it]" in shown and not re.search("[a-z]{39}", shown)
    assert re.fullmatch("[a-z]{39}", chat.say("/thought"))


def test_a_model_of_rwkv_7_answers_at_once_where_it_shall_not_think(sit):
    chat = sit("--think", "on", "--max-tokens", 40)
    assert chat.say("/think off") == "think = off"
    shown = chat.say("x")
    (answer,) = re.findall("^Assistant: ([a-z]{39})$", shown, re.M)
    assert f"\x1b[2m{answer[0]}" not in chat.raw and f"prompt {len(PROMPT) + 16}," in shown
    assert holds(chat.say("/thought"), "Error: the last answer has no thinking")


def test_json_has_the_thought_of_a_model_of_rwkv_7_apart(run_cli, model):
    def said(mode):
        result = run_cli(
            "chat", model, "-p", "x", "--json", "--template", "g1", "--think", mode, "--seed", 3, "--max-tokens", 40
        )
        return json.loads(result.stdout)

    for mode, n_more in (("on", 7), ("short", 7 + 14)):
        found = said(mode)
        assert re.fullmatch("[a-z]{39}", found["reasoning"]) and found["text"] == ""
        assert (found["prompt_tokens"], found["stop_reason"]) == (len(PROMPT) + n_more, "length")
    found = said("off")
    assert found["reasoning"] is None and re.fullmatch("[a-z]{39}", found["text"])
    assert re.fullmatch("[a-z]{40}", said("auto")["text"])
