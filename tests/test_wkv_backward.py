"""The gradients of the recurrences: NumPy's against torch's, the kernels' against NumPy's."""

import numpy as np
import pytest
import torch
from rwkv_np.kernels import equations, gradients, wkv4_backward, wkv5_backward, wkv7_backward

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


def test_rwkv_4s_kernel_is_the_reference(rng):
    inputs = inputs4(rng)
    out, found = run4(*(x.astype(np.float32) for x in inputs))
    assert all(x.dtype == np.float32 for x in (out, *found))
    close(found, gradients.wkv4_gradient(*inputs), 3e-6)
    state = np.array([[0.0], [0], [-1e30]]).repeat(21, axis=1)
    close([out], [equations.wkv4(*inputs[:4], state)], 3e-6)


def test_rwkv_4s_kernel_bears_keys_whose_exponentials_overflow(rng):
    """float32 ends at e^88; float64, in which the reference is computed, at e^709."""
    inputs = inputs4(rng, scale=100.0)
    _, found = run4(*(x.astype(np.float32) for x in inputs))
    close(found, gradients.wkv4_gradient(*inputs), 1e-4)


def inputs5(rng, decay_shape=(T, 3, 9)):
    r, k, v, g = rng.standard_normal((4, T, 3, 9))
    return r, k, v, np.exp(-np.exp(rng.standard_normal(decay_shape))), rng.standard_normal((3, 9)), g


def loop5(r, k, v, w, u):
    S, out = torch.zeros((3, 9, 9), dtype=r.dtype), []
    for t in range(len(k)):
        kv = k[t][:, :, None] * v[t][:, None]
        out.append((r[t][:, None] @ (S + u[..., None] * kv))[:, 0])
        S = w[t][..., None] * S + kv
    return torch.stack(out)


def run5(r, k, v, w, u, g):
    out, kept = wkv5_backward.forward(r, k, v, w, u)
    return out, wkv5_backward.backward(r, k, v, w, u, kept, g)


def test_rwkv_5s_gradient_is_torchs(rng):
    *inputs, u, g = inputs5(rng)
    close(gradients.wkv5_gradient(*inputs, u, g), from_torch(loop5, inputs, (u,), g), 1e-12)


@pytest.mark.parametrize("decay_shape", [(T, 3, 9), (3, 9), (3, 1)], ids=["6", "5.2", "5.1"])
def test_rwkv_5s_kernel_is_the_reference(rng, decay_shape):
    inputs = inputs5(rng, decay_shape)
    out, found = run5(*(x.astype(np.float32) for x in inputs))
    assert all(x.dtype == np.float32 for x in (out, *found))
    close(found, gradients.wkv5_gradient(*inputs), 3e-6)
    close([out], [equations.wkv5(*inputs[:5], np.zeros((3, 9, 9)))], 3e-6)


def inputs7(rng):
    r, k, v, kk, g = rng.standard_normal((5, T, 3, 9))
    w, a = rng.uniform(0.545, 1, (T, 3, 9)), rng.random((T, 3, 9))
    return r, w, k, v, equations.unit_length(kk), a, g


def loop7(r, w, k, v, kk, a):
    S, out = torch.zeros((3, 9, 9), dtype=r.dtype), []
    for t in range(len(k)):
        found = kk[t][:, None] @ S
        S = w[t][..., None] * S - (kk[t] * a[t])[..., None] * found + k[t][..., None] * v[t][:, None]
        out.append((r[t][:, None] @ S)[:, 0])
    return torch.stack(out)


def run7(*inputs_and_g):
    *inputs, g = inputs_and_g
    out, kept = wkv7_backward.forward(*inputs)
    return out, wkv7_backward.backward(*inputs, kept, g)


def test_rwkv_7s_gradient_is_torchs(rng):
    *inputs, g = inputs7(rng)
    close(gradients.wkv7_gradient(*inputs, g), from_torch(loop7, inputs, (), g), 1e-12)


def test_rwkv_7s_kernel_is_the_reference(rng):
    inputs = inputs7(rng)
    out, found = run7(*(x.astype(np.float32) for x in inputs))
    assert all(x.dtype == np.float32 for x in (out, *found))
    close(found, gradients.wkv7_gradient(*inputs), 3e-6)
    close([out], [equations.wkv7(*inputs[:6], np.zeros((3, 9, 9)))], 3e-6)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
