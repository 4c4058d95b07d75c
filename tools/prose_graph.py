"""RWKV-7 as a trainable torch module: the graph of `rwkv_np/models/v7.py`, with gradients.

Names and shapes of the parameters are those of BlinkDL's checkpoints (x070), so a saved state_dict is
such a checkpoint. The tests check that a converted module gives the same logits as `rwkv_np`.

The initial values follow RWKV-LM's RWKV-v7: layers start as an identity, decays spread over the channels
and zigzag within a head, small products start at their constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from demo_graph import Shape, shifted
from prose_wkv import wkv7
from torch import nn
from torch.nn import functional

HEAD_SIZE = 64
RANKS = {"w": 32, "a": 32, "v": 32, "g": 64}
DECAY = -math.exp(-0.5)  # the log of a decay is this times a number in 0..1


def _uniform(n_in: int, n_out: int, scale: float) -> nn.Linear:
    matrix = nn.Linear(n_in, n_out, bias=False)
    nn.init.uniform_(matrix.weight, -scale / n_in**0.5, scale / n_in**0.5)
    return matrix


def _zero(n_in: int, n_out: int) -> nn.Linear:
    return _uniform(n_in, n_out, 0.0)


def _orthogonal(n_in: int, n_out: int, scale: float) -> torch.Tensor:
    return nn.init.orthogonal_(torch.empty(n_in, n_out), gain=scale * max(1.0, n_in / n_out) ** 0.5)


def _vector(x: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(x[None, None].clone())


def _shift(shape: Shape, power: float) -> nn.Parameter:
    """The share of the token before, from 1 in the first channel towards 0."""
    return _vector(1 - (torch.arange(shape.n_embd) / shape.n_embd).pow(power))


class TimeMix(nn.Module):
    """Attention's place: a memory that each head looks up, corrects and reads."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        c = shape.n_embd
        self.n_head = c // HEAD_SIZE
        rest = 1 - layer / shape.n_layer
        for letter, power in {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}.items():
            self.register_parameter(f"x_{letter}", _shift(shape, power * rest))
        self._start(shape, layer)
        for letter, rank in RANKS.items():
            if layer or letter != "v":
                self.register_parameter(f"{letter}1", nn.Parameter(torch.zeros(c, rank)))
                self.register_parameter(f"{letter}2", nn.Parameter(_orthogonal(rank, c, 0.1)))
        self.receptance, self.value = _uniform(c, c, 0.5), _uniform(c, c, 0.5)
        self.key, self.output = _uniform(c, c, 0.05), _zero(c, c)
        self.ln_x = nn.GroupNorm(self.n_head, c, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / shape.n_layer) ** 0.7)

    def _start(self, shape: Shape, layer: int) -> None:
        """The vectors: decays, rates, and how keys are scaled."""
        place = torch.linspace(0, 1, shape.n_embd)
        zigzag = torch.linspace(-1, 1, HEAD_SIZE).repeat(self.n_head)
        zigzag = zigzag * zigzag.abs()
        depth = layer / max(1, shape.n_layer - 1)
        self.w0 = _vector(-5.5 + 6 * place.pow(1 + depth**0.3) + 2.5 * zigzag)
        self.a0 = _vector(0.3 * zigzag + 0.4 * (place - 0.5))
        if layer:
            self.v0 = _vector(0.73 - 0.4 * (place - 0.5))
        self.k_k, self.k_a = _vector(0.71 - 0.1 * (place - 0.5)), _vector(torch.full((shape.n_embd,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.n_head, HEAD_SIZE), -0.04))

    def forward(self, x: torch.Tensor, v_first: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, C), the first layer's v or None -> (B, T, C) and the first layer's v."""
        r, log_w, k, v, kk, b, g = self.prepare(x, v_first)
        with torch.autocast(x.device.type, enabled=False):
            y = wkv7(r, log_w, k, v, -kk, b)
        out = self.finish(y, r, k, v, g)
        return out, (v.flatten(2) if v_first is None else v_first)

    def prepare(self, x: torch.Tensor, v_first: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """r, log w, k, v, kk, kk ⊙ a (B, T, H, N) and g (B, T, C), all float32."""
        before = shifted(x)
        x_r, x_w, x_k, x_v, x_a, x_g = (x + (before - x) * getattr(self, f"x_{letter}") for letter in "rwkvag")
        r, k, v = self.receptance(x_r).float(), self.key(x_k).float(), self.value(x_v).float()
        log_w = DECAY * torch.sigmoid(self.w0 + self.thin("w", x_w, torch.tanh))
        a = torch.sigmoid(self.a0 + self.thin("a", x_a))
        g = self.thin("g", x_g, torch.sigmoid)
        if v_first is not None:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + self.thin("v", x_v))
        kk = functional.normalize((k * self.k_k).unflatten(-1, (self.n_head, -1)), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        r, log_w, k, v, a = (y.unflatten(-1, (self.n_head, -1)) for y in (r, log_w, k, v, a))
        return r, log_w, k, v, kk, kk * a, g

    def thin(
        self, letter: str, x: torch.Tensor, between: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """A product of two thin matrices: (B, T, C) -> (B, T, C)"""
        hidden = x @ getattr(self, f"{letter}1")
        out: torch.Tensor = (between(hidden) if between else hidden) @ getattr(self, f"{letter}2")
        return out.float()

    def finish(
        self, y: torch.Tensor, r: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor
    ) -> torch.Tensor:
        """What the memory gave (B, T, H, N) -> (B, T, C)"""
        norm = functional.layer_norm(y, (HEAD_SIZE,), eps=self.ln_x.eps).flatten(2)
        norm = norm * self.ln_x.weight + self.ln_x.bias
        bonus = ((r * k * self.r_k).sum(dim=-1, keepdim=True) * v).flatten(2)
        out: torch.Tensor = self.output((norm + bonus) * g)
        return out


class ChannelMix(nn.Module):
    """The feed-forward layer, with a squared ReLU."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.x_k = _shift(shape, (1 - layer / shape.n_layer) ** 4)
        self.key, self.value = _uniform(shape.n_embd, shape.dim_ffn, 0.5), _zero(shape.dim_ffn, shape.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.value(torch.relu(self.key(x + (shifted(x) - x) * self.x_k)).square())
        return out


class Block(nn.Module):
    """A layer; the first one normalizes the embedding too."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(shape.n_embd), nn.LayerNorm(shape.n_embd)
        if layer == 0:
            self.ln0 = nn.LayerNorm(shape.n_embd)
        self.att, self.ffn = TimeMix(shape, layer), ChannelMix(shape, layer)

    def forward(self, x: torch.Tensor, v_first: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if v_first is None:
            x = self.ln0(x)
        out, v_first = self.att(self.ln1(x), v_first)
        x = x + out
        return x + self.ffn(self.ln2(x)), v_first


class Rwkv7(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size), each row from the empty state; T a multiple of 16."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.emb = nn.Embedding(shape.vocab_size, shape.n_embd)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.ln_out = nn.LayerNorm(shape.n_embd)
        self.head = nn.Linear(shape.n_embd, shape.vocab_size, bias=False)
        nn.init.orthogonal_(self.head.weight, gain=0.5 * max(1.0, shape.vocab_size / shape.n_embd) ** 0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, v_first = self.emb(tokens), None
        for block in self.blocks:
            x, v_first = block(x, v_first)
        logits: torch.Tensor = self.head(self.ln_out(x))
        return logits
