"""`rwkv-np serve`: answer many requests at once, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from rwkv_np import demo
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.chat.thinking import MODES
from rwkv_np.cli import Command
from rwkv_np.cli.config import default_path, model_path, read_config
from rwkv_np.cli.progress import show_loading
from rwkv_np.errors import MissingPackageError

_F = TypeVar("_F", bound=Callable[..., Any])
_PACKAGES = ("starlette", "uvicorn", "msgspec", "prometheus_client")


def _option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """An option that an environment variable can also set: RWKV_NP_ and its name, as for the chat."""
    name = names[-1].split("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=f"RWKV_NP_{name}", show_envvar=True, **settings)


@click.command(
    cls=Command, name="serve", context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.argument("model", type=click.Path(), required=False, envvar="RWKV_NP_MODEL")
@_option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 means all.")
@_option("--port", type=click.IntRange(0, 65535), default=8000, help="Port to listen on; 0 picks a free one.")
@_option("--api-key-file", type=click.Path(), help="File of API keys, one per line. Also: RWKV_NP_API_KEYS.")
@_option("--insecure", is_flag=True, help="Allow other computers without an API key.")
@_option("--cors", metavar="ORIGINS", help="Origins of other web pages that may send requests, with commas; or: *.")
@_option("--name", help="Name of the model in requests.  [default: the file's]")
@_option("--template", type=click.Choice(sorted(TEMPLATES)), help="Chat template.  [default: from the model]")
@_option("--think", type=click.Choice(MODES), default="auto", help="Default of a request's thinking setting.")
@_option("--system", metavar="TEXT", help="System text for conversations without one.")
@_option(
    "--opening", metavar="FILE", help="Opening dialogue for conversations without system text (TOML, JSON), or: none."
)
@_option("--state", metavar="FILE", help="Initial state of every conversation: state-tuned, or from State.save.")
@_option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@_option("--threads", type=click.IntRange(1), help="[default: the physical cores; one for a small model]")
@_option("--lookup/--no-lookup", default=True, help="Guess words from earlier places; answers stay the same.")
@_option("--head-q8-0/--head-fp16", default=None, help="Keep an FP16 head in 8 bits.  [default: if quantized]")
@_option("--head-epsilon", type=float, help="For RWKV-5 models from before November 2023: 1e-5.  [default: 64e-5]")
@_option("--cache-mb", type=click.IntRange(0), default=512, help="Memory for cached prompt states, in MB.")
@_option("--cache-file", type=click.Path(), help="File that keeps these states between runs.")
@_option("--max-running", type=click.IntRange(1, 1024), default=32, help="Most answers generated at the same time.")
@_option("--max-waiting", type=click.IntRange(0), default=256, help="Most requests in the queue.")
@_option("--max-prompt", type=click.IntRange(1), default=1_000_000, help="Most tokens in a prompt.")
@_option(
    "--max-tokens", type=click.IntRange(1), default=4096, help="Default of a request's limit of tokens in an answer."
)
@_option("--timeout", type=click.FloatRange(1), default=3600.0, help="Most seconds for an answer, including waiting.")
@_option("--drain-timeout", type=click.FloatRange(0), default=30.0, help="Most seconds to finish answers on shutdown.")
@_option("--log", is_flag=True, help="Log a line per request to stderr, without its text.")
@_option(
    "--config", type=click.Path(), is_eager=True, expose_value=False, callback=read_config,
    help=f"Defaults for these options, in TOML.  [default: {default_path()}]",
)  # fmt: skip
def command(model: str | None, **options: Any) -> None:
    """Serve the model in the file MODEL, or the demo model, over OpenAI's HTTP API.

    Open the printed address in a browser to chat. Ctrl-C (or SIGTERM) finishes the running answers and then stops.
    """
    if model == "":
        raise click.UsageError("MODEL is empty; give a model file, or omit it for the demo model")
    if options["system"] and options["opening"]:
        raise click.UsageError("--system and --opening exclude each other; give one of them")
    _need_packages()
    from rwkv_np.serve.setup import kept_states, open_server  # imports numba, which --help does not need

    path = model_path(model) if model else str(demo.MODEL)
    server = open_server(path, options, _note, show_loading)
    states = kept_states(path, server.worker, options, _note)
    states.load()
    server.run()
    states.save()


def _need_packages() -> None:
    """Raise MissingPackageError if the packages of the extra are not installed."""
    try:
        import rwkv_np.serve.server  # noqa: F401
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _PACKAGES:
            raise
        raise MissingPackageError(f"the server needs {error.name}: pip install 'rwkv-np[server]'") from error


def _note(text: str) -> None:
    click.echo(text, err=True)
