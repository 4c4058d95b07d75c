"""`rwkv-np remove`: delete an installed model."""

from __future__ import annotations

import sys

import click

from rwkv_np.cli import Command
from rwkv_np.cli.config import models_option, store
from rwkv_np.errors import InputError
from rwkv_np.store.room import gb


@click.command(cls=Command, name="remove", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("reference", metavar="NAME")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@models_option
def command(reference: str, yes: bool, models: str | None) -> None:
    """Delete the installed model NAME in all its types, or only NAME:TYPE, and the files of an unfinished `get`."""
    kept_models = store(models)
    paths = kept_models.removed_with(reference)
    if not yes:
        _ask([str(path) for path in paths])
    click.echo(f"Removed {reference}, freed {gb(kept_models.remove(reference))}")


def _ask(paths: list[str]) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"this deletes {', '.join(paths)}. The input is not a terminal; add --yes to confirm")
    click.confirm("\n".join([*paths, "Delete?"]), abort=True, err=True)
