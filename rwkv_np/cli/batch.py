"""`rwkv-np batch`: answer all requests of a file, on this machine or on a Ray cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from rwkv_np import demo
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.chat.thinking import MODES
from rwkv_np.cli import Command
from rwkv_np.cli.config import model_path
from rwkv_np.cli.extras import need_package
from rwkv_np.cli.progress import ProgressLine, show_loading
from rwkv_np.console import write_over
from rwkv_np.errors import InputError, OutputError

if TYPE_CHECKING:
    from rwkv_np.batch.job import Job
    from rwkv_np.batch.output import FileOutput, Places, StreamOutput
    from rwkv_np.batch.progress import Counts

_STD = "-"


@click.command(
    cls=Command, name="batch", context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.argument("model", type=click.Path())
@click.argument("requests", type=click.Path(allow_dash=True))
@click.argument("answers", type=click.Path(allow_dash=True))
@click.option("--errors", type=click.Path(), help="File of errors.  [default: ANSWERS with .errors before its end]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="A row's seed is made from it and its id.")
@click.option("--chat", is_flag=True, help="Lines with only a prompt are messages, not texts to continue.")
@click.option("--template", type=click.Choice(sorted(TEMPLATES)), help="Chat template; implies --chat.")
@click.option("--system", metavar="TEXT", help="System text for conversations without one.")
@click.option("--opening", metavar="FILE", help="Opening dialogue for conversations without system text, or: none.")
@click.option("--think", type=click.Choice(MODES), default="auto", help="Default of a request's thinking setting.")
@click.option("--max-tokens", type=click.IntRange(1), help="Limit for requests without one.  [default: chat 4096; 16]")
@click.option("--name", help="Name of the model in requests.  [default: the file's]")
@click.option("--state", metavar="FILE", help="Initial state of every prompt: state-tuned, or from State.save.")
@click.option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@click.option("--threads", type=click.IntRange(1), help="[default: the physical cores; one for a small model]")
@click.option("--head-q8-0/--head-fp16", default=None, help="Keep an FP16 head in 8 bits.  [default: if quantized]")
@click.option("--head-epsilon", type=float, help="For RWKV-5 models from before November 2023: 1e-5.")
@click.option("--max-running", type=click.IntRange(1, 1024), default=64, help="Most answers written at the same time.")
@click.option("--max-prompt", type=click.IntRange(1), default=1_000_000, help="Most tokens in a prompt.")
@click.option("--cache-mb", type=click.IntRange(0), default=512, help="Memory for states of shared beginnings, in MB.")
@click.option("--ray", "on_ray", is_flag=True, help="Answer on all nodes of a Ray cluster.")
@click.option("--address", default="auto", help="Address of the cluster; local starts one on this machine.")
@click.option("--overwrite", is_flag=True, help="Begin again, without the answers of earlier starts.")
def command(model: str, requests: str, answers: str, errors: str | None, overwrite: bool, **options: Any) -> None:
    """Answer the requests in the file REQUESTS with MODEL, into the file ANSWERS; both are JSON Lines.

    A line is a request of OpenAI's batch format, or has a prompt. If the command is stopped (Ctrl-C, kill, a full
    disk), the same command goes on where it was. - means stdin or stdout; demo is the demo model.

    \b
    rwkv-np batch g1-0.1b requests.jsonl answers.jsonl
    echo '{"prompt": "What is tea?"}' | rwkv-np batch demo - - --chat
    """
    if options["system"] and options["opening"]:
        raise click.UsageError("--system and --opening exclude each other; give one of them")
    need_package("msgspec", "batch")
    if options["on_ray"]:
        need_package("ray", "ray")
    from rwkv_np.batch.job_file import job, settings
    from rwkv_np.batch.output import StreamOutput, places

    path = str(demo.MODEL) if model == "demo" and not os.path.exists(model) else model_path(model)
    _check_requests(requests)
    if answers == _STD:
        if errors:
            raise click.UsageError("--errors needs a file for the answers; stdout gets both")
        _run(StreamOutput(), None, path, requests, options)
        return
    at = places(answers, errors)
    _check_places(at, requests)
    with job(at, settings(path, options), overwrite=overwrite):
        _run_into(at, path, requests, options)


def _run_into(at: Places, path: str, requests: str, options: dict[str, Any]) -> None:
    from rwkv_np.batch.output import FileOutput

    output = FileOutput(at)
    try:
        _run(output, at, path, requests, options)
    finally:
        output.close()


def _run(
    output: FileOutput | StreamOutput, at: Places | None, path: str, requests: str, options: dict[str, Any]
) -> None:
    from rwkv_np.batch.job import Job
    from rwkv_np.batch.row import Form
    from rwkv_np.batch.source import count

    line = _Line(count(requests))
    job, is_done = Job(output, Form.of(options), line.show), False
    try:
        _answer(job, path, requests, options)
        output.finish()
        is_done = True
    finally:
        write_over("")
        _note(job.counts.summary)
        if at is not None and not is_done:
            _note(f"Not finished; the same command goes on with {at.answers}")
        elif at is not None and job.counts.n_errors:
            _note(f"The errors are in {at.errors}")


def _answer(job: Job, path: str, requests: str, options: dict[str, Any]) -> None:
    from rwkv_np.batch.answerer import open_answerer
    from rwkv_np.batch.job import run_here
    from rwkv_np.batch.source import lines, opened

    with opened(requests) as file:
        if options["on_ray"]:
            from rwkv_np.batch.on_ray import run_on_ray

            run_on_ray(job, path, options, options["address"], lines(file), _note_over)
            return
        answerer = open_answerer(path, options, _note, show_loading)
        try:
            run_here(job, answerer, lines(file))
        finally:
            answerer.stop()


class _Line(ProgressLine):
    """How many rows are done, and how fast."""

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self._total, self._kept = total, 0

    def show(self, counts: Counts) -> None:
        """The counts so far. Rows of earlier starts take no time, so the time left is that of the others."""
        self._kept = counts.n_kept
        done = counts.n_rows - counts.n_kept
        # One more than is done: the line would vanish at its total, and rows without an end have none.
        total = max((self._total or 0) - counts.n_kept, done + 1)
        self(f"{counts.n_errors:,} errors, {counts.rates}", done, total)

    def _line(self, text: str, done: int, total: int, rate: float, left: str) -> str:
        rows = f"{done + self._kept:,}"
        if self._total is None:
            return f"{rows} rows: {text}"
        return f"{rows} of {self._total:,} rows{f', {left} left' if left else ''}: {text}"


def _check_requests(requests: str) -> None:
    if requests != _STD and os.path.isdir(requests):
        raise InputError(f"{requests} is a folder; expected a file of requests, one per line")
    if requests != _STD:
        open(requests, "rb").close()  # raises OSError now, not after the model is loaded


def _check_places(at: Places, requests: str) -> None:
    """Raise OutputError if a file of output is the input, or the other one."""
    if len(set(map(os.path.realpath, at))) < len(at):
        raise OutputError(at.errors, "is also the file of answers; choose another with --errors")
    for path in at:
        if requests != _STD and os.path.exists(path) and os.path.samefile(path, requests):
            raise OutputError(path, "is the file of requests itself; choose another destination")


def _note(text: str) -> None:
    click.echo(text, err=True)


def _note_over(text: str) -> None:
    """A note while the progress is shown."""
    write_over("")
    _note(text)
