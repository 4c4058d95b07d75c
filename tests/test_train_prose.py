"""Training of the prose model: the recurrence's gradient, the graph, and the pace."""

import json

import numpy as np
import pytest
import torch
from demo_graph import Shape
from prose_graph import DECAY, Rwkv7
from prose_wkv import CHUNK, wkv7, wkv7_loop
from train_prose import Run, fuse, pace, train, undo

import rwkv_np

TINY = Shape(n_layer=2, n_embd=128, dim_ffn=64, vocab_size=200)


def recurrence_inputs(n_tokens, n=8):
    r, k, v, kk = torch.randn(4, 2, n_tokens, 3, n, dtype=torch.float64)
    kk = torch.nn.functional.normalize(kk, dim=-1)
    log_w, rate = torch.rand(2, *r.shape, dtype=torch.float64)
    return [x.requires_grad_() for x in (r, DECAY * log_w.sqrt(), k, v, -kk, kk * rate)]


@pytest.mark.parametrize("n_chunks", [1, 4])
def test_the_recurrence_and_its_gradient_are_those_of_the_loop(n_chunks):
    torch.manual_seed(0)
    inputs = recurrence_inputs(n_chunks * CHUNK)
    ours, loops = wkv7(*inputs), wkv7_loop(*inputs)
    torch.testing.assert_close(ours, loops, rtol=0, atol=1e-12)
    grad = torch.randn_like(ours)
    for ours_grad, loops_grad in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(loops, inputs, grad)):
        torch.testing.assert_close(ours_grad, loops_grad, rtol=0, atol=1e-11)


def test_float32_is_precise_enough_for_the_smallest_decay():
    torch.manual_seed(0)
    inputs = [x.detach() for x in recurrence_inputs(4 * CHUNK)]
    inputs[1] = torch.full_like(inputs[1], DECAY)
    torch.testing.assert_close(wkv7(*(x.float() for x in inputs)).double(), wkv7_loop(*inputs), rtol=0, atol=1e-5)


def test_the_converted_graph_gives_the_same_logits(tmp_path):
    torch.manual_seed(0)
    model = Rwkv7(TINY)
    with torch.no_grad():
        for parameter in model.parameters():  # otherwise most matrices are zero
            parameter += 0.3 * parameter.shape[-1] ** -0.5 * torch.randn_like(parameter)
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    rwkv_np.convert(tmp_path / "tiny.pth", tmp_path / "tiny.bin", "FP32")
    ids = torch.randint(TINY.vocab_size, (1, 3 * CHUNK), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids)[0].numpy()
    logits, _ = rwkv_np.load(tmp_path / "tiny.bin").forward(ids[0].numpy(), full_output=True)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


# === The training === #


@pytest.fixture
def one_thread():
    """With several threads, tiny operations on a busy machine take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_run():
    torch.manual_seed(0)
    text = torch.tensor([5, 6, 7, 8] * 200, dtype=torch.int32)
    return Run(Rwkv7(TINY), text, text[:100], n_held_out_bytes=200, n_rows=2, n_tokens=2 * CHUNK)


@pytest.mark.usefixtures("one_thread")
def test_training_lowers_the_loss():
    run = tiny_run()
    losses = [run.advance(2e-3).item() for _ in range(8)]
    assert losses[-1] < losses[0] - 1 and run.held_out_loss() < losses[0] - 1


@pytest.mark.usefixtures("one_thread")
def test_the_files_of_a_run_are_a_checkpoint_and_a_log(tmp_path):
    run = tiny_run()
    train(run, tmp_path, seconds=0, log_every=1, write_every=1)
    row = json.loads((tmp_path / "log.jsonl").read_text())
    assert row["step"] == 1 and row["tokens"] == 4 * CHUNK
    rwkv_np.convert(tmp_path / "prose.pth", tmp_path / "tiny.bin", "FP16")
    logits, _ = rwkv_np.load(tmp_path / "tiny.bin").forward([5, 6, 7])
    assert logits.shape == (TINY.vocab_size,)


@pytest.mark.usefixtures("one_thread")
def test_what_is_around_the_recurrence_is_fused_and_that_can_be_undone(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: 2 * function(*args))
    run = tiny_run()
    before = run.held_out_loss()
    fuse(run.model)
    for block in run.model.blocks:
        assert {"prepare", "finish"} < vars(block.att).keys() and "forward" in vars(block.ffn)
    undo(run.model)
    assert run.held_out_loss() == before


def test_the_learning_rate_rises_and_falls_with_the_time():
    rates = [pace(share) for share in (0, 0.01, 0.02, 0.5, 0.9, 1)]
    assert rates[0] < rates[1] < rates[2] == 1 > rates[3] > rates[4] > rates[5] > 0
