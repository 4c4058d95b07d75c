"""Signals to a chat in a terminal that saves after each answer: every reported save is complete."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from jobs import n_turns, strays  # noqa: E402
from terminal import chat_starter, rambler, speaker  # noqa: E402, F401 (a fixture)

ENDS = {"SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture
def kept(tmp_path):
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept" / "a.chat"


@pytest.mark.parametrize("name", ENDS)
def test_a_signal_while_a_line_is_typed_loses_no_answer(sit_down, tmp_path, kept, name):
    chat = sit_down(speaker(tmp_path / "m.bin", "Hello! I am fine."), "--save", kept)
    chat.say("one"), chat.say("two")
    chat.press("thr", shown="thr")
    chat.child.kill(getattr(signal, name))
    assert chat.wait() == ENDS[name] and "Traceback" not in chat.shown
    assert n_turns(kept) == 2 and not strays(kept.parent)


@pytest.mark.parametrize("name", ENDS)
def test_a_signal_in_an_answer_loses_none_before_it(sit_down, tmp_path, kept, name):
    chat = sit_down(rambler(tmp_path / "m.bin"), "--save", kept, "--max-tokens", 20, "--temperature", 1, "--seed", 1)
    chat.say("one")
    chat.say("/set max_tokens 1000000")
    chat.start("two")
    chat.see("Alice:")
    chat.child.kill(getattr(signal, name))
    assert chat.wait() == ENDS[name] and "Traceback" not in chat.shown
    assert n_turns(kept) >= 1 and not strays(kept.parent)


def test_ctrl_c_from_elsewhere_ends_neither_the_chat_nor_what_was_kept(sit_down, tmp_path, kept):
    """As a signal from another process, not as a key."""
    chat = sit_down(rambler(tmp_path / "m.bin"), "--save", kept, "--max-tokens", 20, "--temperature", 1, "--seed", 1)
    chat.say("one")
    chat.say("/set max_tokens 1000000")
    chat.start("two")
    chat.see("Alice:")
    chat.child.kill(signal.SIGINT)
    chat.ready()
    assert n_turns(kept) == 2
    assert chat.leave() == 0 and "Traceback" not in chat.shown and not strays(kept.parent)
