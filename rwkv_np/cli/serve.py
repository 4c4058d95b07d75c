"""`rwkv-np serve`: answer many requests at once, over HTTP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rwkv_np import demo
from rwkv_np.chat.language import Language
from rwkv_np.chat.opening import NO_OPENING, Opening, read_opening
from rwkv_np.chat.templates import TEMPLATES, Template, template_for
from rwkv_np.chat.thinking import MODES
from rwkv_np.cli import Command
from rwkv_np.cli.config import default_path, model_path, read_config
from rwkv_np.cli.progress import show_loading
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.errors import InputError, MissingPackageError, RwkvError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.models import Model, load
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from rwkv_np.serve.server import Server
    from rwkv_np.serve.service import Service
    from rwkv_np.serve.worker import Worker

_F = TypeVar("_F", bound=Callable[..., Any])
_PACKAGES = ("starlette", "uvicorn", "msgspec", "prometheus_client")
MB = 1_000_000
BACKLOG = 2048  # connections that may wait to be accepted; uvicorn has the same default
_STATES = b'{"rwkv_np": "states"'  # the first bytes of a file of states


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
    path = model_path(model) if model else str(demo.MODEL)
    server = _open(path, options)
    states = _States(path, server.worker, options)
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


def _open(path: str, options: dict[str, Any]) -> Server:
    """The server, ready to run. Errors that do not depend on the model are found before it is loaded."""
    from rwkv_np.serve import server
    from rwkv_np.serve.keys import VARIABLE, read_keys

    keys = read_keys(options["api_key_file"])
    opening = _opening(options)
    listening = server.bind(options["host"], options["port"])
    is_local = server.is_local(listening)
    if not (keys or is_local or options["insecure"]):
        listening.close()
        mend = f"give keys with --api-key-file or {VARIABLE}, or allow it with --insecure"
        raise InputError(f"--host {options['host']}: other computers could use this server without a key; {mend}")
    model, tokenizer, template = _load(path, options)
    made = _server(path, model, tokenizer, template, opening, options)
    service = made[0]
    service.keys = keys
    if is_local and not keys:
        service.hosts = server.LOCAL_NAMES | {options["host"].lower()}
    listening.listen(BACKLOG)  # before the line that announces it: a script may connect at once
    _tell(server.url_of(listening), service.name, bool(keys))
    return server.Server(service, made[1], listening, options["drain_timeout"])


class _States:
    """The file of the cache, if one was requested."""

    def __init__(self, model: str, worker: Worker, options: dict[str, Any]) -> None:
        from rwkv_np.chat.opening_cache import cache_key

        self._path, self._worker = options["cache_file"], worker
        initial = worker.initial
        start = "" if initial is None else hashlib.sha256(initial.data.tobytes()).hexdigest()
        kept = f"{options['head_q8_0']} {worker.model.config.head_epsilon!r} {start}"
        self._key = cache_key(f"{fingerprint(model)} {kept}") if self._path else ""

    def load(self) -> None:
        """Load the states in the file. A file of another model causes only a note, and is overwritten at the end."""
        from rwkv_np.serve import states_file

        if not self._path or not os.path.exists(self._path):
            return
        with open(self._path, "rb") as file:
            if not file.read(len(_STATES)) == _STATES:
                raise InputError(
                    f"{self._path}: exists already and is not a file of states; name another one with --cache-file"
                )
        try:
            n = states_file.load(self._worker.cache, self._path, self._key, self._worker.model)
        except RwkvError as error:
            _note(f"{error}. Starting with an empty cache.")
        else:
            _note(f"{self._path}: {n} states of earlier prompts")

    def save(self) -> None:
        """Write the current states. Raises OutputError."""
        from rwkv_np.serve import states_file

        if self._path:
            states_file.save(self._worker.cache, self._path, self._key)


def _load(path: str, options: dict[str, Any]) -> tuple[Model, Tokenizer, Template]:
    """The model, its tokenizer and its chat template."""
    from rwkv_np.kernels import cache  # imports numba, which --help does not need
    from rwkv_np.sampling import prepare

    if cache.is_first_run("program"):
        click.echo(Language("en").say("compiling"), err=True)
    kept = {"head_q8_0": options["head_q8_0"], "head_epsilon": options["head_epsilon"]}
    model = load(path, options["threads"], **kept, progress=show_loading)
    prepare()
    c = model.config
    note = _note
    tokenizer = load_tokenizer(options["tokenizer"], c.vocab_size, model_path=path, notify=note)
    name = options["template"]
    template = TEMPLATES[name] if name else template_for(c.vocab_size, c.architecture, os.path.basename(path))
    note(
        f"{os.path.basename(path)}: {c.record.title}, {c.n_layer} layers, n_embd {c.n_embd}, {c.data_type}; "
        f"{os.path.basename(tokenizer.name)} tokenizer, {template.name} template"
    )
    return model, tokenizer, template


def _server(
    path: str, model: Model, tokenizer: Tokenizer, template: Template, opening: Opening | None, options: dict[str, Any]
) -> tuple[Service, Worker]:
    """The service and the worker."""
    from rwkv_np.serve.bounds import Bounds
    from rwkv_np.serve.endpoint import access_log
    from rwkv_np.serve.limits import EngineLimits
    from rwkv_np.serve.mailbox import Outbox
    from rwkv_np.serve.metrics import Metrics
    from rwkv_np.serve.prompt import Prompts
    from rwkv_np.serve.server import stats, submitter
    from rwkv_np.serve.service import Service
    from rwkv_np.serve.worker import Worker

    outbox, figures = Outbox(), Metrics()
    limits = EngineLimits(
        running=options["max_running"], waiting=options["max_waiting"], prompt_tokens=options["max_prompt"],
        cache_bytes=options["cache_mb"] * MB,
    )  # fmt: skip
    initial = load_start_state(options["state"], model.config) if options["state"] else None
    worker = Worker(model, limits, outbox.hand_over, figures, initial)
    figures.watch(lambda: stats(worker))
    if opening is not None:
        opening.render(template)  # raises if the template cannot express it
        template = opening.named(template)
    if options["log"]:
        access_log.setLevel("INFO")
    bounds = Bounds(default_tokens=options["max_tokens"], seconds=options["timeout"], answers=options["max_running"])
    bounds = replace(bounds, max_tokens=max(bounds.max_tokens, options["max_tokens"]))
    service = Service(
        options["name"] or Path(path).stem, f"fp_{fingerprint(path)[:12]}", tokenizer,
        Prompts(tokenizer, template, opening), submitter(worker), outbox, lambda: worker.is_draining,
        lambda: worker.is_alive,
        think=options["think"], bounds=bounds, metrics=figures, origins=_origins(options["cors"] or ""),
        is_logged=options["log"],
    )  # fmt: skip
    service.prompts.endings  # noqa: B018  (computed now: the first request would wait a tenth of a second for it)
    return service, worker


def _origins(said: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in said.split(",") if part.strip())


def _opening(options: dict[str, Any]) -> Opening | None:
    """The requested opening; None: the template's own."""
    if options["system"]:
        return Opening(text=options["system"])
    if options["state"] and not options["opening"]:
        return NO_OPENING  # the state replaces an opening dialogue
    if options["opening"]:
        return NO_OPENING if options["opening"] == "none" else read_opening(options["opening"])
    return None


def _tell(url: str, name: str, has_keys: bool) -> None:
    """Print the addresses."""
    access = "with an API key" if has_keys else "without an API key"
    _note(f"Serving {name} at {url}/v1, {access}. Open {url}/ in a browser to chat. Press Ctrl-C to stop.")


def _note(text: str) -> None:
    click.echo(text, err=True)
