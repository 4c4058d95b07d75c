"""Guessing the next tokens: where the same tokens stood before, how many are guessed, and that the text stays the same.

A guess may only change the speed. So answers with and without guesses are compared: text, tokens, states, for random
settings, on models of every version; with guessers that are always right, always wrong, and anything in between.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import GREEDY, PIECE, PieceTokenizer, ScriptedModel
from versions import converted, random_checkpoint, two_threads

import rwkv_np
from rwkv_np import demo
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.completion import Completion
from rwkv_np.draft_model import DraftModel
from rwkv_np.drafts import ALLOWANCE, AT_FIRST, EXPECTED, Account, Drafts
from rwkv_np.errors import InputError
from rwkv_np.generation import generate_tokens
from rwkv_np.lookup import REMEMBERED, Lookup
from rwkv_np.models.registry import ARCHITECTURES
from rwkv_np.position import Position
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer

# --- the table


def best_guess(tokens, n):
    """The definition, slowly: after the longest match of 3 to 32 tokens; of equal ones the latest."""
    best, longest = None, 2
    for place in range(len(tokens) - 1, 2, -1):
        length = 0
        while length < min(32, place) and tokens[place - 1 - length] == tokens[len(tokens) - 1 - length]:
            length += 1
        if length > longest:
            best, longest = place, length
    if best is None:
        return []
    found = list(tokens[best:])
    while len(found) < n:
        found.append(found[len(found) - (len(tokens) - best)])
    return found[:n]


@given(st.lists(st.integers(0, 2), min_size=0, max_size=16), st.integers(1, 8))
def test_the_guess_is_what_followed_the_longest_match(tokens, n):
    assert Lookup(tokens).guess(n) == best_guess(tokens, n)


def test_the_guess_goes_on_when_the_text_repeats_itself():
    assert Lookup([1, 2, 3, 1, 2, 3, 1, 2, 3]).guess(7) == [1, 2, 3, 1, 2, 3, 1]
    assert Lookup([5, 5, 5, 5]).guess(3) == [5, 5, 5]


def test_two_tokens_are_no_match():
    assert Lookup([1, 2, 9, 8, 1, 2]).guess(3) == []


def test_a_long_text_is_forgotten_from_its_start():
    lookup = Lookup([1, 2, 3, 4])
    for token in range(100, 100 + 3 * REMEMBERED):
        lookup.add(token)
    assert len(lookup._last) <= 2 * REMEMBERED
    lookup.extend([1, 2, 3])
    assert lookup.guess(1) == []
    lookup.extend([100 + 3 * REMEMBERED - i for i in (3, 2, 1)])
    assert lookup.guess(2) == [1, 2]


# --- how many are guessed


class Saying:
    """Guesses the given tokens."""

    def __init__(self, tokens):
        self.tokens = list(tokens)

    def extend(self, tokens):
        pass

    def add(self, token):
        pass

    def prepare(self):
        pass

    def guess(self, n):
        return self.tokens[:n]


def ready(*guessers):
    """Drafts whose first pass, which guesses nothing, has been."""
    drafts = Drafts(guessers)
    assert drafts.guess(100) == []
    drafts.took(0, 1.0)
    return drafts


def sizes(rights, prices):
    """How many tokens are guessed after each other, if that share of them is right each time."""
    drafts, found = ready(Saying(range(1, 20))), []
    drafts._accounts[0].price = prices.get
    for right in rights:
        guesses = drafts.guess(100)
        drafts.took(len(guesses), 1.0)
        drafts.were_right(int(right * len(guesses)))
        found.append(len(guesses))
    return found


def test_more_is_guessed_while_guesses_are_right_and_less_after_they_were_wrong():
    assert sizes([1, 1, 1, 1], EXPECTED) == [3, 7, 7, 7]
    assert sizes([1, 1, 1, 0, 0, 0, 0, 0, 0], EXPECTED)[-1] < 7
    assert sizes([1, 1, 1, 1], {1: 2.0, 3: 3.0, 7: 6.0}) == [0, 0, 0, 0]  # too dear to try
    assert sizes([1, 1, 1, 1], {1: 0.1, 3: 0.3, 7: 3.0}) == [3, 3, 3, 3]


@pytest.mark.parametrize("seconds", [{}, {0: 1.0, 3: 1.3}, {0: 1.0, 3: 3.0}])
def test_wrong_guesses_cost_a_text_no_more_than_its_allowance(seconds):
    drafts, cost, n = Drafts([Saying(range(1, 20))]), 0.0, 3000
    for _ in range(n):
        guesses = drafts.guess(100)
        cost += drafts._accounts[0].price(len(guesses)) if guesses else 0
        drafts.took(len(guesses), seconds.get(len(guesses), 1.2 if guesses else 1.0))
        drafts.were_right(0)
    assert cost < ALLOWANCE * n + 2 * AT_FIRST


def test_a_text_that_begins_to_repeat_is_noticed_soon():
    drafts = ready(Saying(range(1, 20)))
    for _ in range(3000):  # all wrong
        guesses = drafts.guess(100)
        drafts.took(len(guesses), 1.2 if guesses else 1.0)
        drafts.were_right(0)
    passes = 0
    for _ in range(100):
        guesses = drafts.guess(100)
        drafts.took(len(guesses), 1.2 if guesses else 1.0)
        drafts.were_right(len(guesses))
        passes += not guesses
    assert passes < 40


def test_a_guess_that_would_end_the_text_is_not_read_and_no_pass_has_an_awkward_size():
    for stop, n in ((1, 0), (2, 1), (3, 1), (4, 3), (99, 3)):  # at first, three tokens are guessed
        assert len(ready(Saying(range(1, 20))).guess(100, {stop})) == n
    for most, n in ((0, 0), (1, 1), (2, 1), (3, 3), (4, 3)):
        assert len(ready(Saying(range(1, 20))).guess(most)) == n


def test_guessers_are_asked_in_turn():
    assert ready(Saying([]), Saying([7, 8, 9]), Saying([1, 2, 3])).guess(3) == [7, 8, 9]


def test_a_guesser_that_takes_too_long_is_given_up():
    """A draft model guesses in every pass: without plain passes, its price would not be known."""
    drafts, cost = Drafts([Saying(range(1, 20))]), 0.0
    for _ in range(400):
        guesses = drafts.guess(100)
        seconds = 1.0 + 1.1 * len(guesses)
        drafts.took(len(guesses), seconds)
        drafts.were_right(len(guesses) // 2)
        cost += seconds - 1 - len(guesses) // 2
    assert cost < 0.05 * 400


# --- the text stays the same


@pytest.fixture
def steady(monkeypatch):
    """Passes cost what is expected, whatever the clock says."""
    monkeypatch.setattr(Account, "price", lambda self, n: EXPECTED[n])


class Oracle(Saying):
    """Knows a text, and guesses each of its tokens wrong with a given probability; sometimes fewer than it may."""

    def __init__(self, text, wrong, seed=0, *, always=False):
        super().__init__(text)
        self.wrong, self.at, self.rng, self.always = wrong, 0, np.random.default_rng(seed), always

    def add(self, token):
        self.at += 1

    def guess(self, n):
        n = n if self.always else int(self.rng.integers(0, n + 1))
        coming = (self.tokens[self.at :] + n * [1])[:n]
        return [token if self.rng.random() >= self.wrong else (token + 1) % 50 for token in coming]


RANKS = {"v6": (8, 16), "v7": (8, 8, 8, 16)}


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request, tmp_path_factory):
    tensors = random_checkpoint(request.param, 3, n_embd=64, head_size=32, ranks=RANKS.get(request.param, ()))
    path = converted(tensors, tmp_path_factory.mktemp("model"))
    return rwkv_np.load(path, threads=two_threads())


def random_params(rng, n_vocab):
    return SamplingParams(
        temperature=float(rng.choice([0, 0.3, 1, 2])), top_p=float(rng.choice([0.3, 0.9, 1])),
        top_k=int(rng.choice([0, 1, 5])), min_p=float(rng.choice([0, 0.1])), seed=int(rng.integers(1000)),
        presence_penalty=float(rng.choice([0, 0.4])), frequency_penalty=float(rng.choice([0, 0.4])),
        penalty_decay=float(rng.choice([0.9, 1])), max_tokens=int(rng.integers(1, 60)),
        logit_bias={int(rng.integers(n_vocab)): 3.0}, stop_ids=tuple(rng.integers(0, n_vocab, 1).tolist()),
        not_first=tuple(rng.integers(0, n_vocab, 2).tolist()),
    )  # fmt: skip


def generated(model, prompt, params, guessers, wants_position=lambda token: False, interrupt_after=10**9):
    """(tokens, reason, states at all positions that were asked for, and at the end)."""
    steps, found = [], Drafts(guessers)
    generation = generate_tokens(
        model, prompt, params, Position(None, model.initial_state()), needs_position=wants_position, drafts=found,
        is_interrupted=lambda: len(steps) >= interrupt_after,
    )  # fmt: skip
    while True:
        try:
            steps.append(next(generation))
        except StopIteration as end:
            positions = [step.at for step in steps if step.at] + [end.value.at]
            kept = [(at.logits.copy(), at.state.data.copy()) for at in positions]
            return [step.token for step in steps], end.value.reason, kept, found.n_passes


@pytest.mark.parametrize("seed", range(12))
def test_guesses_change_neither_tokens_nor_states(model, steady, seed):
    rng = np.random.default_rng(seed)
    n_vocab = model.config.vocab_size
    prompt, params = rng.integers(0, n_vocab, rng.integers(1, 20)).tolist(), random_params(rng, n_vocab)
    wanted = set(rng.integers(0, n_vocab, 15).tolist())
    interrupt_after = int(rng.choice([5, 10**9]))
    common = (lambda token: token in wanted, interrupt_after)
    expected = generated(model, prompt, params, (), *common)
    assert expected[3] == len(expected[0])
    for wrong in (0, 0.15, 1):
        found = generated(model, prompt, params, [Oracle(expected[0], wrong, seed)], *common)
        assert found[:2] == expected[:2]
        for (logits, state), (expected_logits, expected_state) in zip(found[2], expected[2], strict=True):
            np.testing.assert_array_equal(logits, expected_logits)
            np.testing.assert_array_equal(state, expected_state)


def test_right_guesses_save_passes(model, steady):
    params = SamplingParams(max_tokens=200, seed=1, stop_ids=())
    text, *_ = generated(model, [1, 2, 3], params, ())
    assert generated(model, [1, 2, 3], params, [Oracle(text, 0, always=True)])[3] < 30
    assert generated(model, [1, 2, 3], params, [Oracle(text, 1, always=True)])[3] == 200


def test_two_answers_at_the_same_time_do_not_disturb_each_other(model, steady):
    params = SamplingParams(max_tokens=60, seed=1, stop_ids=())
    texts = [generated(model, [i], params, ())[0] for i in range(2)]
    generations = [
        generate_tokens(
            model, [i], params, Position(None, model.initial_state()), drafts=Drafts([Oracle(texts[i], 0.2, i)])
        )
        for i in range(2)
    ]
    for first, second in zip(*texts):
        assert [next(generation).token for generation in generations] == [first, second]


# --- text


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory):
    tensors = random_checkpoint("v7", 3, n_embd=64, head_size=32, ranks=RANKS["v7"], vocab_size=256)
    return rwkv_np.load(converted(tensors, tmp_path_factory.mktemp("bytes")), threads=two_threads())


@pytest.mark.parametrize("seed", range(15))
def test_generate_gives_the_same_text_with_and_without_lookup(bytes_model, steady, seed):
    rng = np.random.default_rng(seed)
    word = bytes(rng.integers(97, 100, 2)).decode()
    common = dict(seed=seed, max_tokens=80, temperature=float(rng.choice([0, 0.5])), top_k=int(rng.choice([1, 3, 40])))
    # A bias for a few letters, so that the text repeats, and contains the stop string sooner or later.
    bias = {byte: 12.0 for byte in b"abc "} | {byte: 9.0 for byte in "é".encode()}
    params = SamplingParams(**common, logit_bias=bias, stop=(word * 2, f"é{word[0]}"), stop_ids=())
    tokenizer = load_tokenizer("bytes")
    found = [rwkv_np.generate(bytes_model, tokenizer, "abc abd abc abd", params, lookup=on) for on in (True, False)]
    texts = ["".join(answer) for answer in found]
    assert texts[0] == texts[1] and found[0].tokens == found[1].tokens
    assert found[0].stop_reason == found[1].stop_reason
    np.testing.assert_array_equal(found[0].state.data, found[1].state.data)
    assert found[1].timings.passes == found[1].timings.tokens


def test_repeating_text_needs_fewer_passes(bytes_model, steady):
    params = SamplingParams(**GREEDY, max_tokens=80, logit_bias={97: 1000.0}, stop_ids=())
    answer = rwkv_np.generate(bytes_model, load_tokenizer("bytes"), "Hello", params)
    assert "".join(answer) == 80 * "a"
    assert answer.timings.passes < 20


class Loop(ScriptedModel):
    """Repeats the same words until it has read the given number of tokens, then says something else."""

    def __init__(self, n_words, ending):
        self.words = [*range(PIECE, PIECE + 5)] * n_words + [*range(PIECE + 5, PIECE + 5 + len(ending))]

    def logits(self, tokens):
        logits = np.zeros(1000, np.float32)
        logits[self.words[len(tokens) - 1] if len(tokens) <= len(self.words) else 0] = 99
        return logits


PIECES = (b" the", b" end", b" is", b" not", b" near")


@pytest.mark.parametrize("ending", [(b".\n", b"\nBob", b":"), (b".\n", b"\n", b"Bob:"), (b".\n\nBob: Hi",)])
@pytest.mark.parametrize("guesses_ending", [False, True])
def test_a_stop_string_among_the_guesses_ends_the_text(steady, ending, guesses_ending):
    model = Loop(8, ending)
    tokenizer = PieceTokenizer([*PIECES, *ending])
    params = SamplingParams(**GREEDY, max_tokens=100, stop=("\n\nBob:",), stop_ids=(0,))
    guessers = [Oracle(model.words, 0, always=True)] if guesses_ending else None
    answer = Completion(model, tokenizer, (300,), params, guessers=guessers)
    assert "".join(answer) == 8 * b"".join(PIECES).decode() + "."
    assert answer.stop_reason == "stop"
    assert tokenizer.decode(answer.state.tokens[1:]) == answer.text
    assert model.n_calls < 20


def test_an_interrupted_answer_ends_after_the_token_that_was_shown(steady):
    model = Loop(20, [])
    tokenizer = PieceTokenizer(PIECES)
    answer = Completion(model, tokenizer, (300,), SamplingParams(**GREEDY, max_tokens=100, stop_ids=(0,)))
    shown = []
    for piece in answer:
        shown.append(piece)
        if len(shown) == 33:
            answer.interrupt()
    assert len(shown) == 33 and answer.stop_reason == "interrupted"
    assert answer.state.tokens == [300, *model.words[:33]]


def test_the_second_state_is_made_when_something_is_guessed(monkeypatch):
    made = []
    monkeypatch.setattr(ScriptedModel, "new_pool", lambda self, n: made.append(n))
    model = Loop(2, [])
    model.words = [*range(PIECE, PIECE + 50)]
    params = SamplingParams(**GREEDY, max_tokens=50, stop_ids=(0,))
    list(Completion(model, PieceTokenizer([b" x"] * 50), (300,), params))
    assert not made


# --- the chat


def talked(model, lookup, draft=None):
    """A conversation with undo, another answer, a fork, a continued answer and an aside; everything that was said."""
    params = SamplingParams(seed=5, max_tokens=40, temperature=0.5, logit_bias={byte: 12.0 for byte in b"abc "})
    talk = Conversation(model, load_tokenizer("bytes"), TEMPLATES["raven"], params, lookup=lookup, draft=draft)
    said = ["".join(talk.ask("abc abd abc")), "".join(talk.ask("abd abc"))]
    said.append("".join(talk.answer_again()))
    talk.undo()
    talk.fork("other")
    said += ["".join(talk.ask("cab cab")), "".join(talk.continue_answer())]
    talk.switch("main")
    said += ["".join(talk.ask_aside("abc")), "".join(talk.ask("abc abd"))]
    return said, talk.state().data


def test_a_conversation_is_the_same_with_and_without_lookup(bytes_model, steady):
    (said, state), (expected, expected_state) = (talked(bytes_model, lookup) for lookup in (True, False))
    assert said == expected
    np.testing.assert_array_equal(state, expected_state)


def test_earlier_turns_are_looked_up(bytes_model):
    talk = Conversation(bytes_model, load_tokenizer("bytes"), TEMPLATES["raven"], SamplingParams(max_tokens=5))
    list(talk.ask("a sentence that is nowhere else"))
    (lookup,) = talk._guessers(talk.turns, [*b"sentence that"])
    assert bytes(lookup.guess(8)) == b" is nowh"
    talk.lookup = False
    assert talk._guessers(talk.turns, ()) == []


# --- a small model guesses


def small_model(folder, seed=9, vocab_size=256):
    tensors = random_checkpoint("v4", seed, n_layer=1, n_embd=32, vocab_size=vocab_size)
    return rwkv_np.load(converted(tensors, folder))


@pytest.mark.parametrize("seed", range(6))
def test_a_draft_model_changes_nothing(bytes_model, steady, tmp_path, seed):
    small = bytes_model if seed % 2 else small_model(tmp_path)  # one that is often right, and a bad one
    params = SamplingParams(seed=seed, max_tokens=60, temperature=0.4, top_k=(0, 2)[seed % 2], stop=("ab", "x"))
    tokenizer = load_tokenizer("bytes")
    plain = rwkv_np.generate(bytes_model, tokenizer, "Hello", params, lookup=False)
    drafted = rwkv_np.generate(bytes_model, tokenizer, "Hello", params, draft=small)
    assert "".join(drafted) == "".join(plain) and drafted.tokens == plain.tokens
    np.testing.assert_array_equal(drafted.state.data, plain.state.data)


def test_a_model_that_drafts_for_itself_is_always_right(bytes_model, steady):
    params = SamplingParams(**GREEDY, max_tokens=70, stop_ids=())
    answer = rwkv_np.generate(bytes_model, load_tokenizer("bytes"), "Hello", params, lookup=False, draft=bytes_model)
    list(answer)
    assert len(answer.tokens) == 70 and answer.timings.passes < 14


@pytest.mark.parametrize("seed", range(5))
def test_a_draft_model_says_what_it_would_say_after_the_text(tmp_path, seed):
    """Its state follows the text, whichever of its guesses came true, and across texts."""
    small, rng = small_model(tmp_path, vocab_size=50), np.random.default_rng(seed)
    drafter, text = DraftModel(small), rng.integers(0, 50, 10).tolist()
    drafter.begin(text)
    drafter.prepare()
    for _ in range(25):
        found, after = drafter.guess(n := int(rng.integers(1, 8))), [*text]
        for token in found:
            assert token == small.forward(after)[0].argmax()
            after.append(token)
        assert len(found) == n
        right, wrong = found[: rng.integers(0, n + 1)], rng.integers(0, 50, rng.integers(1, 3)).tolist()
        text += [*right, *wrong]
        choice = rng.integers(0, 8)
        if choice == 0:  # the next turn
            text += [1, 2, 3]
            drafter.begin(text)
        elif choice == 1:  # something was undone
            text = text[: len(text) // 2]
            drafter.begin(text)
        else:
            drafter.extend(right)
            for token in wrong:
                drafter.add(token)


def test_a_draft_model_with_another_vocabulary_is_refused(bytes_model, tmp_path, run_cli):
    small = small_model(tmp_path, vocab_size=50)
    with pytest.raises(InputError, match="a vocabulary of 50 tokens, and the model has 256: choose a small model"):
        rwkv_np.generate(bytes_model, load_tokenizer("bytes"), "Hello", draft=small)
    with pytest.raises(InputError, match="draft"):
        rwkv_np.generate(bytes_model, load_tokenizer("bytes"), "Hello", draft=str(tmp_path))
    found = run_cli("chat", "-p", "Hi", "--draft", tmp_path / "model-FP32.bin", code=1)
    assert "model-FP32.bin has a vocabulary of 50 tokens" in found.stderr
    (tmp_path / "damaged.bin").write_bytes(b"nothing")
    assert "damaged.bin" in run_cli("chat", "-p", "Hi", "--draft", tmp_path / "damaged.bin", code=1).stderr


def test_a_conversation_is_the_same_with_a_draft_model(bytes_model, steady, tmp_path):
    talked_with = [
        talked(bytes_model, lookup=False, draft=draft) for draft in (DraftModel(small_model(tmp_path)), None)
    ]
    assert talked_with[0][0] == talked_with[1][0]
    np.testing.assert_array_equal(talked_with[0][1], talked_with[1][1])


# --- the demo model


@pytest.fixture(scope="module")
def demo_model():
    return rwkv_np.load(demo.MODEL)


@pytest.mark.parametrize("seed", range(8))
def test_the_demo_model_says_the_same_with_and_without_guesses(demo_model, steady, seed):
    rng, tokenizer = np.random.default_rng(seed), load_tokenizer(model_path=demo.MODEL, vocab_size=4096)
    params = SamplingParams(
        seed=seed, max_tokens=120, temperature=float(rng.choice([0, 0.5, 1])), top_p=float(rng.choice([0.3, 1])),
        presence_penalty=float(rng.choice([0, 0.4])), frequency_penalty=0.0, stop=("\n\nBob:", "the th"), stop_ids=(),
    )  # fmt: skip
    prompt = "Bob: Say it again: one, two, three, four, five. One, two, three, four, five.\n\nAlice: One, two,"
    options = ({"lookup": False}, {}, {"draft": demo_model, "lookup": bool(seed % 2)})
    answers = [rwkv_np.generate(demo_model, tokenizer, prompt, params, **each) for each in options]
    texts = ["".join(answer) for answer in answers]
    assert texts[0] == texts[1] == texts[2]
    for answer in answers[1:]:
        assert (answer.tokens, answer.stop_reason) == (answers[0].tokens, answers[0].stop_reason)
        np.testing.assert_array_equal(answer.state.data, answers[0].state.data)


def test_the_chat_command_says_the_same_with_and_without_guesses(run_cli):
    options = ([], ["--no-lookup"], ["--draft", demo.MODEL])
    common = ("chat", "-p", "Hello, hello, hello, hello!", "--seed", 1, "--opening", "none", "--max-tokens", 60)
    answers = {run_cli(*common, *each).stdout for each in options}
    assert len(answers) == 1
