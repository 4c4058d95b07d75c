"""The training loop of the demo model: steps, checkpoints, a log of the loss.

The learning rate rises, stays constant, and falls over the last 30 % of the steps. While it is constant,
nothing depends on the total number of steps: when it is resumed, a run may be made shorter or longer, as
long as the fall has not begun, and the result is that of one run with that many steps. Losses are in
nats per token, each token with its weight (`demo_tokens`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from demo_graph import Rwkv4
from demo_tokens import Batches
from torch.nn import functional

from rwkv_np.files.output import new_file

WARM_UP = 50
FALL = 0.3  # of the steps
PEAK = 2e-3
N_HELD_OUT = 16  # rows of the held-out loss
Log = list[dict[str, float]]


@dataclass
class Run:
    """A training run and its progress; `save` and `resume` store everything except the batches."""

    model: Rwkv4
    batches: Batches
    n_steps: int
    step: int = 0
    seconds: float = 0.0
    log: Log = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
        held_out = Batches(self.batches.tokenizer, self.batches.seed, N_HELD_OUT, self.batches.n_tokens)
        self._held_out = held_out("held out")

    def advance(self) -> float:
        """Do one step; returns the loss before it."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK * pace(self.step, self.n_steps)
        loss = self._loss(*self.batches(self.step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    def note(self, losses: list[float]) -> None:
        """Add a row to the log: the mean of the losses since the last row."""
        with torch.no_grad():
            held_out = self._loss(*self._held_out).item()
        self.log.append(
            {
                "step": self.step,
                "tokens": self.step * self.batches.n_rows * self.batches.n_tokens,
                "loss": round(sum(losses) / len(losses), 4),
                "held_out_loss": round(held_out, 4),
                "seconds": round(self.seconds, 1),
            }
        )

    def _loss(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ids, weights = ids.to(self.device), weights.to(self.device)[:, 1:].flatten()
        # Twice as fast as float32 if the CPU has bfloat16 multiplication; sums and the loss stay float32.
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(ids[:, :-1])
        losses = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights).sum() / weights.sum()

    def save(self, path: Path) -> None:
        """Write a checkpoint that `resume` can continue from."""
        kept = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "seconds": self.seconds, "log": self.log,
        }  # fmt: skip
        with new_file(path, overwrite=True, durable=True) as file:
            torch.save(kept, file)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of `save`."""
        kept: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.step, self.seconds, self.log = kept["step"], kept["seconds"], kept["log"]


def pace(step: int, n_steps: int) -> float:
    """The learning rate of a step, as a fraction of the peak."""
    return min(1.0, (step + 1) / WARM_UP, (n_steps - step) / (FALL * n_steps))


def write_log(path: Path, log: Log) -> None:
    """Write one JSON object per line."""
    with new_file(path, overwrite=True) as file:
        file.write("".join(json.dumps(row) + "\n" for row in log).encode())
