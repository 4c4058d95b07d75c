"""Training of the demo model: the recurrence's gradient, the graph, the text, and the loop."""

import json
import random

import demo_text
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from demo_facts import topics
from demo_graph import Rwkv4, Shape
from demo_questions import HELD_OUT_CHARACTERS, questions
from demo_text import document
from demo_tokens import READ_WEIGHT, Batches, held_out, train_tokenizer
from demo_training import Run, pace
from demo_wkv import wkv, wkv_loop
from examine import QUESTIONS
from rwkv_np.kernels.equations import wkv4
from train_demo import command
from vocabulary import END_OF_TEXT

import rwkv_np
from rwkv_np import demo

TINY = Shape(n_layer=2, n_embd=32, dim_ffn=64, vocab_size=400)


@pytest.fixture(scope="module")
def tiny_tokenizer():
    return train_tokenizer(0, TINY.vocab_size, n_documents=300)


def tiny_run(tokenizer, n_steps=8):
    torch.manual_seed(0)
    return Run(Rwkv4(TINY), Batches(tokenizer, 0, 2, 64), n_steps)


# === The recurrence === #


@pytest.mark.parametrize("n_channels, scale", [(5, 1), (70, 3), (64, 40)], ids=["few", "a rest", "large keys"])
def test_the_recurrence_and_its_gradient_are_those_of_the_loop(n_channels, scale):
    torch.manual_seed(0)
    w, u = -3 * torch.rand(n_channels), torch.randn(n_channels)
    k, v, grad = scale * torch.randn(2, 19, n_channels), torch.randn(2, 19, n_channels), torch.randn(2, 19, n_channels)
    inputs = [x.requires_grad_() for x in (w, u, k, v)]
    ours, loops = wkv(*inputs), wkv_loop(*inputs)
    torch.testing.assert_close(ours, loops, rtol=1e-5, atol=1e-5)
    for ours_grad, loops_grad in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(loops, inputs, grad)):
        torch.testing.assert_close(ours_grad, loops_grad, rtol=1e-4, atol=1e-4)


def test_the_loop_is_the_recurrence_of_the_reference():
    rng = np.random.default_rng(0)
    w, u, k, v = -rng.random(8), rng.normal(size=8), rng.normal(size=(1, 9, 8)), rng.normal(size=(1, 9, 8))
    state = np.stack([np.zeros(8), np.zeros(8), np.full(8, -1e38)])
    expected = wkv4(k[0], v[0], w, u, state)
    np.testing.assert_allclose(wkv_loop(*map(torch.tensor, (w, u, k, v)))[0], expected, rtol=1e-6)


# === The graph === #


def test_the_converted_graph_gives_the_same_logits(tmp_path):
    torch.manual_seed(0)
    model = Rwkv4(TINY)
    with torch.no_grad():
        for parameter in model.parameters():  # otherwise most matrices are zero
            parameter += 0.3 * torch.randn_like(parameter)
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    rwkv_np.convert(tmp_path / "tiny.pth", tmp_path / "tiny.bin", "FP32")
    ids = torch.randint(TINY.vocab_size, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids)[0].numpy()
    logits, _ = rwkv_np.load(tmp_path / "tiny.bin").forward(ids[0].numpy(), full_output=True)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


# === The text === #


def test_pieces_encoded_apart_are_the_tokens_of_the_whole():
    tokenizer, rng = train_tokenizer(0), random.Random(1)
    for _ in range(300):
        pieces = [text for text, _ in document(rng)]
        whole = tokenizer.encode("".join(pieces)).ids
        assert sum((tokenizer.encode(piece).ids for piece in pieces), []) == whole


def test_a_dialogue_is_cut_where_the_chat_cuts_it():
    pieces = next(d for d in map(document, map(random.Random, range(99))) if len(d) > 4)
    assert pieces[0][0].startswith("Bob: ") and pieces[0][0].endswith("\n\nAlice:") and not pieces[0][1]
    assert pieces[1][0].startswith(" ") and pieces[1][1]
    assert pieces[2] == ("\n\n", True) and pieces[-1] == (END_OF_TEXT, True)


def test_every_fact_holds_its_own_right_answer_and_no_question_has_two():
    answers = {}
    for fact in demo_text.facts():
        assert all(fact.right.lower() in said.lower() for said in fact.say), fact
        for question in fact.ask:
            assert answers.setdefault(question, fact.right) == fact.right
    assert len(topics()) > 30 and len(answers) > 5000


def test_batches_follow_from_the_seed_and_their_number(tiny_tokenizer):
    first, second = (Batches(tiny_tokenizer, 0, 2, 64) for _ in range(2))
    ids, weights = first(5)
    assert ids.shape == weights.shape == (2, 65)
    assert torch.equal(ids, second(5)[0]) and not torch.equal(ids, first(6)[0])
    assert weights.unique().tolist() == pytest.approx([READ_WEIGHT, 1])


def test_held_out_stories_are_in_no_batch():
    unseen = {line for line in held_out(0, 20_000).split("\n") if len(line) > 200}
    rng = random.Random("0 of 0")
    seen = {line for _ in range(3000) for text, _ in document(rng) for line in text.split("\n")}
    assert len(unseen) > 5 and not unseen & seen


# === The loop === #


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tiny_tokenizer, tmp_path):
    whole, first, second = (tiny_run(tiny_tokenizer) for _ in range(3))
    losses = [whole.advance() for _ in range(8)]
    again = [first.advance() for _ in range(3)]
    first.save(tmp_path / "kept")
    second.resume(tmp_path / "kept")
    again += [second.advance() for _ in range(5)]
    assert again == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters()))


def test_the_learning_rate_before_its_fall_does_not_know_the_number_of_steps():
    assert [pace(step, 1000) for step in range(700)] == [pace(step, 5000) for step in range(700)]
    assert pace(0, 1000) < 0.1 and pace(700, 1000) == 1 and pace(999, 1000) < 0.01


# === The shipped files === #


def test_the_script_writes_the_vocabulary_the_questions_and_the_held_out_text_that_are_shipped(tmp_path):
    train_tokenizer(0).save(str(tmp_path / "tokenizer.json"))
    assert (tmp_path / "tokenizer.json").read_bytes() == demo.TOKENIZER.read_bytes()
    assert questions(0) == json.loads(QUESTIONS.read_text(encoding="utf-8"))
    assert held_out(0, HELD_OUT_CHARACTERS) == demo.HELD_OUT.read_text(encoding="utf-8")


def test_a_short_training_falls_as_the_shipped_log_says(tmp_path):
    shipped = [json.loads(line) for line in (demo.DATA / "demo-training.jsonl").read_text().splitlines()]
    args = [str(tmp_path / "demo.pth"), "--steps", str(shipped[-1]["step"]), "--stop", str(shipped[1]["step"])]
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "demo.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row, told in zip(rows, shipped):
        assert row["tokens"] == told["tokens"]
        # Another number of threads changes the order of sums, and bfloat16 has 8 bits.
        assert [row["loss"], row["held_out_loss"]] == pytest.approx([told["loss"], told["held_out_loss"]], rel=0.02)
    losses = [row["held_out_loss"] for row in (*rows, shipped[-1])]
    assert losses[0] > 1.2 * losses[1] > 5 * losses[2]
