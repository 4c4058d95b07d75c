"""Models that think before they answer: what is read, shown, remembered and saved, with a scripted model."""

import itertools
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_parameters, write_model
from scripted import END, GREEDY, PIECE, PieceTokenizer, ScriptedModel, say, text_read

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.language import Language
from rwkv_np.chat.line import handle
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.screen import JsonScreen, Screen
from rwkv_np.chat.session import Session
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.chat.thinking import Thoughts, split_thought
from rwkv_np.errors import ConversationFileError, InputError
from rwkv_np.models import load
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer

LEADS = {"off": b" <think>\n</think", "on": b" <think", "auto": b""}
ANSWER = (b"\n", b"Yes", b"!\n", b"\nWhy?", b"\n\nUser", b":")
SAYS = {
    "on": (b">\n", b"Hm", b".\n\nSo.\n", b"</th", b"ink>", *ANSWER),
    "off": (b">", *ANSWER),
    "auto": (b" Yes", *ANSWER[2:]),
}
PIECES = tuple(itertools.chain(*SAYS.values()))
PLAIN = "User: x\n\nAssistant: Yes!\n\nWhy?"


class Thinker(ScriptedModel):
    """Gives a specified answer for each possible end of a prompt."""

    def logits(self, after):
        begin = max((i for i, token in enumerate(after) if token == ord(":")), default=-1) + 1
        said = after[begin:]
        mode, lead = next(entry for entry in LEADS.items() if said[: len(entry[1])] == list(entry[1]))
        first = PIECE + sum(len(SAYS[earlier]) for earlier in itertools.takewhile(lambda each: each != mode, SAYS))
        n = len(said) - len(lead)
        logits = np.zeros(1000, np.float32)
        logits[END] = 50
        if n < len(SAYS[mode]):
            logits[first + n] = 99
        return logits


def thinking(mode="on", keep_thoughts=False, opening="", **settings):
    params = SamplingParams(**(GREEDY | {"max_tokens": 50} | settings))
    template = replace(TEMPLATES["g1"], think=mode)
    return Conversation(Thinker(), PieceTokenizer(PIECES), template, params, opening, keep_thoughts=keep_thoughts)


def read_for_answer(chat):
    return chat.tokenizer.decode(chat.last.after_prompt.state)


# --- separating thought and answer


def test_thought_and_answer_are_told_apart_wherever_the_text_is_cut():
    text = " <think>a</thi\n\nb</think>\nc</think> <think>"
    for cuts in itertools.combinations(range(len(text) + 1), 2):
        thoughts, found = Thoughts(), {True: "", False: ""}
        for begin, end in itertools.pairwise((0, *cuts, len(text))):
            for is_thought, part in thoughts.push(text[begin:end]):
                found[is_thought] += part
        assert found == {True: "a</thi\n\nb", False: "\nc</think> <think>"}
        assert list(thoughts.flush()) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (" Hi <think>x</think>", (None, " Hi <think>x</think>")),
        ("<thin", (None, "<thin")),
        ("<think>a</th", ("a</th", "")),
        ("<think>\n</think>\nb", ("\n", "\nb")),
        ("", (None, "")),
    ],
)
def test_a_text_without_a_whole_thought_is_told_apart_too(text, parts):
    assert split_thought(text) == parts


# --- what is read


@pytest.mark.parametrize(
    ("mode", "prompt"),
    [
        ("auto", "User: x\n\nAssistant:"),
        ("on", "User: x\n\nAssistant: <think"),
        ("off", "User: x\n\nAssistant: <think>\n</think"),
        ("short", "User: x (think a bit)\n\nAssistant: <think"),
    ],
)
def test_each_way_to_think_has_its_prompt_and_later_turns_are_read_after_the_answer_alone(mode, prompt):
    chat = thinking(mode)
    say(chat)
    turn = chat.turns[-1]
    assert read_for_answer(chat) == prompt
    assert turn.answer.strip() == "Yes!\n\nWhy?" and turn.stop_reason == "stop"
    thought = {"auto": None, "off": "\n"}.get(mode, "\nHm.\n\nSo.\n")
    assert turn.thought == thought and text_read(chat) == PLAIN
    say(chat, "y")
    assert text_read(chat) == PLAIN + "\n\n" + PLAIN.replace("User: x", "User: y")
    assert read_for_answer(chat) == PLAIN + "\n\n" + prompt.replace("User: x", "User: y")


def test_thoughts_are_remembered_if_that_is_wanted():
    chat = thinking(keep_thoughts=True)
    say(chat)
    assert text_read(chat) == "User: x\n\nAssistant: <think>\nHm.\n\nSo.\n</think>\nYes!\n\nWhy?"


def test_a_turn_is_undone_edited_and_given_again_as_if_there_were_no_thoughts():
    chat = thinking(opening="Open.")
    for message in ("x", "y", "z"):
        say(chat, message)
    chat.undo()
    assert text_read(chat) == f"Open.\n\n{PLAIN}\n\n{PLAIN.replace('User: x', 'User: y')}"
    for _ in range(2):  # from the tokens, then from the state after the prompt
        assert "".join(chat.answer_again()).startswith(">\nHm.")
        assert text_read(chat).count("User") == 2 and "think" not in text_read(chat)
    list(chat.edit("z"))
    assert text_read(chat) == f"Open.\n\n{PLAIN}\n\n{PLAIN.replace('User: x', 'User: z')}"
    chat.fork("side")
    say(chat, "side")
    chat.switch("main")
    assert text_read(chat) == f"Open.\n\n{PLAIN}\n\n{PLAIN.replace('User: x', 'User: z')}"


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("first", range(1, 11))
def test_an_answer_broken_off_anywhere_goes_on_with_its_thought(first, forgotten):
    whole, chat = thinking(), thinking()
    for each in (whole, chat):
        say(each, "before")
    say(whole)
    list(chat.ask("x", max_tokens=first))
    if forgotten:
        chat.state()
        chat.turns[-1].after_answer = None  # as for old turns
    list(chat.continue_answer())
    assert chat.turns[-1].text == whole.turns[-1].text and chat.turns[-1].thought == "\nHm.\n\nSo.\n"
    assert chat.state() == whole.state() and len(chat.turns) == 2


def test_a_thought_that_did_not_end_is_no_answer():
    chat = thinking(max_tokens=3)
    say(chat)
    assert chat.turns[-1].answer == "" and text_read(chat) == "User: x\n\nAssistant:"


def test_states_that_were_let_go_of_are_made_again_without_thoughts():
    chat = thinking()
    for message in ("x", "y", "z"):
        say(chat, message)
    before = chat.state()
    for turn in chat.turns:
        turn.forget(also_end=True)
    assert chat.turns[-1].n_bytes == 0 and chat.state() == before


def test_however_large_states_are_a_message_is_not_read_after_the_whole_conversation_again(monkeypatch):
    monkeypatch.setattr("rwkv_np.chat.conversation.STATE_BUDGET", 1)
    chat = thinking()
    read = []
    for _ in range(4):
        before = chat.model.n_read
        say(chat)
        read.append(chat.model.n_read - before)
    assert read[1] == read[2] - len("\n\n") == read[3] - len("\n\n")
    assert [turn.end is not None for turn in chat.turns] == [False, False, True, False]
    assert text_read(chat) == "\n\n".join([PLAIN] * 4)


def test_the_last_message_is_thought_about_in_another_way_when_that_was_changed():
    chat = thinking("off")
    say(chat)
    at = Session(chat, Screen(Language("en")), {})
    handle(at, "/think on")
    assert "".join(chat.answer_again()).startswith(">\nHm.") and len(chat.turns) == 1
    assert text_read(chat) == PLAIN
    handle(at, "/think short")
    list(chat.answer_again())
    assert read_for_answer(chat) == "User: x (think a bit)\n\nAssistant: <think" and text_read(chat) == PLAIN


# --- what is shown


def session(screen=Screen, **options):
    return Session(thinking(**options), screen(Language("en"), quiet=True), {"name": "m", "fingerprint": "f"})


@pytest.fixture
def at_terminal(monkeypatch, capsys):
    """Start a session whose answers go to a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def begin():
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return session()

    return begin


def test_in_a_pipe_there_is_only_the_answer(capsys):
    for mode in ("on", "off", "auto"):
        handle(session(mode=mode), "x")
        assert capsys.readouterr() == ("Yes!\n\nWhy?\n", "")


def test_at_a_terminal_a_thought_is_dim_and_the_answer_is_not(at_terminal, capsys):
    handle(at_terminal(), "x")
    out = capsys.readouterr().out
    dim = re.findall("\x1b\\[2m(.*?)\x1b\\[0m", out, re.S)
    assert "".join(dim) == "Hm.So." and out.endswith("\n\nYes!\n\nWhy?\n")
    assert re.sub("\x1b\\[[0-9;]*m", "", out) == "Assistant: Hm.\n\nSo.\n\nYes!\n\nWhy?\n"


def test_without_colour_a_thought_has_none(at_terminal, monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    handle(at_terminal(), "x")
    assert capsys.readouterr().out == "Assistant: Hm.\n\nSo.\n\nYes!\n\nWhy?\n"


def test_a_thought_is_a_line_where_it_shall_not_be_shown(at_terminal, capsys):
    at = at_terminal()
    handle(at, "/set show_thinking off")
    assert "show_thinking = False" in capsys.readouterr().err
    handle(at, "x")
    out, err = capsys.readouterr()
    assert "Hm" not in out and out.endswith("Yes!\n\nWhy?\n") and "[thought for 3 tokens;" in err
    handle(at, "/settings")
    assert re.search(r"^show_thinking +off$", capsys.readouterr().err, re.M)
    list(at.conversation.ask("x", max_tokens=2))
    handle(at, "/continue")
    assert "Hm" not in capsys.readouterr().out
    at.screen.hides_thoughts = True
    handle(at, "x")
    out, err = capsys.readouterr()
    assert "Hm" not in out and err == ""


def test_a_folded_thought_is_unfolded_when_it_is_asked_for(at_terminal, capsys):
    at = at_terminal()
    with pytest.raises(InputError, match="the last answer has no thinking"):
        handle(at, "/thought")
    handle(at, "/set show_thinking off")
    handle(at, "x")
    assert "/thought shows it" in capsys.readouterr().err
    handle(at, "/thought")
    assert capsys.readouterr() == ("", "Hm.\n\nSo.\n")
    at.conversation.template = replace(at.conversation.template, think="off")
    handle(at, "x")
    with pytest.raises(InputError, match="the last answer has no thinking"):
        handle(at, "/thought")


def test_what_was_said_before_moves_no_cursor_when_it_is_shown_again(monkeypatch, capsys):
    screen = Screen(Language("en"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    screen.show("a\x1b[2J")
    screen.show_thought("b\x1b[2J")
    assert capsys.readouterr().err == "a\\x1b[2J\nb\\x1b[2J\n"


def test_a_pipe_is_told_why_there_is_no_answer(capsys):
    handle(session(max_tokens=3), "x")
    out, err = capsys.readouterr()
    assert out == "\n" and "thinking was cut off after 3 tokens" in err


def test_a_thought_that_goes_on_is_shown_from_there(at_terminal, monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    at = at_terminal()
    list(at.conversation.ask("x", max_tokens=2))
    handle(at, "/continue")
    assert capsys.readouterr().out == ".\n\nSo.\n\nYes!\n\nWhy?\n"
    list(at.conversation.ask("x", max_tokens=4))  # in the middle of the mark
    handle(at, "/continue")
    assert capsys.readouterr().out == "Yes!\n\nWhy?\n"
    list(at.conversation.ask("x", max_tokens=7))
    handle(at, "/continue")
    assert capsys.readouterr().out == "!\n\nWhy?\n"


def test_json_lines_have_the_thought_apart(capsys):
    for mode, reasoning in (("on", "Hm.\n\nSo."), ("off", None), ("auto", None)):
        handle(session(JsonScreen, mode=mode), "x")
        found = json.loads(capsys.readouterr().out)
        assert (found["text"], found["reasoning"]) == ("Yes!\n\nWhy?", reasoning)


def test_how_to_think_is_set_and_checked(capsys):
    at = session()
    handle(at, "/think")
    handle(at, "/think off")
    assert capsys.readouterr().err == "think = on\nthink = off\n"
    handle(at, "x")
    assert read_for_answer(at.conversation).endswith(" <think>\n</think")
    with pytest.raises(InputError, match="/think deep: expected one of auto, on, off, short"):
        handle(at, "/think deep")
    at.conversation.template = TEMPLATES["raven"]
    with pytest.raises(InputError, match="the template raven does not support thinking"):
        handle(at, "/think on")


# --- what is saved


MODEL = {"name": "m.bin", "fingerprint": "f" * 32}


def saved_one(model):
    """With a random model, the prompt of "off" starts thoughts, and they never end."""
    params = SamplingParams(top_p=1.0, seed=7, max_tokens=8)
    return Conversation(model, load_tokenizer("bytes"), replace(TEMPLATES["g1"], think="off"), params, "An opening.")


def test_a_loaded_conversation_goes_on_with_the_very_same_tokens(tmp_path, monkeypatch):
    model = load(write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(0))))
    chat = saved_one(model)
    for message in ("one", "two"):
        say(chat, message)
    chat.fork("side")
    say(chat, "three")
    chat.switch("main")
    save_conversation(chat, tmp_path / "a", MODEL)
    loaded = load_conversation(tmp_path / "a", saved_one(model), MODEL)
    assert loaded.template == chat.template
    assert [turn.thought for turn in loaded.turns] == [turn.thought for turn in chat.turns]
    for act in (lambda c: list(c.continue_answer()), lambda c: list(c.answer_again()), lambda c: say(c, "next"),
                lambda c: c.undo(2) and say(c, "other"), lambda c: c.switch("side") or say(c, "five")):  # fmt: skip
        assert act(loaded) == act(chat)
        np.testing.assert_array_equal(loaded.state().wkv, chat.state().wkv)
        assert bytes(loaded.turns[-1].ids) == bytes(chat.turns[-1].ids) and b"think" not in bytes(chat.turns[-1].ids)
    read = []
    monkeypatch.setattr(model, "advance", lambda ids, state, advance=model.advance: (
        read.append(np.size(ids)) or advance(ids, state)
    ))  # fmt: skip
    save_conversation(chat, tmp_path / "c", MODEL)
    loaded = load_conversation(tmp_path / "c", saved_one(model), MODEL)
    read.clear()
    assert list(loaded.continue_answer(max_tokens=4)) == list(chat.continue_answer(max_tokens=4))
    assert set(read) == {1}, "the thought is not read again"
    chat.template = chat.template.__class__("g1", "User", "Assistant", think="deep")
    save_conversation(chat, tmp_path / "b", MODEL)
    with pytest.raises(ConversationFileError, match="is damaged"):
        load_conversation(tmp_path / "b", chat, MODEL)
