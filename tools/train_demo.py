"""Train the demo model from scratch to a checkpoint in BlinkDL's layout.

    python tools/train_demo.py demo.pth
    python tools/convert.py demo.pth rwkv_np/data/demo-FP16.bin

Beside demo.pth it writes demo.tokenizer.json, demo.jsonl (the log) and demo.resume, from which the
same command continues after a stop. It needs the extra `train`. If torch finds a GPU, the training
runs there (the recurrence is then a plain loop; this was not tested).
"""

from __future__ import annotations

from pathlib import Path

import click
import numba
import torch
from demo_graph import Rwkv4, Shape
from demo_tokens import Batches, train_tokenizer
from demo_training import Run, write_log
from vocabulary import VOCAB_SIZE

from rwkv_np.cli import Command
from rwkv_np.files.output import new_file

SHAPE = Shape(n_layer=6, n_embd=192, dim_ffn=768, vocab_size=VOCAB_SIZE)
EARLY_ROWS = (10, 25)  # rows of the log for comparing a short run


def train(
    out: Path, shape: Shape, n_steps: int, seed: int, n_rows: int, n_tokens: int, *, log_every: int, stop: int
) -> Run:
    """Train up to step `stop` of `n_steps`, continuing from the files beside `out`; write all files."""
    tokenizer = train_tokenizer(seed, shape.vocab_size)
    with new_file(out.with_suffix(".tokenizer.json"), overwrite=True) as file:
        file.write(tokenizer.to_str(pretty=True).encode())
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(Rwkv4(shape).to(device), Batches(tokenizer, seed, n_rows, n_tokens), n_steps)
    kept = out.with_suffix(".resume")
    if kept.exists():
        run.resume(kept)
        click.echo(f"{kept}: continuing after step {run.step}", err=True)
    while run.step < min(stop, n_steps):
        run.note([run.advance() for _ in range(_next_row(run.step, log_every, n_steps) - run.step)])
        click.echo(run.log[-1], err=True)
        run.save(kept)
        write_log(out.with_suffix(".jsonl"), run.log)
        with new_file(out, overwrite=True) as file:
            torch.save({name: tensor.cpu() for name, tensor in run.model.state_dict().items()}, file)
    return run


def _next_row(step: int, log_every: int, n_steps: int) -> int:
    """The step after which the next row is added to the log."""
    following = (step // log_every + 1) * log_every
    return min(row for row in (*EARLY_ROWS, following, n_steps) if row > step)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--steps", default=3600, help="Total number of training steps.")
@click.option("--stop", default=10**9, help="Stop after this step; the same command continues.", show_default=False)
@click.option("--rows", default=8, help="Texts per step.")
@click.option("--tokens", default=512, help="Tokens per text.")
@click.option("--seed", default=0, help="Random seed of the text and the initial values.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@click.option("--log-every", default=50, help="Steps between two rows of the log; each writes a checkpoint.")
def command(
    out: Path, steps: int, stop: int, rows: int, tokens: int, seed: int, threads: int | None, log_every: int
) -> None:
    """Train the demo model and write the checkpoint OUT (.pth)."""
    if threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
    run = train(out, SHAPE, steps, seed, rows, tokens, log_every=log_every, stop=stop)
    click.echo(f"{out}: step {run.step}, held-out loss {run.log[-1]['held_out_loss']}")


if __name__ == "__main__":
    command()
