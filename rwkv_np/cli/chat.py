"""`rwkv-np chat`: chat with a model."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
import platformdirs
from click.core import ParameterSource

from rwkv_np import demo, interrupt
from rwkv_np.chat import repl
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.defaults import defaults_of, describe_default, describe_sources
from rwkv_np.chat.file_template import template_of
from rwkv_np.chat.language import LANGUAGES, Language, guess_language
from rwkv_np.chat.opening import NO_OPENING, Opening, bundled_opening, read_opening
from rwkv_np.chat.opening_cache import OpeningCache, cache_key
from rwkv_np.chat.screen import JsonScreen, Screen
from rwkv_np.chat.session import Session
from rwkv_np.chat.templates import TEMPLATES, Template
from rwkv_np.chat.thinking import MODES
from rwkv_np.cli import Command
from rwkv_np.cli.config import PLACE, default_path, model_path, read_config, store
from rwkv_np.cli.nearby import find_models
from rwkv_np.cli.progress import show_loading
from rwkv_np.cli.streams import check_input
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.draft_model import DraftModel, check_draft
from rwkv_np.errors import TextError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.published import FIRST
from rwkv_np.files.reading import MESSAGE_LIMIT, read_stream, read_text_file
from rwkv_np.kernels.equations import HEAD_EPSILON
from rwkv_np.models import Model, load
from rwkv_np.sampler import prepare
from rwkv_np.sampling import SETTINGS, SamplingParams
from rwkv_np.text import decode_utf8, read_lines
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

_F = TypeVar("_F", bound=Callable[..., Any])


def _option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """An option that an environment variable can also set."""
    name = names[-1].split("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=f"RWKV_NP_{name}", show_envvar=True, **settings)


def _setting(name: str, kind: type, meaning: str) -> Callable[[_F], _F]:
    """A sampling option. Its default depends on the model family: None until the model is known."""
    return _option(f"--{name.replace('_', '-')}", type=kind, help=f"{meaning}  [default: {describe_default(name)}]")


@click.command(
    cls=Command,
    name="chat",
    epilog=f"Sources of the sampling defaults, by template. {describe_sources()} "
    "In a chat, /settings shows the current values.",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.argument("model", type=click.Path(), required=False, envvar="RWKV_NP_MODEL")
@click.option("-p", "--prompt", help="Answer this prompt and exit.")
@click.option("-f", "--file", type=click.Path(), help="Answer the text of this file (- for stdin) and exit.")
@click.option("--json", "as_json", is_flag=True, help="Write each answer as a line of JSON.")
@click.option("--load", "load_path", type=click.Path(), help="Continue a saved conversation.")
@click.option("--save", "save_path", type=click.Path(), help="Save the conversation to this file after each answer.")
@_option("--language", type=click.Choice(LANGUAGES), help="Language of opening and program.  [default: the locale's]")
@_option("--template", type=click.Choice(sorted(TEMPLATES)), help="Chat template.  [default: from the model]")
@_option("--think", type=click.Choice(MODES), default="auto", help="Think before answering; auto: the model decides.")
@_option("--keep-thoughts", is_flag=True, help="Keep the thinking of earlier answers in the context.")
@_option("--system", metavar="TEXT", help="System text, read first in place of an opening dialogue.")
@_option("--state", metavar="FILE", help="Initial state: state-tuned (.pth), or from State.save.")
@_option("--opening", metavar="FILE", help="Your own opening dialogue (TOML or JSON), or: none.")
@_option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@_option("--threads", type=click.IntRange(1), help="[default: the physical cores; one for a small model]")
@_option("--lookup/--no-lookup", default=True, help="Guess words from earlier places; answers stay the same.")
@_option("--draft", metavar="MODEL", help="A small model that guesses for a large one; answers stay the same.")
@_option("--head-q8-0/--head-fp16", default=None, help="Keep an FP16 head in 8 bits.  [default: if quantized]")
@_option("--head-epsilon", type=float, help="For RWKV-5 models from before November 2023: 1e-5.  [default: 64e-5]")
@_setting("max_tokens", int, "Most tokens in an answer, thinking included.")
@_setting("temperature", float, "0 always picks the most likely token.")
@_setting("top_p", float, "Keep the most likely tokens up to this total probability.")
@_setting("top_k", int, "Keep this many tokens; 0 keeps all.")
@_setting("min_p", float, "Lowest probability to keep, relative to the highest.")
@_setting("presence_penalty", float, "Penalty for tokens already used.")
@_setting("frequency_penalty", float, "Penalty for each use of a token.")
@_setting("penalty_decay", float, "Factor by which the frequency penalty decays per token.")
@_option("--seed", type=int, help="Makes answers repeatable.  [default: none]")
@_option("--color/--no-color", default=None, help="Colours.  [default: NO_COLOR, FORCE_COLOR, the terminal]")
@_option("--markdown/--no-markdown", default=True, help="On a terminal with colours, show answers as Markdown.")
@_option("--figures", is_flag=True, help="Show tokens and speed after each answer.")
@_option("--quiet", is_flag=True, help="Show no tokens and speed, not in the bottom line either.")
@_option("--history", metavar="FILE", help="Input history, or: none.  [default: in the user's state folder]")
@_option(
    "--config", type=click.Path(), is_eager=True, expose_value=False, callback=read_config,
    help=f"Defaults for these options, in TOML.  [default: {default_path()}]",
)  # fmt: skip
def command(model: str | None, prompt: str | None, file: str | None, as_json: bool, **options: Any) -> None:
    """Chat with MODEL: a file, the name of an installed model, or by default the demo model in the package.

    With -p or -f, or when the input is not a terminal, only answers are written to stdout:
    one, or one for each line of input. The exit status is 0, 1 after an error, 130 after Ctrl-C.
    """
    _be_lenient(sys.stdout)
    _refuse_empty(model, file, options)
    settings = {name: options[name] for name in SETTINGS if options[name] is not None}
    SamplingParams(**settings)  # report a bad value now, not after loading a model
    language = Language(options["language"] or guess_language())
    looks = {name: options[name] for name in ("quiet", "figures", "markdown", "color")}
    screen = (JsonScreen if as_json else Screen)(language, **looks)
    message = _one_message(prompt, file)
    if message is None:
        check_input()
    screen.hides_thoughts = message is not None
    session = _open(model_path(model) if model else str(demo.MODEL), screen, settings, options)
    is_talk = message is None and sys.stdin.isatty()
    if not session.begin() and not is_talk:
        sys.exit(interrupt.STATUS)
    if model is None:
        screen.say("demo", name=FIRST.name)
        if is_talk and sys.stdout.isatty():
            _say_models(screen)
    if message is not None:
        session.say(message)
        session.keep()
    elif is_talk:
        from rwkv_np.chat.editor import Editor  # prompt_toolkit: only needed at a terminal

        repl.run(session, Editor(session, _history(options["history"])))
        return
    else:
        repl.run_lines(session, read_lines(sys.stdin.buffer, "the input"))
    if session.was_interrupted:
        sys.exit(interrupt.STATUS)


def _say_models(screen: Screen) -> None:
    """Name the models that could be used instead of the demo model: installed ones, and files in this folder."""
    found = [*(kept.reference for kept in store().models()), *find_models(Path())]
    if found:
        screen.say("models_found", names=", ".join(found), first=shlex.quote(found[0]))


def _refuse_empty(model: str | None, file: str | None, options: dict[str, Any]) -> None:
    """Reject an empty value, such as an unset variable in a script: it does not mean the default."""
    if model == "":
        raise click.UsageError("MODEL is empty; give a model file, or omit it for the demo model")
    values = {"file": file, "load": options["load_path"], "save": options["save_path"], **options}
    for name in ("file", "load", "save", "system", "state", "opening", "tokenizer", "history", "draft"):
        if values[name] == "":
            raise click.UsageError(f"--{name} is empty; give a value, or omit the option")


def _one_message(prompt: str | None, path: str | None) -> str | None:
    """The texts of -f and -p, in that order; None if neither is given."""
    if path is None:
        return prompt
    if path == "-":
        check_input()
        data = read_stream(sys.stdin.buffer, path, MESSAGE_LIMIT, TextError)
    else:
        data = read_text_file(path, MESSAGE_LIMIT, TextError)
    return "\n".join(part for part in (decode_utf8(data, path).strip(), prompt) if part)


def _open(path: str, screen: Screen, settings: dict[str, Any], options: dict[str, Any]) -> Session:
    """Load the model, its tokenizer and opening, and the conversation to continue. `settings`: those the user set."""
    if options["system"] and options["opening"]:
        raise click.UsageError("--system and --opening exclude each other; give one of them")
    from rwkv_np.kernels import cache  # imports numba, which --help does not need

    if cache.is_first_run("program"):
        screen.say("compiling")
    held = {"head_q8_0": options["head_q8_0"], "head_epsilon": options["head_epsilon"]}
    model = load(path, options["threads"], **held, progress=show_loading)
    show_loading("compiling the sampler", 0, 1)
    prepare()
    show_loading("compiling the sampler", 1, 1)
    c = model.config
    tokenizer = load_tokenizer(options["tokenizer"], c.vocab_size, model_path=path, notify=screen.note)
    name = options["template"]
    template = TEMPLATES[name] if name else template_of(path, c.vocab_size, c.architecture, screen.note)
    params = replace(defaults_of(template.name).params, **settings)
    if template.lead is None and options["think"] != "auto":
        screen.say("no_thoughts", template=template.name)
    opening = _opening(tokenizer, template, options)
    think = template.think if options["think"] == "auto" else options["think"]  # a GGUF file may say how to begin
    template = replace(opening.named(template), think=think)
    screen.note(
        f"{os.path.basename(path)}: {c.record.title}, {c.n_layer} layers, n_embd {c.n_embd}, {c.data_type}; "
        f"{os.path.basename(tokenizer.name)} tokenizer, {template.name} template"
    )
    identity = {"name": os.path.basename(path), "fingerprint": fingerprint(path)}
    start = load_start_state(options["state"], c) if options["state"] else None
    if start:
        identity["state"] = hashlib.sha256(start.data.tobytes()).hexdigest()[:32]
    if c.head_epsilon != HEAD_EPSILON:
        identity["head_epsilon"] = repr(c.head_epsilon)
    began = " ".join(identity[name] for name in ("fingerprint", "state", "head_epsilon") if name in identity)
    openings = OpeningCache(cache.place("openings"), cache_key(began), c)
    conversation = Conversation(
        model, tokenizer, template, params, opening.render(template), openings,
        keep_thoughts=options["keep_thoughts"], start=start, lookup=options["lookup"],
        draft=_draft(options["draft"], model, options["threads"]) if options["draft"] else None,
    )  # fmt: skip
    session = Session(conversation, screen, identity)
    session.last_talk = _last_talk(options["history"])
    session.set_by = set_by = _set_by(click.get_current_context())
    session.open(options["load_path"], options["save_path"])
    if options["load_path"]:
        _insist(session, {name: settings[name] for name, what in set_by.items() if what.startswith("--")})
    return session


def _draft(name: str, model: Model, threads: int | None) -> DraftModel:
    """The model that guesses for the large one: a file, or the name of an installed model."""
    path = model_path(name)
    small = load(path, threads, progress=show_loading)
    return DraftModel(check_draft(small, model, os.path.basename(path)))


def _insist(session: Session, settings: dict[str, Any]) -> None:
    """Options of this command line override those saved with the conversation."""
    c, ctx = session.conversation, click.get_current_context()
    c.params = replace(c.params, **settings)
    session.set_by |= {name: what for name, what in _set_by(ctx).items() if name in settings}
    if ctx.get_parameter_source("think") is ParameterSource.COMMANDLINE and c.template.lead is not None:
        c.template = replace(c.template, think=ctx.params["think"])


def _set_by(ctx: click.Context) -> dict[str, str]:
    """The source of each sampling setting that was set: an option, a variable or the settings file."""
    options = {param.name: param for param in ctx.command.params if param.name in SETTINGS}
    names = {
        ParameterSource.COMMANDLINE: lambda option: option.opts[-1],
        ParameterSource.ENVIRONMENT: lambda option: option.envvar,
        ParameterSource.DEFAULT_MAP: lambda option: os.path.basename(ctx.meta[PLACE]),
    }
    sources = {name: ctx.get_parameter_source(name) for name in SETTINGS}
    return {name: names[source](options[name]) for name, source in sources.items() if source in names}


def _opening(tokenizer: Tokenizer, template: Template, options: dict[str, Any]) -> Opening:
    """The requested opening, or the one of the language for model families that need one to chat."""
    if options["system"]:
        return Opening(text=options["system"])
    if options["opening"]:
        return NO_OPENING if options["opening"] == "none" else read_opening(options["opening"])
    if tokenizer.name in ("20B", "World") and not options["state"]:  # a state replaces an opening dialogue
        return bundled_opening(template, options["language"] or guess_language())
    return NO_OPENING


def _history(path: str | None) -> Path | None:
    if path == "none":
        return None
    return Path(path) if path else platformdirs.user_state_path("rwkv-np", appauthor=False) / "history"


def _last_talk(history: str | None) -> Path | None:
    """The file of the last unsaved conversation; None with --history none, which also means no such file."""
    return None if history == "none" else platformdirs.user_state_path("rwkv-np", appauthor=False) / "last.chat"


def _be_lenient(stream: TextIO) -> None:
    """Print a question mark for characters that the terminal cannot encode, instead of crashing."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
