"""`rwkv-np inspect`: show what a model file contains."""

from __future__ import annotations

import json

import click

from rwkv_np.chat.file_template import template_of
from rwkv_np.chat.marked import Marked
from rwkv_np.chat.templates import Template
from rwkv_np.cli import Command
from rwkv_np.cli.config import model_path
from rwkv_np.models.inspection import Report, inspect


@click.command(cls=Command, name="inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
def command(model: str, as_json: bool) -> None:
    """Show the version, the sizes and the parameters of MODEL, and which template `chat` would use.

    MODEL is a file, or the name of an installed model. The exit status is 1 if the file can be read but is not a model
    that can be run.
    """
    model = model_path(model)
    report = inspect(model)
    if report["sizes"]:
        notes: list[str] = []
        template = template_of(model, report["header"]["n_vocab"], report["architecture"], notes.append)
        report["template"], report["template_notes"] = _named(template), notes
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(_lines(report)))
    if report["problem"]:
        raise click.ClickException(f"{model}: {report['problem']}")


def _named(template: Template) -> str:
    """Its name; of one with marks the file's own: how the user's message begins too."""
    if not isinstance(template, Marked):
        return template.name
    return f"{template.name}, with {template.before_message.strip()!r} before a message, as the file says"


def _lines(report: Report) -> list[str]:
    h = report["header"]
    title = report["title"] + (f" ({report['other_name']})" if report["other_name"] else "")
    container = "GGUF" if report["gguf"] else "file"
    return [
        f"{report['path']}: {title}, {report['data_type']}, {container} version {h['version']}, {_mb(report['bytes'])}",
        *([f"warning: {report['warning']}"] if report["warning"] else []),
        f"n_layer {h['n_layer']}   n_embd {h['n_embed']}   vocabulary {h['n_vocab']}"
        + (f"   dim_ffn {report['sizes']['dim_ffn']}" if report["sizes"] else ""),
        *(_of_sizes(report["sizes"]) if report["sizes"] else ()),
        f"tokenizer: {report['tokenizer']}",
        *([f"chat template: {report['template']}", *report["template_notes"]] if "template" in report else []),
        *(["", *(f"{key:44}{value}" for key, value in report["gguf"].items())] if report["gguf"] else []),
        "",
        f"{'type':8}{'parameters':>11}{'weights':>16}{'size':>14}{'bits/weight':>13}",
        *(
            f"{row['type']:8}{row['parameters']:>11}{row['weights']:>16,}{_mb(row['bytes']):>14}"
            f"{row['bits_per_weight']:>13g}"
            for row in report["types"]
        ),
        "",
        f"{'parameter':36}{'shape':>16}  {'type':8}{'size':>12}",
        *(
            f"{row['name']:36}{' x '.join(map(str, row['shape'])):>16}  {row['type']:8}{_mb(row['bytes']):>12}"
            for row in report["parameters"]
        ),
    ]


def _of_sizes(sizes: Report) -> list[str]:
    ranks = ", ".join(f"{name} {rank}" for name, rank in sizes["ranks"].items())
    heads = [f"heads: {sizes['n_head']} of {sizes['head_size']} channels"] if sizes["n_head"] else []
    heads += [f"ranks of the low-rank matrices (LoRA): {ranks}"] if ranks else []
    return [*heads, f"state of a conversation: {sizes['state_bytes'] / 1e6:,.2f} MB"]


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.2f} MB" if n_bytes >= 1e5 else f"{n_bytes:,} B"
