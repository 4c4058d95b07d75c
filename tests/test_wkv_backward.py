"""The gradients of the recurrences: NumPy's against torch's, the kernels' against NumPy's."""

import numpy as np
import pytest
import torch
from rwkv_np.kernels import equations, gradients, wkv4_backward

T = 37  # more than two chunks of tokens, and a part of one


def from_torch(loop, inputs, constants, g):
    """The gradients of a loop over tokens written in torch, float64, with respect to `inputs`."""
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    (loop(*tensors, *map(torch.tensor, constants)) * torch.tensor(g)).sum().backward()
    return [x.grad.numpy() for x in tensors]


def inputs4(rng, n_channels=21, scale=1.0):
    k, v, g = rng.standard_normal((3, T, n_channels))
    w, u = -np.exp(rng.standard_normal(n_channels)), rng.standard_normal(n_channels)
    return scale * k, v, w, u, g


def loop4(k, v, w, u):
    a = b = torch.zeros_like(w)
    out = []
    for t in range(len(k)):
        out.append((a + torch.exp(u + k[t]) * v[t]) / (b + torch.exp(u + k[t])))
        a, b = torch.exp(w) * a + torch.exp(k[t]) * v[t], torch.exp(w) * b + torch.exp(k[t])
    return torch.stack(out)


def run4(k, v, w, u, g):
    out, states = wkv4_backward.forward(k, v, w, u)
    return out, wkv4_backward.backward(k, v, w, u, out, states, g)


def close(found, expected, rtol):
    """Equal up to a share of the largest number."""
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max())


def test_rwkv_4s_gradient_is_torchs(rng):
    k, v, w, u, g = inputs4(rng)
    close(gradients.wkv4_gradient(k, v, w, u, g), from_torch(loop4, (k, v), (w, u), g), 1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 3e-6)])
def test_rwkv_4s_kernel_is_the_reference(rng, dtype, rtol):
    inputs = inputs4(rng)
    out, found = run4(*(x.astype(dtype) for x in inputs))
    assert all(x.dtype == dtype for x in (out, *found))
    close(found, gradients.wkv4_gradient(*inputs), rtol)
    state = np.array([[0.0], [0], [-1e30]]).repeat(21, axis=1)
    close([out], [equations.wkv4(*inputs[:4], state)], rtol)


def test_rwkv_4s_kernel_bears_keys_whose_exponentials_overflow(rng):
    """float32 ends at e^88; float64, in which the reference is computed, at e^709."""
    inputs = inputs4(rng, scale=100.0)
    _, found = run4(*(x.astype(np.float32) for x in inputs))
    close(found, gradients.wkv4_gradient(*inputs), 1e-4)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
