"""Conversations: what the model has read after each possible action, with a scripted model."""

import numpy as np
import pytest
from scripted import END, PIECE, Liking, PieceTokenizer, TokensRead, conversation, say, splits, text_read

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import FREE, TEMPLATES, template_for
from rwkv_np.errors import InputError
from rwkv_np.sampling import SamplingParams


def test_the_model_reads_a_conversation_as_its_training_text_has_it():
    chat = conversation()
    assert say(chat, "Hi  ") == " Hello!"
    assert text_read(chat) == "Bob: Hi\n\nAlice: Hello!"
    assert say(chat, "And\r\n\r\n \n\nthen?") == " Hello!"
    assert text_read(chat) == "Bob: Hi\n\nAlice: Hello!\n\nBob: And\nthen?\n\nAlice: Hello!"


def test_the_opening_is_read_before_the_first_message_and_once():
    chat = conversation(opening="A talk.\n\nBob: a\n\nAlice: b")
    say(chat, "Hi")
    assert text_read(chat) == "A talk.\n\nBob: a\n\nAlice: b\n\nBob: Hi\n\nAlice: Hello!"
    chat.reset()
    n_read = chat.model.n_read
    assert text_read(chat) == "A talk.\n\nBob: a\n\nAlice: b" and chat.model.n_read == n_read


# --- where an answer ends


@pytest.mark.parametrize("name", ["raven", "world", "g1", "qa"])
def test_no_stop_of_a_template_is_shown_or_remembered_at_any_split_over_tokens(name):
    for stop in TEMPLATES[name].stop:
        data = " é.".encode() + stop.encode()
        for pieces in splits(data[-11:]):
            chat = conversation([piece for piece in (data[:-11], *pieces) if piece], name)
            assert say(chat) == " é."
            assert (chat.turns[-1].text, chat.turns[-1].stop_reason) == (" é.", "stop")
            assert chat.tokenizer.decode(chat.turns[-1].after_answer.state).endswith(f"{chat.template.bot}: é.")


def test_an_answer_never_runs_into_another_turn():
    for rest in (b"\nBob: B", b"\n\nB", b"\nAlice: B", "\nBob：B".encode(), "\nAlice：B".encode()):
        assert say(conversation([b" A", *(rest[i : i + 1] for i in range(len(rest)))])) == " A"


def test_the_state_after_a_stop_is_that_of_a_conversation_that_never_produced_it():
    stopped, ended = conversation([b" Hel", b"lo!", b"\n", b"\nBob"]), conversation([b" Hel", b"lo!"])
    for chat in (stopped, ended):
        say(chat)
        say(chat, "y")
    assert stopped.turns[0].stop_reason == "stop" and ended.turns[0].stop_reason == "stop_id"
    assert stopped.state() == ended.state()


@pytest.mark.parametrize("template", ["raven", "instruction"])
def test_an_answer_does_not_begin_by_ending(template):
    chat = conversation([b" A"], template, max_tokens=1)
    liked = np.zeros(1000, np.float32)
    liked[[ord("\n"), END, PIECE]] = 3, 2, 1
    chat.model = Liking(liked)
    assert say(chat) == " A"
    chat.turns[-1].stop_reason = "stop"
    assert "".join(chat.continue_answer()) == " A"  # nor does a continuation after an end
    assert chat.turns[-1].text == " A A"


def test_blank_lines_inside_the_answer_to_an_instruction_are_part_of_it():
    chat = conversation([b"One.", b"\n\n", b"Two.", b"\n# Inst", b"ruction:"], "instruction")
    assert say(chat, "List two.") == "One.\n\nTwo."


def test_instructions_have_their_input_after_a_blank_line():
    form = TEMPLATES["instruction"].turn("Translate.\n\nGuten\n\nTag")
    assert form.endswith("\n\n# Instruction:\nTranslate.\n\n# Input:\nGuten\nTag\n\n# Response:\n")
    assert "# Input" not in TEMPLATES["instruction"].turn("Translate.\nGuten Tag")


def test_the_template_is_chosen_by_the_vocabulary_and_the_architecture():
    assert template_for(50277, "v4").turn("x") == "Bob: x\n\nAlice:"
    assert template_for(65536, "v4").turn("x") == template_for(65536, "v7").turn("x") == "User: x\n\nAssistant:"
    found = {version: template_for(65536, version).name for version in ("v4", "v5", "v6", "v7")}
    assert found == {"v4": "world", "v5": "world", "v6": "world", "v7": "g1"}
    assert template_for(50304, "v7").name == "raven"


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("RWKV-x070-World-1.5B-v3-20250127-ctx4096-Q5_1.bin", "world"), ("rwkv7-world-0.1b.bin", "world"),
        ("rwkv7-g1d-0.1b-20260129-ctx8192-FP16.bin", "g1"), ("RWKV7-G0-7.2B.bin", "g1"), ("model.bin", "g1"),
        ("world-of-g1-models.bin", "g1"), ("hello-world_g1d.bin", "g1"), ("", "g1"),
    ],
)  # fmt: skip
def test_only_its_name_tells_a_world_model_of_rwkv_7_from_g1(file_name, name):
    assert template_for(65536, "v7", file_name).name == name
    assert template_for(65536, "v6", file_name).name == "world"
    assert template_for(50304, "v7", file_name).name == "raven"


@pytest.mark.parametrize("version", ["v5", "v6"])
def test_answers_of_world_models_end_at_a_blank_line_the_end_of_text_or_the_next_turn(version):
    template = template_for(65536, version)
    for pieces, answer in (
        ((b" One.", b"\n\n", b"Two."), " One."), ((b" One.", b"\n", b"User", b":"), " One."), ((b" One.",), " One."),
    ):  # fmt: skip
        chat = conversation(pieces, template.name)
        assert say(chat, "a\n\nb") == answer
        assert text_read(chat) == f"User: a\nb\n\nAssistant:{answer}"


def test_a_g1_answer_may_hold_blank_lines_and_the_next_turn_ends_it():
    chat = conversation([b" One.\n", b"\nTwo.", b"\n\nUs", b"er: x"], "g1")
    assert say(chat, "a\n\nb") == " One.\n\nTwo."
    assert text_read(chat) == "User: a\nb\n\nAssistant: One.\n\nTwo." and chat.turns[-1].stop_reason == "stop"
    assert say(conversation([b" One.", b"\n\n", b"Two."], "world")) == " One."
    assert say(conversation([b" One\nUser: x"], "g1")) == " One\nUser: x"


# --- going on


LONG = [b" On", b"e\n", b"Bo", b"b", b" t\nw", b"o\nB", b"o", b"b:", b" x"]


@pytest.mark.parametrize("first", range(1, len(LONG) + 1))
@pytest.mark.parametrize("second", range(1, 4))
def test_an_answer_that_goes_on_is_the_answer_that_was_never_broken_off(first, second):
    """Also if the limit came in the middle of a stop string, whose first half was then shown."""
    whole = conversation(LONG)
    assert say(whole) == " One\nBob t\nwo"
    chat = conversation(LONG, max_tokens=first)
    say(chat)
    while not chat.turns[-1].is_finished:
        list(chat.continue_answer(max_tokens=second))
    assert chat.turns[-1].text == " One\nBob t\nwo" and chat.state() == whole.state()
    assert len(chat.turns) == 1


def test_what_was_held_back_is_shown_when_the_limit_comes():
    chat = conversation(LONG, max_tokens=7)
    assert say(chat) == " One\nBob t\nwo\nBo"


def test_penalties_count_what_was_said_before_the_answer_went_on():
    chat = conversation(presence_penalty=0.0, frequency_penalty=10.0, max_tokens=2)
    logits = np.array([1, 2, 3] + [0] * 997, np.float32)
    chat.model = Liking(logits)
    chat.tokenizer.n_ids = 0
    list(chat.ask("x"))
    list(chat.continue_answer(max_tokens=1, stop_ids=()))
    assert chat.turns[-1].tokens == (2, 1, 0)


# --- going back


def test_an_answer_is_given_again_from_where_the_message_was_read():
    chat = conversation()
    chat.lookup = False  # only the answer's own tokens are read
    say(chat, "one")
    say(chat, "two")
    before, n_read = chat.state(), chat.model.n_read
    assert "".join(chat.answer_again()) == " Hello!"
    assert chat.state() == before and len(chat.turns) == 2
    assert chat.model.n_read - n_read == 3  # of the answer, except the last line break: the message is not read again


def test_undoing_goes_back_as_if_it_had_not_been_said():
    chat = conversation()
    for message in ("one", "two", "three"):
        say(chat, message)
    undone = chat.undo(2)
    assert [turn.message for turn in undone] == ["two", "three"]
    assert text_read(chat) == "Bob: one\n\nAlice: Hello!"
    with pytest.raises(InputError, match="2 turns cannot be undone; there are 1"):
        chat.undo(2)


def test_an_edited_message_takes_the_place_of_the_last():
    chat = conversation()
    say(chat, "one")
    say(chat, "two")
    list(chat.edit("zwei"))
    assert text_read(chat) == "Bob: one\n\nAlice: Hello!\n\nBob: zwei\n\nAlice: Hello!"


def test_forks_know_nothing_of_each_other():
    chat = conversation()
    say(chat, "one")
    chat.fork("other")
    say(chat, "two")
    chat.switch("main")
    assert text_read(chat) == "Bob: one\n\nAlice: Hello!"
    say(chat, "deux")
    chat.switch("other")
    assert [turn.message for turn in chat.turns] == ["one", "two"]
    chat.fork("third")
    chat.undo(2)
    chat.switch("other")
    assert [turn.message for turn in chat.turns] == ["one", "two"]
    for name, call in (("other", chat.fork), ("none", chat.switch)):
        with pytest.raises(InputError, match=name):
            call(name)


TURN = TokensRead.n_bytes + 4000  # bytes of a state and its logits


@pytest.fixture
def budget(monkeypatch):
    """Set the budget for the states of that many turns, plus both ends of the last turn."""
    return lambda n: monkeypatch.setattr("rwkv_np.chat.conversation.STATE_BUDGET", (n + 1) * TURN)


def test_states_that_were_let_go_of_are_made_again_from_the_tokens(budget):
    budget(4)
    chat = conversation([b" Hello", b"!", b"\n\n"])
    states = []
    for i in range(9):
        say(chat, f"message {i}")
        states.append(chat.state())
    assert [turn.after_answer is not None for turn in chat.turns] == [False] * 5 + [True] * 4
    chat.undo(6)
    assert chat.state() == states[2]
    chat.undo()
    assert list(chat.answer_again()) and chat.state() == states[1]


def test_the_states_of_all_branches_have_one_budget(budget):
    budget(4)
    chat = conversation([b" Hello", b"!", b"\n\n"])
    say(chat, "zero")
    for name in "abcdef":
        chat.fork(name)
        say(chat, name)
        chat.switch("main")
    kept = {name for name, branch in chat.branches.items() if branch.turns[-1].after_answer}
    assert kept == {"e", "f"}  # each with both ends of its answer
    chat.switch("a")
    assert text_read(chat).endswith("Bob: a\n\nAlice: Hello!")


def test_making_states_again_keeps_to_the_budget(budget):
    chat = conversation()
    for i in range(9):
        say(chat, f"message {i}")
    for turn in chat.turns:
        turn.forget(also_end=True)
    budget(2)
    chat.state()
    assert [turn.after_answer is not None for turn in chat.turns] == [False] * 6 + [True] * 3


def test_the_last_turn_is_kept_however_large_it_is(monkeypatch):
    monkeypatch.setattr("rwkv_np.chat.conversation.STATE_BUDGET", 1)
    chat = conversation()
    chat.lookup = False  # only the answer's own tokens are read
    say(chat, "one")
    say(chat, "two")
    n_read = chat.model.n_read
    assert list(chat.answer_again()) and chat.model.n_read - n_read == 3
    assert chat.turns[0].after_answer is None and chat.turns[1].after_answer is not None


def test_reset_goes_back_to_the_beginning_of_this_branch_alone():
    chat = conversation()
    say(chat)
    chat.fork("other")
    chat.reset()
    assert chat.state() == () and len(chat.branches["main"].turns) == 1
    assert text_read(chat) == "" and say(chat, "again") == " Hello!"


def test_another_opening_begins_anew():
    chat = conversation(opening="Old.")
    say(chat)
    chat.fork("other")
    chat.reset("New.")
    say(chat, "y")
    assert text_read(chat) == "New.\n\nBob: y\n\nAlice: Hello!"
    chat.switch("main")  # which began with the old opening, whatever is undone or recomputed
    chat.turns[-1].after_answer = None
    assert text_read(chat) == "Old.\n\nBob: x\n\nAlice: Hello!"


# --- asides


def test_an_aside_leaves_the_conversation_as_it_was():
    chat = conversation(opening="Open.")
    say(chat, "one")
    before = chat.state()
    assert "".join(chat.ask_aside("q", TEMPLATES["qa"])) == " Hello!"
    assert bytes(chat.aside.after_prompt.state) == b"Q: q\n\nA:"
    list(chat.ask_aside("q", chat.template, after_opening=True))
    assert bytes(chat.aside.after_prompt.state) == b"Open.\n\nBob: q\n\nAlice:"
    list(chat.ask_aside("Once:", FREE))
    assert bytes(chat.aside.after_prompt.state) == b"\nOnce:"
    assert chat.state() == before and len(chat.turns) == 1


def test_what_was_answered_last_goes_on_be_it_an_aside_or_a_turn():
    chat = conversation([b" A", b" B", b" C", b" D"], max_tokens=1)
    say(chat)
    list(chat.ask_aside("Once:"))
    list(chat.continue_answer())
    assert chat.aside.text == " A B" and chat.turns[-1].text == " A"
    say(chat, "y")
    list(chat.continue_answer())
    assert chat.aside.text == " A B" and chat.turns[-1].text == " A B"
    list(chat.answer_again(chat.aside, max_tokens=3))
    assert chat.aside.text == " A B C"


def text_read_at(position):
    return PieceTokenizer([b" A", b"\n\n"]).decode(position.state)


def test_single_rounds_begin_anew_each_time():
    chat = conversation([b" A", b"\n\n"], "qa")
    for message in ("one", "two"):
        say(chat, message)
        assert bytes(chat.turns[-1].after_prompt.state) == f"Q: {message}\n\nA:".encode()
    for turn in chat.turns:
        turn.after_answer = None  # as for old turns
    assert text_read_at(chat.position()) == "Q: two\n\nA: A"
    list(chat.continue_answer())
    assert chat.turns[-1].message == "two"


# --- failures and interruptions


def test_an_answer_that_fails_leaves_the_conversation_where_it_was():
    chat = conversation()
    say(chat, "Hi")
    before = chat.state()
    chat.tokenizer.token_bytes = None  # the next answer raises in its first token
    for begin in (lambda: chat.ask("more"), chat.answer_again, lambda: chat.edit("Ho")):
        with pytest.raises(TypeError):
            list(begin())
        assert chat.state() == before and [turn.message for turn in chat.turns] == ["Hi"]


def test_a_message_given_up_while_it_was_read_was_not_said():
    chat = conversation()
    say(chat, "Hi")
    before = chat.state()
    for begin in (lambda: chat.ask("more"), lambda: chat.edit("Ho")):
        answer = begin()
        answer.interrupt()
        assert list(answer) == [] and answer.stop_reason == "interrupted"
        assert chat.state() == before and [turn.message for turn in chat.turns] == ["Hi"]


def test_an_interrupted_answer_counts_as_far_as_it_was_shown():
    chat = conversation([b" One", b" two", b" three"])
    answer = chat.ask("count")
    assert next(answer) == " One"
    answer.interrupt()
    assert list(answer) == []
    assert text_read(chat) == "Bob: count\n\nAlice: One"
    assert "".join(chat.continue_answer()) == " two three"


def test_nothing_can_be_repeated_before_something_was_said():
    chat = conversation()
    for call in (chat.answer_again, chat.continue_answer, lambda: chat.edit("x")):
        with pytest.raises(InputError, match="there is no message yet"):
            call()


def test_a_seed_repeats_a_conversation_but_not_an_answer():
    def answers():
        params = SamplingParams(temperature=1, top_p=1, seed=1, max_tokens=20, stop_ids=())
        chat = Conversation(Liking(np.zeros(256)), PieceTokenizer(), TEMPLATES["raven"], params)
        return [say(chat), say(chat), "".join(chat.answer_again())]

    first = answers()
    assert first == answers() and len(set(first)) == 3


def test_the_end_of_text_is_neither_shown_nor_read():
    chat = conversation([b" A"])
    assert say(chat) == " A" and END not in chat.state()
