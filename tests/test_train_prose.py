"""Training of the prose model: the recurrence's gradient, the graph, and the pace."""

import numpy as np
import pytest
import torch
from demo_graph import Shape
from prose_graph import DECAY, Rwkv7
from prose_wkv import CHUNK, wkv7, wkv7_loop

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
