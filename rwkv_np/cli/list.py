"""`rwkv-np list`: the installed models, and the published ones that can be downloaded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import click

from rwkv_np import memory
from rwkv_np.cli import Command
from rwkv_np.cli.config import models_option, store
from rwkv_np.errors import FormatError
from rwkv_np.files.published import FIRST, PUBLISHED
from rwkv_np.models.containers import read_model
from rwkv_np.store.kept import Kept, Store
from rwkv_np.store.needs import ALL_TYPES, memory_of, needs
from rwkv_np.store.room import gb

_SHOWN = ("Q8_0", "Q5_1", "Q4_1")  # types in the table; --json has all


@click.command(cls=Command, name="list", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--available", is_flag=True, help="Also list the published models that `rwkv-np get` knows.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
@models_option
def command(available: bool, as_json: bool, models: str | None) -> None:
    """List the models that `rwkv-np get` has installed: size of the file, memory in use, and date."""
    kept_models = store(models)
    if as_json:
        click.echo(json.dumps(_document(kept_models, available)))
        return
    lines = _kept_lines(kept_models)
    if available:
        lines += ["", *_published_lines()]
    click.echo("\n".join(lines))


def _document(kept_models: Store, available: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "folder": str(kept_models.folder),
        "models": [
            {
                "name": kept.name, "type": kept.data_type, "path": str(kept.path), "bytes": kept.n_bytes,
                "memory": _memory(kept), "made_from": kept.stem, "date": _date(kept.date, "%Y-%m-%dT%H:%M:%S%z"),
            }
            for kept in kept_models.models()
        ],
        "unfinished": kept_models.unfinished(),
        "checkpoints": kept_models.checkpoints(),
    }  # fmt: skip
    if available:
        document["available"] = [
            {
                "name": entry.name, "source": entry.source, "bytes": entry.n_bytes, "sha256": entry.sha256,
                "types": {t: vars(needs(entry.shape, t)) for t in ALL_TYPES},
            }
            for entry in PUBLISHED.values()
        ]  # fmt: skip
    return document


def _kept_lines(kept_models: Store) -> list[str]:
    rows = [
        (kept.name, kept.data_type, gb(kept.n_bytes), _shown_memory(kept), _date(kept.date, "%Y-%m-%d %H:%M"))
        for kept in kept_models.models()
    ]
    lines = _table(("name", "type", "file", "memory", "date"), rows) if rows else []
    for name, n_bytes in kept_models.unfinished().items():
        mend = f"The same rwkv-np get continues; rwkv-np remove {name} deletes it"
        lines.append(f"{name}: unfinished, {gb(n_bytes)} so far. {mend}")
    lines += [f"{name}: its checkpoint is kept too, {gb(n)}" for name, n in kept_models.checkpoints().items()]
    return lines or [
        f"No models are installed in {kept_models.folder}. "
        f"rwkv-np list --available shows the published models; rwkv-np get {FIRST.name} gets the smallest"
    ]


def _published_lines() -> list[str]:
    found = [(entry, [needs(entry.shape, t) for t in _SHOWN]) for entry in PUBLISHED.values()]
    rows = [(entry.name, gb(entry.n_bytes), *(gb(need.memory) for need in of_types)) for entry, of_types in found]
    installed = memory.installed()
    return [
        *_table(("published", "download", *(f"memory, {t}" for t in _SHOWN)), rows),
        f"rwkv-np get NAME installs one{f'; this machine has {gb(installed)} of memory' if installed else ''}",
    ]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their longest cell; numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    n_left = 2 if header[1] == "type" else 1
    return [
        "  ".join(cell.ljust(n) if i < n_left else cell.rjust(n) for i, (cell, n) in enumerate(zip(row, widths)))
        for row in (header, *rows)
    ]


def _memory(kept: Kept) -> int | None:
    try:
        return memory_of(read_model(kept.path))
    except (FormatError, OSError):  # the list also shows damaged files
        return None


def _shown_memory(kept: Kept) -> str:
    found = _memory(kept)
    return "damaged" if found is None else gb(found)


def _date(seconds: float, form: str) -> str:
    return time.strftime(form, time.localtime(seconds))
