"""RWKV-4's recurrence with a gradient, for training on a CPU.

    out[t] = (a[t] + e^(u + k[t]) v[t]) / (b[t] + e^(u + k[t]))
    a[t + 1] = e^w a[t] + e^k[t] v[t],   b[t + 1] = e^w b[t] + e^k[t],   a[0] = b[0] = 0

torch does not have this operation, and a loop over the tokens in torch costs more than the rest of
the model. So both directions are Numba loops; a task is one sequence and 64 channels. As in
`rwkv_np.models.v4.wkv`, a and b are stored divided by e^p, where p is the largest exponent so far.
In the same way, the gradients that flow backwards through a and b are stored multiplied by e^s, where
s is the largest -p of the later tokens, so no exponential in either direction exceeds 1.

Inference has its own kernel (`rwkv_np.kernels.wkv`). `wkv_loop` is the definition in torch: the tests
compare with it, and it is used on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch

CHANNELS = 64  # channels of a task: enough for cache lines, few enough to share the work among threads
NEVER = np.float32(-1e38)  # the exponent before any token was seen


@numba.njit(parallel=True, cache=True)
def _forward(w, u, k, v, out, a, b, p):
    """Shapes: w, u (C,); the others (B, T, C). a, b, p are the state before each token."""
    n_rows, n_tokens, n_channels = k.shape
    n_groups = -(-n_channels // CHANNELS)
    for task in numba.prange(n_rows * n_groups):
        row, start = task // n_groups, task % n_groups * CHANNELS
        end = min(start + CHANNELS, n_channels)
        a[row, 0, start:end] = 0
        b[row, 0, start:end] = 0
        p[row, 0, start:end] = NEVER
        for t in range(n_tokens):
            for c in range(start, end):
                before, now = p[row, t, c], k[row, t, c]
                q = max(before, u[c] + now)
                past, present = math.exp(before - q), math.exp(u[c] + now - q)
                numerator = past * a[row, t, c] + present * v[row, t, c]
                out[row, t, c] = numerator / (past * b[row, t, c] + present)
                if t + 1 < n_tokens:
                    q = max(before + w[c], now)
                    past, present = math.exp(before + w[c] - q), math.exp(now - q)
                    a[row, t + 1, c] = past * a[row, t, c] + present * v[row, t, c]
                    b[row, t + 1, c] = past * b[row, t, c] + present
                    p[row, t + 1, c] = q


@numba.njit(parallel=True, cache=True)
def _backward(w, u, k, v, out, a, b, p, grad, gw, gu, gk, gv):
    """Shapes: as above; gw, gu (B, C) are per sequence."""
    n_rows, n_tokens, n_channels = k.shape
    n_groups = -(-n_channels // CHANNELS)
    for task in numba.prange(n_rows * n_groups):
        row, start = task // n_groups, task % n_groups * CHANNELS
        end = min(start + CHANNELS, n_channels)
        ga, gb = np.zeros(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
        s = np.full(CHANNELS, NEVER, np.float32)
        gw[row, start:end] = 0
        gu[row, start:end] = 0
        for t in range(n_tokens - 1, -1, -1):
            for c in range(start, end):
                i = c - start
                before, now, value = p[row, t, c], k[row, t, c], v[row, t, c]
                # === Write: the effect of this token's k and v on later tokens === #
                weight = math.exp(now + s[i])
                to_k = weight * (ga[i] * value + gb[i])
                to_v = weight * ga[i]
                gw[row, c] += math.exp(w[c] + before + s[i]) * (ga[i] * a[row, t, c] + gb[i] * b[row, t, c])
                # === Read: this token's own output === #
                q = max(before, u[c] + now)
                present = math.exp(u[c] + now - q)
                scaled = grad[row, t, c] / (math.exp(before - q) * b[row, t, c] + present)
                to_u = scaled * present * (value - out[row, t, c])
                gu[row, c] += to_u
                gk[row, t, c] = to_k + to_u
                gv[row, t, c] = to_v + scaled * present
                # === Step back === #
                later = max(w[c] + s[i], -q)
                fade, fresh = math.exp(w[c] + s[i] - later), math.exp(-q - later) * scaled
                ga[i] = fade * ga[i] + fresh
                gb[i] = fade * gb[i] - fresh * out[row, t, c]
                s[i] = later


class _Wkv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        w, u, k, v = (x.detach().contiguous().numpy() for x in inputs)
        out, a, b, p = (np.empty_like(k) for _ in range(4))
        _forward(w, u, k, v, out, a, b, p)
        ctx.arrays = w, u, k, v, out, a, b, p
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w, _, k, *_ = ctx.arrays
        gw, gu = (np.empty((len(k), len(w)), np.float32) for _ in range(2))
        gk, gv = np.empty_like(k), np.empty_like(k)
        _backward(*ctx.arrays, grad.contiguous().numpy(), gw, gu, gk, gv)
        return tuple(torch.from_numpy(g) for g in (gw.sum(0), gu.sum(0), gk, gv))


def wkv(w: torch.Tensor, u: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The weighted averages of v, from an empty state.

    Shapes   w, u (C,); k, v (B, T, C); returns (B, T, C); float32
    Units    w is negative: a value's weight is multiplied by e^w with each token
    """
    result: torch.Tensor = _Wkv.apply(w, u, k, v) if k.device.type == "cpu" else wkv_loop(w, u, k, v)
    return result


def wkv_loop(w: torch.Tensor, u: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same, with one torch operation after another."""
    a = b = torch.zeros_like(k[:, 0])
    p = torch.full_like(a, float(NEVER))
    out = []
    for now, value in zip(k.unbind(1), v.unbind(1)):
        q = torch.maximum(p, u + now)
        past, present = torch.exp(p - q), torch.exp(u + now - q)
        out.append((past * a + present * value) / (past * b + present))
        q = torch.maximum(p + w, now)
        past, present = torch.exp(p + w - q), torch.exp(now - q)
        a, b, p = past * a + present * value, past * b + present, q
    return torch.stack(out, 1)
