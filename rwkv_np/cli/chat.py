"""`rwkv-np chat`: talk with a model."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

import click

from rwkv_np.chat import repl
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES, template_for
from rwkv_np.cli import Command
from rwkv_np.cli.progress import show_loading
from rwkv_np.kernels.cache import is_first_run
from rwkv_np.models import Model, load
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer

_D = SamplingParams()


@click.command(
    cls=Command,
    name="chat",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.argument("model", type=click.Path())
@click.option("-p", "--prompt", help="Answer this once and exit.")
@click.option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@click.option("--template", type=click.Choice(sorted(TEMPLATES)), help="[default: by the vocabulary]")
@click.option("--threads", type=click.IntRange(1), help="[default: the physical cores that may be used]")
@click.option("--head-q8-0/--head-fp16", default=None, help="Hold an FP16 head in 8 bits.  [default: if quantized]")
@click.option("--max-tokens", type=int, default=_D.max_tokens, help="Longest answer.")
@click.option("--temperature", type=float, default=_D.temperature, help="0 always takes the likeliest token.")
@click.option("--top-p", type=float, default=_D.top_p, help="Share of probability that is kept.")
@click.option("--top-k", type=int, default=_D.top_k, help="How many tokens are kept; 0 is all.")
@click.option("--min-p", type=float, default=_D.min_p, help="Least probability, as a share of the largest.")
@click.option("--presence-penalty", type=float, default=_D.presence_penalty, help="Against any repetition.")
@click.option("--frequency-penalty", type=float, default=_D.frequency_penalty, help="Against each repetition.")
@click.option("--penalty-decay", type=float, default=_D.penalty_decay, help="How slowly repetition is forgotten.")
@click.option("--seed", type=int, help="Makes answers repeatable.")
def command(
    model: str, prompt: str | None, tokenizer: str | None, template: str | None,
    threads: int | None, head_q8_0: bool | None, **options: Any,
) -> None:  # fmt: skip
    """Talk with the model in the file MODEL.

    With -p, or when the input is no terminal, answers alone are written to the output:
    one for the prompt, or one for each line of input.
    """
    _be_lenient(sys.stdout)
    params = SamplingParams(**options)
    loaded = _load(model, threads, head_q8_0)
    conversation = _open(model, loaded, tokenizer, template, params)
    if prompt is not None:
        repl.answer(conversation, prompt)
    elif sys.stdin.isatty():
        repl.run(conversation)
    else:
        repl.run_lines(conversation, iter(sys.stdin))


def _load(path: str, threads: int | None, head_q8_0: bool | None) -> Model:
    if is_first_run("v4_graph"):
        _notify("Compiling the kernels for this processor: once, in less than a minute.")
    return load(path, threads, head_q8_0=head_q8_0, progress=show_loading)


def _open(
    path: str, model: Model, tokenizer: str | None, template: str | None, params: SamplingParams
) -> Conversation:
    c = model.config
    words = load_tokenizer(tokenizer, c.vocab_size, model_path=path, notify=_notify)
    chosen = TEMPLATES[template] if template else template_for(c.vocab_size)
    _notify(
        f"{os.path.basename(path)}: RWKV-4, {c.n_layer} layers, n_embd {c.n_embd}, {c.data_type}; "
        f"{words.name} tokenizer, {chosen.name} template"
    )
    return Conversation(model, words, chosen, params)


def _notify(message: str) -> None:
    click.echo(message, err=True)


def _be_lenient(stream: TextIO) -> None:
    """A terminal that lacks a character shows a question mark rather than ending the program."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
