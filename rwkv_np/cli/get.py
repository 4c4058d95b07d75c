"""`rwkv-np get`: download a published model by name, and install it so that `chat` finds it by that name."""

from __future__ import annotations

import json
import shlex

import click

from rwkv_np.cli import Command
from rwkv_np.cli.config import models_option, store
from rwkv_np.cli.progress import byte_progress
from rwkv_np.store.kept import Kept
from rwkv_np.store.making import make
from rwkv_np.store.needs import ALL_TYPES
from rwkv_np.store.origin import Origin, origin_of
from rwkv_np.store.room import gb


def _parse_type(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and value.upper() not in ALL_TYPES:
        raise click.BadParameter(f"{value!r} is not one of {', '.join(ALL_TYPES)}")
    return value.upper() if value else None


@click.command(cls=Command, name="get", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", metavar="NAME")
@click.option(
    "--type", "data_type", metavar="TYPE", callback=_parse_type,
    help=f"{', '.join(ALL_TYPES)}.  [default: Q8_0 if this machine has the memory, or else Q5_1 or Q4_1]",
)  # fmt: skip
@click.option("--name", help="Name of the installed model.  [default: NAME, or the file's]")
@click.option("--keep-checkpoint", is_flag=True, help="Keep the download for other types.")
@click.option("--force", is_flag=True, help="Get it even if this machine has too little memory for it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@models_option
def command(
    what: str, data_type: str | None, name: str | None, keep_checkpoint: bool, force: bool, as_json: bool,
    models: str | None,
) -> None:  # fmt: skip
    """Download, convert and quantize a model, and install it under its name for `rwkv-np chat NAME`.

    NAME is the name of a published model (rwkv-np list --available), such as g1-0.1b or g1-0.1b:Q4_1. It may also be
    hf://OWNER/REPO/FILE.pth, or the path of a checkpoint. hf://OWNER/REPO/FILE.gguf is installed as it is. After an
    interruption the same command continues where it stopped.
    """
    origin, data_type = _wanted(what, name, data_type)
    kept_models = store(models)
    try:
        kept, is_new = make(
            origin, data_type, kept_models, keep_checkpoint=keep_checkpoint, force=force, progress=byte_progress,
            note=_note,
        )  # fmt: skip
    except KeyboardInterrupt:
        _note("Interrupted. Run the same command again to continue.")
        raise
    if as_json:
        result = {"name": kept.name, "type": kept.data_type, "path": str(kept.path), "bytes": kept.n_bytes}
        click.echo(json.dumps({**result, "is_new": is_new}))
    else:
        click.echo(_line(kept, origin, is_new))


def _wanted(what: str, name: str | None, data_type: str | None) -> tuple[Origin, str | None]:
    """What to get, and its type: `NAME:TYPE` gives both. (An address has a colon too, and so may a path.)"""
    head, colon, tail = what.rpartition(":")
    if not colon or tail.upper() not in ALL_TYPES:
        return origin_of(what, name), data_type
    if data_type not in (None, tail.upper()):
        raise click.UsageError(f"{what} and --type {data_type} differ; give one of them")
    return origin_of(head, name), tail.upper()


def _line(kept: Kept, origin: Origin, is_new: bool) -> str:
    said = "is ready" if is_new else "is here already"
    line = f"{kept.reference} {said}: {kept.path}, {gb(kept.n_bytes)}. Talk with it: rwkv-np chat {kept.name}"
    if kept.stem != origin.stem:
        again = f"rwkv-np remove {kept.name} && rwkv-np get {shlex.quote(kept.reference)}"
        line += f"\nIt was made from {kept.stem}; this version of the program knows {origin.stem}: {again}"
    return line


def _note(line: str) -> None:
    click.echo(line, err=True)
