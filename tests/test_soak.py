"""A short random conversation; the long one is `python tests/soak.py`."""

import numpy as np
import pytest
from soak import Soak, check_end, growth

from rwkv_np.chat import conversation


def test_after_anything_a_model_remembers_what_was_said_and_another_process_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation, "STATE_BUDGET", 400_000)  # about ten states
    soak = Soak(4, tmp_path)
    soak.run(1500)
    assert {"say", "edit", "regenerate", "go_on", "undo", "fork", "switch", "aside", "interrupt",
            "save_and_load"} == set(soak.done)  # fmt: skip
    assert check_end(soak) >= 2 and soak.n_compared >= 4


def test_a_state_that_is_not_what_was_said_is_noticed(tmp_path):
    soak = Soak(3, tmp_path)
    soak.say()
    turn = soak.chat.turns[-1]
    turn.tokens = (*turn.tokens, 1)
    with pytest.raises(AssertionError):
        soak.compare(soak.chat.current_branch)


def test_growth_compares_the_tenth_after_the_first_fifth_with_the_last():
    memory = [(at, 100 if at < 900 else 104) for at in range(0, 1001, 10)]
    memory[:20] = [(at, 50) for at in range(0, 200, 10)]
    assert growth(memory) == (100, 104) and np.diff(growth(memory)) == 4
