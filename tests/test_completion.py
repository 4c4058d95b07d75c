"""Where answers end: stop strings at every split over tokens, and the state before them.

The model is scripted: it says the given tokens, and its state is the list of what it has read, so that it
can be compared with "the state of a conversation in which the stop never came".
"""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import GREEDY, PIECE, PieceTokenizer, ScriptedModel, TokensRead, splits

import rwkv_np
from rwkv_np.completion import Completion, Unfinished
from rwkv_np.errors import InputError
from rwkv_np.generation import Step
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.registry import ARCHITECTURES
from rwkv_np.models.state import State, StateLayout
from rwkv_np.sampling import SamplingParams
from rwkv_np.stop_strings import StopStrings
from rwkv_np.tokenizers import load_tokenizer

PROMPT = (300, 301)


class Script(ScriptedModel):
    """Says `script` after the prompt."""

    def __init__(self, script):
        self.script = list(script)

    def logits(self, tokens):
        logits = np.zeros(1000, np.float32)
        said = len(tokens) - len(PROMPT)
        if 0 <= said < len(self.script):
            logits[self.script[said]] = 99
        return logits


def complete(pieces, **settings):
    model = Script(range(400, 400 + len(pieces)))
    params = SamplingParams(max_tokens=max(1, len(pieces)), **GREEDY, **settings)
    completion = Completion(model, PieceTokenizer(pieces), PROMPT, params)
    return completion, list(completion)


def read_by(completion):
    """The bytes of everything that the model has read after the prompt, according to its state."""
    assert completion.state[: len(PROMPT)] == PROMPT
    return b"".join(completion._tokenizer.token_bytes(token) for token in completion.state[len(PROMPT) :])


def test_a_stop_string_is_never_shown_nor_read_at_any_split_over_tokens():
    for pieces in splits("é.\n\nBob: x".encode()):
        completion, shown = complete(pieces, stop=("\n\nBob:",))
        assert "".join(shown) == completion.text == "é."
        assert completion.stop_reason == "stop"
        assert read_by(completion) == "é.".encode()
        assert completion.state == (*PROMPT, *completion.tokens)


def test_the_state_after_a_stop_is_that_of_the_tokens_before_it():
    completion, _ = complete([b"Hi", b" there", b"\n", b"\nBob"], stop=("\n\n",))
    assert completion.tokens == [400, 401]
    assert completion.state == (*PROMPT, 400, 401)


def test_a_stop_that_begins_inside_a_token_leaves_the_rest_of_that_token():
    completion, _ = complete([b"Hi", b" you.\n", b"\nBob"], stop=("\n\n",))
    assert completion.text == "Hi you."
    assert completion.state == (*PROMPT, 400, *b" you.")


def test_text_that_only_begins_like_a_stop_string_is_not_lost():
    for pieces in splits(b"a\n\nBo\n\nBob"):
        completion, shown = complete(pieces, stop=("\n\nBob:",))
        assert "".join(shown) == completion.text == "a\n\nBo\n\nBob"
        assert completion.stop_reason == "length"
        assert completion.state == (*PROMPT, *completion.tokens)


def test_text_is_held_back_while_it_could_become_a_stop():
    _, shown = complete([b"one", b"\n", b"two", b"\n", b"\n", b"three"], stop=("\n\n",))
    assert shown == ["one", "\ntwo"]


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=0, max_size=4), max_size=12),
    stops=st.lists(st.text("ab\né", min_size=1, max_size=3), max_size=3),
)
def test_any_bytes_come_out_once_and_up_to_the_first_stop(pieces, stops):
    completion, shown = complete(pieces, stop=tuple(stops))
    data = b"".join(pieces)
    # The first complete stop ends the text; the model is not asked for more.
    so_far = b""
    for piece in pieces:
        so_far += piece
        at = [i for stop in stops if (i := so_far.find(stop.encode())) >= 0]
        if at:
            data = so_far[: min(at)]
            break
    assert "".join(shown) == completion.text == data.decode(errors="replace")
    assert all(shown)


def test_characters_come_whole_whatever_their_tokens():
    text = "你好，世界 😀👨‍👩‍👧 नमस्ते"
    for size in (1, 2, 3, 5):
        data = text.encode()
        completion, shown = complete([data[i : i + size] for i in range(0, len(data), size)])
        assert "".join(shown) == completion.text == text
        assert "�" not in completion.text


def test_a_character_that_never_ends_is_shown_as_replaced_not_dropped():
    completion, _ = complete([b"ok ", "世".encode()[:2]])
    assert completion.text == "ok �"


def test_a_stop_id_ends_the_answer_unread():
    model = Script([72, 105, 0, 72])
    params = SamplingParams(**GREEDY, max_tokens=9, stop_ids=(0,))
    completion = Completion(model, PieceTokenizer([]), PROMPT, params)
    assert "".join(completion) == "Hi" and completion.stop_reason == "stop_id"
    assert completion.state == (*PROMPT, 72, 105)


def test_the_longest_answer_is_read_to_its_last_token():
    completion, _ = complete([b"a", b"b"])
    assert completion.stop_reason == "length" and completion.state == (*PROMPT, 400, 401)


def test_an_interrupted_answer_keeps_what_was_shown():
    model = Script([72, 105, 10, 33, 33, 33])
    completion = Completion(model, PieceTokenizer([]), PROMPT, SamplingParams(**GREEDY, stop=("\n\n",)))
    assert next(completion) == "H"
    assert next(completion) == "i"
    completion.interrupt()
    assert "".join(completion) == "" and completion.stop_reason == "interrupted"
    assert completion.text == "Hi" and completion.state == (*PROMPT, 72, 105)


def test_interrupting_the_prompt_goes_back_to_before_it(tiny_model):
    model, tokenizer = rwkv_np.load(tiny_model), load_tokenizer("bytes")
    _, state = model.forward([1, 2])
    completion = rwkv_np.generate(model, tokenizer, "x" * 300, state=state)
    completion.interrupt()
    assert list(completion) == [] and completion.state is state


def test_an_empty_prompt_is_refused(tiny_model):
    with pytest.raises(InputError, match="prompt is empty"):
        list(rwkv_np.generate(rwkv_np.load(tiny_model), load_tokenizer("bytes"), ""))


def test_a_seed_gives_the_same_text_and_its_state_continues_the_same(tiny_model):
    model, tokenizer = rwkv_np.load(tiny_model), load_tokenizer("bytes")
    params = SamplingParams(seed=3, max_tokens=30, stop_ids=())
    first, second = (rwkv_np.generate(model, tokenizer, "Hello", params) for _ in range(2))
    assert "".join(first) == "".join(second) and first.tokens == second.tokens and len(first.tokens) == 30
    _, state = model.forward([*b"Hello", *first.tokens])
    np.testing.assert_allclose(first.state.wkv, state.wkv, atol=1e-4)


def test_long_prompts_read_in_chunks_give_what_they_give_at_once(tiny_model):
    model, tokenizer = rwkv_np.load(tiny_model), load_tokenizer("bytes")
    seen = []
    completion = rwkv_np.generate(
        model, tokenizer, "y" * 300, SamplingParams(max_tokens=1), progress=lambda *counts: seen.append(counts)
    )
    list(completion)
    np.testing.assert_allclose(completion.after_prompt.state.wkv, model.forward([ord("y")] * 300)[1].wkv, atol=1e-4)
    assert seen == [(128, 300), (256, 300), (300, 300)]


# --- copies and memory

WORDS = [b" a", b" walrus", b",", " 你好".encode()]
TWO = 2  # copies of an answer's own: of its initial state, and of the state after the prompt


def n_copies(pieces, **settings):
    before = TokensRead.n_copies
    complete(pieces, **settings)
    return TokensRead.n_copies - before


def test_no_state_is_copied_for_a_token_in_which_no_stop_string_can_begin():
    stop = ("\n\nBob:",)
    assert n_copies(WORDS * 50, stop=stop) == TWO
    assert n_copies([*WORDS, b"\n", b"B", b".\n", *WORDS], stop=stop) == TWO + 2  # the two line breaks
    assert n_copies([*WORDS, b".\n\nBob: x"], stop=stop) == TWO  # the model does not continue
    llama = "🦙".encode()
    assert n_copies([*WORDS, llama[:3], llama[3:], *WORDS], stop=stop) == TWO + 1
    assert n_copies([*WORDS, llama[:3], llama[3:], b"\n", *WORDS]) == TWO  # without stop strings


class Large(ScriptedModel):
    """Repeats "ab"; its state has 13 MB, like that of the smallest v7, and counts tokens in its first number."""

    layout = StateLayout(
        ModelConfig(
            n_layer=160, n_embd=4096, dim_ffn=4096, vocab_size=1000, record=ARCHITECTURES["v4"], file_version=101,
            data_type="FP32", data_types=("FP32",),
        )
    )  # fmt: skip

    def initial_state(self):
        return State(self.layout)

    def advance(self, tokens, state):
        state.data[0] += np.size(tokens)
        logits = np.zeros(1000, np.float32)
        logits[PIECE + int(state.data[0]) % 2] = 99
        return logits


def test_an_answer_takes_memory_for_its_two_ends_and_no_more():
    model = Large()
    params = SamplingParams(**GREEDY, max_tokens=100, stop=("\n\n",))
    start = model.initial_state()
    tracemalloc.start()
    try:
        completion = Completion(model, PieceTokenizer([b"a", b"b"]), PROMPT, params, start, guessers=())
        assert "".join(completion) == "ab" * 50
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2.1 * start.n_bytes
    assert (start.data[0], completion.after_prompt.state.data[0], completion.state.data[0]) == (0, 2, 102)


def test_the_state_that_was_given_and_those_that_are_kept_do_not_change(tiny_model):
    model, tokenizer = rwkv_np.load(tiny_model), load_tokenizer("bytes")
    _, start = model.forward([1, 2])
    before = start.data.copy()
    params = SamplingParams(seed=3, max_tokens=30, stop_ids=(), stop=("\n\n",))
    completion = rwkv_np.generate(model, tokenizer, "Hello", params, start)
    kept = next(completion._steps)
    np.testing.assert_array_equal(start.data, before)
    np.testing.assert_array_equal(kept.at.state.data, model.forward(list(b"Hello"), start)[1].data)
    list(completion)
    np.testing.assert_array_equal(start.data, before)
    np.testing.assert_array_equal(kept.at.state.data, model.forward(list(b"Hello"), start)[1].data)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tokens_are_let_go_of_after_a_character_of_several(size):
    data = "🦙".encode()
    pieces = [b"Yes ", *(data[i : i + size] for i in range(0, 4, size)), *[b" word"] * 300, b"\n", b"\nBob"]
    model = Script(range(PIECE, PIECE + len(pieces)))
    params = SamplingParams(max_tokens=len(pieces), **GREEDY, stop=("\n\n",))
    completion = Completion(model, PieceTokenizer(pieces), PROMPT, params)
    kept = []
    for _ in completion:
        kept.append(len(completion._pending))
    assert max(kept) <= 1 and completion.stop_reason == "stop"
    assert completion.text == "Yes 🦙" + " word" * 300
    assert completion.tokens == list(range(PIECE, PIECE + len(pieces) - 2))


def test_a_stop_may_begin_in_the_token_that_ends_a_character():
    data = "Ja 🦙\n\nBob".encode()
    for pieces in splits(data[3:]):
        completion, _ = complete([data[:3], *pieces], stop=("\n\n",))
        assert completion.text == "Ja 🦙" and read_by(completion) == "Ja 🦙".encode()
        assert completion.state == (*PROMPT, *completion.tokens)


def test_a_text_goes_on_with_other_stop_strings():
    pieces = [b"x", b"\n", b"Bo", b"b:", b"y"]
    model, tokenizer = Script(range(PIECE, PIECE + len(pieces))), PieceTokenizer(pieces)
    begun = Completion(model, tokenizer, PROMPT, SamplingParams(max_tokens=3, **GREEDY, stop=("\nBob:",)))
    assert "".join(begun) == "x\nBo" and [step.token for step in begun.pending] == [PIECE + 1, PIECE + 2]
    rest = Unfinished(tuple(begun.tokens), begun.pending)
    other = SamplingParams(max_tokens=3, **GREEDY, stop=("ob",))
    ended = Completion(model, tokenizer, (), other, begun.position, unfinished=rest)
    list(ended)
    assert ended.text == "\nB" and ended.state == (*PROMPT, PIECE, PIECE + 1, ord("B"))


def test_what_was_written_without_stop_strings_stays_when_it_goes_on_with_some():
    """There is no state to go back to inside it, even if the stop begins in the token that ends a character."""
    pieces = [b"x", b"\xf0\x9f", b"\xa6", b"\x99\n\n"]
    model, tokenizer = Script(range(PIECE, PIECE + len(pieces))), PieceTokenizer(pieces)
    begun = Completion(model, tokenizer, PROMPT, SamplingParams(max_tokens=3, **GREEDY))
    list(begun)
    assert begun.pending == (Step(PIECE + 1, None), Step(PIECE + 2, None))
    params = SamplingParams(max_tokens=3, **GREEDY, stop=("\n",))
    rest = Unfinished(tuple(begun.tokens), begun.pending)
    ended = Completion(model, tokenizer, (), params, begun.position, unfinished=rest)
    list(ended)
    assert ended.stop_reason == "stop" and ended.state == (*PROMPT, PIECE, *ended.tokens)
    assert ended.tokens[:2] == [PIECE + 1, PIECE + 2] and ord("\n") not in ended.tokens


def test_a_character_broken_off_is_whole_when_the_text_goes_on():
    pieces = [b"x", b"\xf0\x9f", b"\xa6\x99", b"y"]
    model, tokenizer = Script(range(PIECE, PIECE + len(pieces))), PieceTokenizer(pieces)
    begun = Completion(model, tokenizer, PROMPT, SamplingParams(max_tokens=2, **GREEDY))
    assert "".join(begun) == "x\N{REPLACEMENT CHARACTER}"
    rest = Unfinished(tuple(begun.tokens), begun.pending)
    ended = Completion(model, tokenizer, (), SamplingParams(max_tokens=2, **GREEDY), begun.position, unfinished=rest)
    assert "".join(ended) == "🦙y"


def test_a_long_stop_string_takes_no_more_memory_than_its_length():
    """A damaged chat may have a name of 100 kB, which becomes a stop string."""
    tracemalloc.start()
    stops = StopStrings(["x" * 100_000])
    assert stops.n_withheld(b"yxx") == 2 and stops.may_begin_in(b"x") and not stops.may_begin_in(b"y")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
