"""RWKV-4 as a trainable torch module: the graph of `rwkv_np/models/v4.py`, with gradients.

Names and shapes of the parameters are those of BlinkDL's checkpoints, so a saved state_dict is such
a checkpoint. This includes `time_decay`: it is the raw number, and converting turns it into -e^x.
The tests check that a converted module gives the same logits as `rwkv_np`.

The initial values follow RWKV-LM's RWKV-v4: an embedding near zero that ln0 scales up, matrices that
start at zero so that each layer starts as an identity, decays and shifts spread over the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from demo_wkv import wkv
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The size of a model."""

    n_layer: int
    n_embd: int
    dim_ffn: int
    vocab_size: int


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The token before each one, zeros before the first: (B, T, C) -> (B, T, C)."""
    return functional.pad(x, (0, 0, 1, -1))


def _spread(shape: Shape, layer: int) -> torch.Tensor:
    """Initial shifts: the deeper the layer, the larger the share of the token itself: (1, 1, C)."""
    place = torch.arange(shape.n_embd) / shape.n_embd
    return place.pow(1 - layer / shape.n_layer)[None, None]


def _zero(n_in: int, n_out: int) -> nn.Linear:
    matrix = nn.Linear(n_in, n_out, bias=False)
    nn.init.zeros_(matrix.weight)
    return matrix


def _orthogonal(n_in: int, n_out: int) -> nn.Linear:
    matrix = nn.Linear(n_in, n_out, bias=False)
    nn.init.orthogonal_(matrix.weight, gain=max(1.0, n_out / n_in) ** 0.5)
    return matrix


class TimeMix(nn.Module):
    """Attention's place."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        c = shape.n_embd
        depth = layer / max(1, shape.n_layer - 1)
        place = torch.arange(c) / max(1, c - 1)
        self.time_decay = nn.Parameter(-5 + 8 * place.pow(0.7 + 1.3 * depth))
        zigzag = (torch.arange(c) + 1) % 3 - 1
        self.time_first = nn.Parameter(torch.full((c,), 0.3).log() + zigzag * 0.5)
        spread = _spread(shape, layer)
        self.time_mix_k = nn.Parameter(spread.clone())
        self.time_mix_v = nn.Parameter(spread + 0.3 * depth)
        self.time_mix_r = nn.Parameter(spread.sqrt())
        self.key, self.value, self.receptance, self.output = _zero(c, c), _orthogonal(c, c), _zero(c, c), _zero(c, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = shifted(x)
        k = self.key(torch.lerp(before, x, self.time_mix_k))
        v = self.value(torch.lerp(before, x, self.time_mix_v))
        r = torch.sigmoid(self.receptance(torch.lerp(before, x, self.time_mix_r)))
        averages = wkv(-self.time_decay.exp(), self.time_first, k.float(), v.float())
        out: torch.Tensor = self.output(r * averages)
        return out


class ChannelMix(nn.Module):
    """The feed-forward layer."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        c, f = shape.n_embd, shape.dim_ffn
        self.time_mix_k = nn.Parameter(_spread(shape, layer).clone())
        self.time_mix_r = nn.Parameter(_spread(shape, layer).clone())
        self.key, self.receptance, self.value = _orthogonal(c, f), _zero(c, c), _zero(f, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = shifted(x)
        k = torch.relu(self.key(torch.lerp(before, x, self.time_mix_k))).square()
        r = torch.sigmoid(self.receptance(torch.lerp(before, x, self.time_mix_r)))
        out: torch.Tensor = r * self.value(k)
        return out


class Block(nn.Module):
    """A layer; the first one normalizes the embedding too."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(shape.n_embd), nn.LayerNorm(shape.n_embd)
        if layer == 0:
            self.ln0 = nn.LayerNorm(shape.n_embd)
        self.att, self.ffn = TimeMix(shape, layer), ChannelMix(shape, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "ln0"):
            x = self.ln0(x)
        x = x + self.att(self.ln1(x))
        out: torch.Tensor = x + self.ffn(self.ln2(x))
        return out


class Rwkv4(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size), each row from the empty state."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.emb = nn.Embedding(shape.vocab_size, shape.n_embd)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.ln_out = nn.LayerNorm(shape.n_embd)
        self.head = nn.Linear(shape.n_embd, shape.vocab_size, bias=False)
        nn.init.orthogonal_(self.head.weight, gain=0.5 * max(1.0, shape.vocab_size / shape.n_embd) ** 0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.emb(tokens)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.ln_out(x))
        return logits
