"""`rwkv-np evaluate`: measure what quantization costs, on any model and text."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from rwkv_np import interrupt
from rwkv_np.cli import Command
from rwkv_np.cli.config import model_path
from rwkv_np.cli.extras import need_package
from rwkv_np.cli.progress import RunningLine
from rwkv_np.conversion.quantize import TYPES

if TYPE_CHECKING:
    from rwkv_np.evaluation import Report


def _parse_formats(ctx: click.Context, option: click.Parameter, value: str | None) -> list[str]:
    formats = [name.strip() for name in (value or "").split(",") if name.strip()]
    if unknown := [name for name in formats if name not in TYPES]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(TYPES)}")
    return formats


@click.command(
    cls=Command,
    name="evaluate",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.argument("models", type=click.Path(), nargs=-1)
@click.option("--text", type=click.Path(), help="UTF-8 text to predict, ideally unseen in training; or a folder.")
@click.option("--lambada", type=click.Path(), help='JSONL file of {"text": ...}: accuracy on the last word.')
@click.option("--base", type=click.Path(), help="Baseline model.  [default: the first model]")
@click.option("--formats", metavar="TYPE,...", callback=_parse_formats, help="Also measure these, made from --from.")
@click.option(
    "--encoders", metavar="NAME,...", default="plain", help="How --formats are made: plain, search, calibrated."
)
@click.option(
    "--calibrate", "calibration", type=click.Path(), metavar="TEXT", help="The text of the calibrated ones. Not --text."
)
@click.option("--from", "source", type=click.Path(), help="FP16 or FP32 file to quantize; also the default baseline.")
@click.option("--out", type=click.Path(), help="Folder for report.json, report.md and plots.")
@click.option("--limit", type=click.IntRange(1), help="Read at most this many tokens, and passages.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Exclude this many tokens at the start.")
@click.option("--window", type=click.IntRange(2), help="Reset the state after this many tokens.  [default: never]")
@click.option("--float32-activations", is_flag=True, help="Also measure with float32 activations. Slow.")
@click.option("--both-heads", is_flag=True, help="Also measure the other head type: Q8_0, or as in the file.")
@click.option("--save-base", type=click.Path(), help="Save the baseline's predictions to this file.")
@click.option("--base-file", type=click.Path(), help="Predictions of --save-base, as the baseline.")
@click.option("--no-timing", is_flag=True, help="Measure neither speed nor memory.")
@click.option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@click.option("--threads", type=click.IntRange(1), help="[default: the available physical cores]")
@click.option("--head-epsilon", type=float, help="For RWKV-5 models from before November 2023: 1e-5.")
@click.option("--overwrite", is_flag=True, help="Overwrite a report in --out.")
@click.option("--ray", "on_ray", is_flag=True, help="Read a folder of texts on all nodes of a Ray cluster.")
@click.option("--address", default="auto", help="Address of the cluster; local starts one on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(
    models: tuple[str, ...], base: str | None, formats: list[str], source: str | None, base_file: str | None,
    encoders: str, calibration: str | None, float32_activations: bool, both_heads: bool, no_timing: bool,
    head_epsilon: float | None, out: str | None, overwrite: bool, as_json: bool, on_ray: bool, address: str,
    **conditions: Any,
) -> None:  # fmt: skip
    """Measure what quantization costs: the quality, memory and speed of MODELS, compared with the first.

    MODELS are files, or names of installed models. Ctrl-C stops and shows the results so far; the exit status is then
    130. If --text is a folder, only the perplexity of each text in it is measured, for one model.

    \b
    rwkv-np evaluate model-FP16.bin model-Q5_1.bin model-Q4_1.bin --text wiki.txt --out report
    rwkv-np evaluate model-Q4_1.bin --formats Q4_0,Q5_1,Q8_0 --from model-FP16.bin --text wiki.txt
    rwkv-np evaluate model-FP16.bin --formats Q4_1 --encoders plain,search,calibrated --calibrate a.txt --text b.txt
    """
    if on_ray or conditions["text"] and os.path.isdir(conditions["text"]):
        others = (base, source, base_file, formats, out, float32_activations, both_heads)
        _measure_folder(models, any(others), address if on_ray else None, as_json, head_epsilon, conditions)
        return
    # Imports numba, which --help does not need.
    from rwkv_np.evaluation import Conditions, Encoding, Session, Variants, folder, make_plan

    if out:
        folder.prepare(out, overwrite)
    base, source = (path and model_path(path) for path in (base, source))
    plan = make_plan(
        [model_path(model) for model in models], base=base, source=source, formats=formats, base_file=base_file,
        variants=Variants(float32_activations, both_heads), head_epsilon=head_epsilon,
        encoding=Encoding([name.strip() for name in encoders.split(",") if name.strip()], calibration),
    )  # fmt: skip
    session = Session(plan, Conditions(**conditions, is_timed=not no_timing), notify=_notify)
    try:
        session.run(RunningLine())
    except KeyboardInterrupt:
        _notify("")  # the terminal has printed ^C on the line
    _show(session.report, out, overwrite, as_json)


def _measure_folder(
    models: tuple[str, ...], has_others: bool, address: str | None, as_json: bool, head_epsilon: float | None,
    conditions: dict[str, Any],
) -> None:  # fmt: skip
    """The perplexity of one model on all texts of a folder."""
    folder = conditions["text"]
    if not folder or not os.path.isdir(folder):
        raise click.UsageError("--ray needs --text FOLDER: each node reads some of its texts")
    if len(models) != 1 or has_others or conditions["lambada"] or conditions["save_base"]:
        raise click.UsageError(
            "a folder of texts is read by one model; allowed are --limit, --skip, --window, --tokenizer, --threads, "
            "--head-epsilon, --ray and --json"
        )
    if address is not None:
        need_package("ray", "ray")
    from rwkv_np.evaluation.corpus import Measured, as_dict, as_table, names_in
    from rwkv_np.evaluation.corpus_run import measure_folder

    path, options, names = model_path(models[0]), conditions | {"head_epsilon": head_epsilon}, names_in(folder)
    found: list[Measured] = []
    results, show = measure_folder(path, folder, names, options, address, _notify), RunningLine()
    with closing(results):
        try:
            for result in results:
                found.append(result)
                show(result.name, len(found), len(names))
        except KeyboardInterrupt:
            _notify("")  # the terminal has printed ^C on the line
    found.sort(key=lambda each: each.number)
    name = os.path.basename(path)
    click.echo(json.dumps(as_dict(name, found), ensure_ascii=False) if as_json else as_table(name, found))
    if len(found) < len(names):
        raise click.exceptions.Exit(interrupt.STATUS)


def _show(report: Report, out: str | None, overwrite: bool, as_json: bool) -> None:
    from rwkv_np.evaluation import folder, terminal

    if as_json:
        click.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        click.echo(terminal(report, shutil.get_terminal_size((200, 24)).columns))
    if out:
        names = ", ".join(path.name for path in folder.write(report, out, overwrite))
        _notify(f"{out}: {names}")
        if not folder.can_plot():
            _notify("No plots, since matplotlib is not installed: pip install 'rwkv-np[plot]'")
    if report.is_partial:
        raise click.exceptions.Exit(interrupt.STATUS)


def _notify(message: str) -> None:
    click.echo(message, err=True)
