"""Train the prose model for a given time on a GPU.

    python tools/prose_text.py prose/
    python tools/prose_tokens.py prose/
    python tools/train_prose.py prose/tokens.npz out/ --seconds 300
    rwkv-np convert out/prose.pth prose-FP16.bin

It needs no more than torch, Numba and click, so that it can run on a rented machine. The learning rate
follows the clock: a short rise, then half a cosine down to the end of the time. Every minute it writes
prose.pth and log.jsonl. Matrices in prose.pth are FP16, so that it has half the size; the model file
made of it is FP16 too and loses nothing by it. Losses are in nats per token.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from demo_graph import Shape
from prose_graph import ChannelMix, Rwkv7, TimeMix
from torch.nn import functional

SHAPE = Shape(n_layer=6, n_embd=192, dim_ffn=768, vocab_size=4096)
WARM_UP = 0.02  # of the time
PEAK, LAST = 2e-3, 0.01  # the highest learning rate; the last one as a share of it
WEIGHT_DECAY = 0.1  # of matrices
TRIAL_STEPS = 12
CHECK_STEPS = 20  # steps between two looks at the clock: the GPU's queue is not longer than this


@dataclass
class Run:
    """A training run on the token ids of the training text, with a log."""

    model: Rwkv7
    training: torch.Tensor
    held_out: torch.Tensor
    n_held_out_bytes: int
    n_rows: int
    n_tokens: int
    log: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = self.training.device
        self.restart()

    def restart(self) -> None:
        """Forget the steps done; the parameters stay."""
        self.step = 0
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(list(_groups(self.model)), betas=(0.9, 0.99), eps=1e-12, fused=fused)
        self.generator = torch.Generator(self.device).manual_seed(0)

    def batch(self) -> torch.Tensor:
        """Random pieces of the text: (n_rows, n_tokens + 1)"""
        n_starts = len(self.training) - self.n_tokens
        starts = torch.randint(n_starts, (self.n_rows, 1), generator=self.generator, device=self.device)
        return self.training[starts + torch.arange(self.n_tokens + 1, device=self.device)].long()

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(ids[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def advance(self, rate: float) -> torch.Tensor:
        """Do one step; returns the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        loss = self.loss(self.batch())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Over the held-out text in rows from the empty state."""
        rows = self.held_out.unfold(0, self.n_tokens + 1, self.n_tokens)
        with torch.compiler.set_stance("force_eager"):  # compiling for another shape takes longer than this
            return self.loss(rows.long()).item()

    def note(self, seconds: float, losses: list[torch.Tensor], rate: float) -> None:
        """Add a row to the log: the mean loss since the last row, and the held-out loss."""
        held_out = self.held_out_loss()
        bits = held_out * len(self.held_out) / self.n_held_out_bytes / math.log(2)
        self.log.append(
            {
                "step": self.step,
                "tokens": self.step * self.n_rows * self.n_tokens,
                "loss": round(torch.stack(losses).mean().item(), 4),
                "held_out_loss": round(held_out, 4),
                "held_out_bits_per_byte": round(bits, 4),
                "rate": round(rate, 6),
                "seconds": round(seconds, 1),
            }
        )
        click.echo(json.dumps(self.log[-1]))

    def write(self, out: Path) -> None:
        tensors = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        kept = {name: x.half() if _is_matrix(name, x) else x for name, x in tensors.items()}
        torch.save(kept, out / "prose.pth")
        (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.log))


def _is_matrix(name: str, x: torch.Tensor) -> bool:
    return x.dim() == 2 and not name.endswith("r_k")


def _groups(model: Rwkv7) -> Iterator[dict[str, Any]]:
    """Parameters by their weight decay and their learning rate; w0 learns twice as fast."""
    for name, x in model.named_parameters():
        is_weight = name.endswith(".weight") and x.dim() == 2
        yield {
            "params": [x],
            "weight_decay": WEIGHT_DECAY if is_weight else 0.0,
            "scale": 2.0 if name.endswith("w0") else 1.0,
        }


def pace(share: float) -> float:
    """The learning rate after this share of the time, as a fraction of the peak."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.01)
    fallen = min(1.0, (share - WARM_UP) / (1 - WARM_UP))
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * fallen))


def fuse(model: Rwkv7) -> None:
    """Compile what is around the recurrence: many small operations become a few."""
    for part, names in _small_parts(model):
        for name in names:
            setattr(part, name, torch.compile(getattr(part, name), dynamic=False))


def undo(model: Rwkv7) -> None:
    for part, names in _small_parts(model):
        for name in names:
            delattr(part, name)


def _small_parts(model: Rwkv7) -> Iterator[tuple[torch.nn.Module, tuple[str, ...]]]:
    for part in model.modules():
        if isinstance(part, TimeMix):
            yield part, ("prepare", "finish")
        elif isinstance(part, ChannelMix):
            yield part, ("forward",)


def speed(run: Run, n_steps: int = TRIAL_STEPS) -> float:
    """Seconds of a step; these steps learn nothing."""
    run.advance(0.0)
    _wait(run)
    started = time.monotonic()
    for _ in range(n_steps):
        run.advance(0.0)
    _wait(run)
    return (time.monotonic() - started) / n_steps


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize()


def prepare(run: Run, may_compile: bool) -> None:
    """Fuse operations if that is possible and faster; the run then starts from its first step."""
    plain = speed(run)
    click.echo(f"plain: {plain * 1000:.1f} ms a step")
    if may_compile:
        started = time.monotonic()
        fuse(run.model)
        try:
            fused = speed(run)
            click.echo(f"fused: {fused * 1000:.1f} ms a step, {time.monotonic() - started:.0f} s to compile")
        except Exception as error:  # whatever fails in the compiler: the plain way is right too, only slower
            click.echo(f"fused: {type(error).__name__}: {str(error)[:500]}")
            fused = math.inf
        if fused > plain:
            undo(run.model)
    run.restart()


def train(run: Run, out: Path, seconds: float, log_every: float, write_every: float) -> None:
    started = time.monotonic()
    logged = written = 0.0
    losses: list[torch.Tensor] = []
    while (passed := time.monotonic() - started) < seconds or not run.step:
        rate = PEAK * pace(passed / max(seconds, passed))
        losses.append(run.advance(rate))
        if run.step % CHECK_STEPS == 0:
            losses[-1].item()
            if passed - logged > log_every:
                run.note(passed, losses, rate)
                losses, logged = [], passed
            if passed - written > write_every:
                run.write(out)
                written = passed
    run.note(time.monotonic() - started, losses, LAST * PEAK)
    run.write(out)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("tokens", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seconds", default=300.0, help="Time for everything.")
@click.option("--rows", default=64, help="Pieces of text per step.")
@click.option("--length", default=512, help="Tokens per piece, a multiple of 16.")
@click.option("--compile/--no-compile", "may_compile", default=True, help="Try torch.compile.")
@click.option("--log-every", default=15.0, help="Seconds between two rows of the log.")
@click.option("--write-every", default=60.0, help="Seconds between two checkpoints.")
def command(
    tokens: Path,
    out: Path,
    seconds: float,
    rows: int,
    length: int,
    may_compile: bool,
    log_every: float,
    write_every: float,
) -> None:
    """Train on the file TOKENS for a given time; write OUT/prose.pth and OUT/log.jsonl."""
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kept = np.load(tokens)
    training, held_out = (torch.from_numpy(kept[name].astype(np.int32)).to(device) for name in ("training", "held-out"))

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    run = Run(Rwkv7(SHAPE).to(device), training, held_out, int(kept["n_bytes"]), rows, length)
    prepare(run, may_compile)
    train(run, out, seconds - (time.monotonic() - started), log_every, write_every)


if __name__ == "__main__":
    command()
