"""Last words, scored as in ChatRWKV's benchmark, on a model with known probabilities."""

import json
import math

import numpy as np
import pytest

from rwkv_np.errors import TextError
from rwkv_np.evaluation.lambada import Guesses, guess, guess_all, read_items
from rwkv_np.tokenizers import load_tokenizer


class Speller:
    """Predicts the next byte of `script` with the probability `p`; its state is the bytes that it read."""

    def __init__(self, script, p=0.5, n_vocab=256):
        self.script, self.p, self.n_vocab = script, p, n_vocab
        self.read = []

    def forward(self, tokens, state=b"", full_output=False):
        rows = []
        for token in tokens:
            state += bytes([token])
            rows.append(self._logits(state))
        self.read.append(state)
        return (np.stack(rows) if full_output else rows[-1]), state

    def _logits(self, read):
        wanted = self.script[len(read) - 1]  # the newline that comes first is not in the script
        others = (1 - self.p) / (self.n_vocab - 1)
        logits = np.full(self.n_vocab, math.log(others), np.float32)
        logits[wanted] = math.log(self.p)
        return logits


def items_of(tmp_path, *texts, tokenizer=None):
    path = tmp_path / "lambada.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return read_items(path, tokenizer or load_tokenizer("bytes"))


def test_a_word_is_its_space_and_all_after_it(tmp_path):
    first, _ = items_of(tmp_path, "He said to  Gabriel", "a b")
    assert bytes(first.passage) == b"\nHe said to " and bytes(first.word) == b" Gabriel"


def test_a_word_counts_when_each_of_its_tokens_is_the_most_likely(tmp_path):
    right, wrong = items_of(tmp_path, "one two", "one twa")
    assert guess(Speller(b"one two "), right)[1] is True
    assert guess(Speller(b"one two "), wrong)[1] is False


def test_the_probability_of_a_word_is_the_product_over_its_tokens(tmp_path):
    right, wrong = items_of(tmp_path, "one two", "one twa")
    assert guess(Speller(b"one two "), right)[0] == pytest.approx(4 * math.log(0.5))
    assert guess(Speller(b"one two "), wrong)[0] == pytest.approx(3 * math.log(0.5) + math.log(0.5 / 255))


def test_the_last_token_of_a_word_is_never_read(tmp_path):
    model = Speller(b"one two ")
    guess(model, items_of(tmp_path, "one two", "x y")[0])
    assert model.read[-1] == b"\none tw"


def test_perplexity_is_that_of_words_and_accuracy_a_share(tmp_path):
    items = items_of(tmp_path, "one two", "one twa", "one two", "one two")
    guesses = [Guesses(), Guesses()]
    guess_all([Speller(b"one two "), Speller(b"one two ", p=0.25)], items, guesses)
    found = guesses[0].result()
    expected = [4 * math.log(2)] * 3 + [3 * math.log(2) + math.log(2 * 255)]
    assert found.n_words == 4 and found.accuracy.value == 0.75
    assert found.perplexity.value == pytest.approx(math.exp(np.mean(expected)))
    error = np.std(expected, ddof=1) / 2
    assert found.perplexity.error == pytest.approx(found.perplexity.value * error)
    assert found.accuracy.error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert guesses[1].result().perplexity.value > found.perplexity.value


def test_interrupted_results_are_complete_for_all_models(tmp_path):
    items, guesses = items_of(tmp_path, "one two", "one two", "one two"), [Guesses(), Guesses()]

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guess_all([Speller(b"one two ")] * 2, items, guesses, stop)
    assert [of_one.result().n_words for of_one in guesses] == [2, 2]
    assert Guesses([1.0], [True]).result() is None


def test_the_space_is_part_of_the_word_s_token(tmp_path):
    tokenizer = load_tokenizer("world")
    item, _ = items_of(tmp_path, "Once upon a time", "one two", tokenizer=tokenizer)
    assert len(item.word) == 1 and tokenizer.decode(item.word) == " time"


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2 is not"),
        ("[1]", "line 2 is not"),
        ('{"txt": "a b"}', "line 2 is not"),
        ('{"text": 5}', "line 2 is not"),
        ('{"text": "oneword"}', "line 2 is not .* at least two words"),
        ('{"text": "a b "}', "line 2 ends in a space"),
        ("[" * 100_000, "line 2 is not"),
        (r'{"text": "a \ud800"}', "line 2 contains U.D800, half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a b"}\n' + line + "\n")
    with pytest.raises(TextError, match=message):
        read_items(path, load_tokenizer("bytes"))


def test_lines_beyond_the_limit_are_not_looked_at_and_one_is_too_few(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"text": "a b"}\n\n{"text": "a\\u2028 b"}\nnonsense\n')
    assert len(read_items(path, load_tokenizer("bytes"), limit=2)) == 2
    with pytest.raises(TextError, match="contains 1 passage"):
        read_items(path, load_tokenizer("bytes"), limit=1)
