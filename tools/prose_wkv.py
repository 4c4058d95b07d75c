"""RWKV-7's recurrence for training: many tokens at once, with gradients.

    S_t = S_(t-1) diag(w_t) + x_t b_tᵀ + v_t k_tᵀ,  x_t = S_(t-1) a_t,  y_t = S_t r_t

Token by token that is thousands of small steps, far too slow for training. Here a sequence is cut into
chunks. All products inside the chunks are done at once; what goes step by step is one product of
64 x 64 matrices a chunk. The memory is [key][value], as in `rwkv_np/models/v7.py`.

A chunk divides by products of its decays. RWKV-7's decay is at least 0.545, so that 16 of them stay above
6e-5: float32 is precise enough. Do not use this with the decays of RWKV-5 and 6, which reach zero.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 16  # a power of two


def wkv7_loop(
    r: torch.Tensor, log_w: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """The definition, token by token. All (B, T, H, N) -> (B, T, H, N), from an empty memory."""
    n_batch, n_tokens, n_head, n = r.shape
    state = r.new_zeros(n_batch, n_head, n, n)
    out = []
    for t in range(n_tokens):
        row = [x[:, t, :, None, :] for x in (r, k, v, a, b)]
        x = row[3] @ state
        state = state * log_w[:, t, :, :, None].exp() + row[4].mT @ x + row[1].mT @ row[2]
        out.append((row[0] @ state)[:, :, 0])
    return torch.stack(out, dim=1)


def wkv7(
    r: torch.Tensor, log_w: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """The same, chunk by chunk; T is a multiple of CHUNK."""
    n_batch, _, n_head, n = r.shape
    r, log_w, k, v, a, b = (_in_chunks(x) for x in (r, log_w, k, v, a, b))
    log_product = log_w.cumsum(dim=-2)
    back = (-log_product).exp()
    whole = log_product[..., -1:, :].exp()
    read, look = r * log_product.exp(), a * (log_product - log_w).exp()
    b, k = b * back, k * back
    products = torch.cat([look, read], dim=-2) @ torch.cat([b, k], dim=-2).mT
    of_look, of_read = products[..., :CHUNK, :], products[..., CHUNK:, :]
    look_b, look_k = of_look[..., :CHUNK].tril(-1), of_look[..., CHUNK:].tril(-1)
    read_b, read_k = of_read[..., :CHUNK].tril(), of_read[..., CHUNK:].tril()
    # What the chunk's tokens find in the memory, x: `found` of the memory before the chunk, and `own`.
    inverse = _inverse(look_b)
    found, own = inverse @ look, inverse @ (look_k @ v)
    b, k = (b * whole).mT, (k * whole).mT
    step, gain = torch.diag_embed(whole[..., 0, :]) + b @ found, k @ v + b @ own
    states = _States.apply(step, gain)  # type: ignore[no-untyped-call]
    out = (read + read_b @ found) @ states + read_k @ v + read_b @ own
    return out.view(n_batch, n_head, -1, n).transpose(1, 2)


def _in_chunks(x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, N) -> (B H, chunks, CHUNK, N)"""
    n_batch, n_tokens, n_head, n = x.shape
    return x.transpose(1, 2).reshape(n_batch * n_head, n_tokens // CHUNK, CHUNK, n)


def _inverse(lower: torch.Tensor) -> torch.Tensor:
    """(I - lower)^-1 of strictly lower triangles: (I + L)(I + L²)(I + L⁴)..."""
    result = torch.eye(CHUNK, dtype=lower.dtype, device=lower.device) + lower
    power = lower
    for _ in range(CHUNK.bit_length() - 2):
        power = power @ power
        result = result + result @ power
    return result


class _States(torch.autograd.Function):
    """The memory before each chunk: S_(i+1) = step_i S_i + gain_i. All (B H, chunks, N, N)."""

    @staticmethod
    def forward(ctx: Any, step: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        state = torch.zeros_like(gain[:, 0])
        states = [state]
        for i in range(gain.shape[1] - 1):
            state = torch.baddbmm(gain[:, i], step[:, i], state)
            states.append(state)
        result = torch.stack(states, dim=1)
        ctx.save_for_backward(step, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step, states = ctx.saved_tensors
        after = torch.zeros_like(grad[:, 0])
        grads = [after]
        for i in range(grad.shape[1] - 1, 0, -1):
            after = torch.baddbmm(grad[:, i], step[:, i].mT, after)
            grads.append(after)
        of_gain = torch.stack(grads[::-1], dim=1)
        return of_gain @ states.mT, of_gain
