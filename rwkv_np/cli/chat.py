"""`rwkv-np chat`: talk with a model."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
import platformdirs

from rwkv_np import demo
from rwkv_np.chat import repl
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.language import LANGUAGES, Language, guess_language
from rwkv_np.chat.opening import NO_OPENING, Opening, bundled_opening, read_opening
from rwkv_np.chat.opening_cache import OpeningCache, cache_key
from rwkv_np.chat.screen import JsonScreen, Screen
from rwkv_np.chat.session import Session
from rwkv_np.chat.templates import TEMPLATES, Template, template_for
from rwkv_np.chat.thinking import MODES
from rwkv_np.cli import Command
from rwkv_np.cli.config import default_path, read_config
from rwkv_np.cli.progress import show_loading
from rwkv_np.cli.streams import check_input
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.kernels import cache
from rwkv_np.models import load
from rwkv_np.sampling import SETTINGS, SamplingParams, prepare
from rwkv_np.text import decode_utf8
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

_D = SamplingParams()
_F = TypeVar("_F", bound=Callable[..., Any])
INTERRUPTED = 130  # the exit status of what Ctrl-C ended


def _option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """An option that an environment variable can set as well."""
    name = names[-1].split("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=f"RWKV_NP_{name}", show_envvar=True, **settings)


@click.command(
    cls=Command,
    name="chat",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.argument("model", type=click.Path(), required=False, envvar="RWKV_NP_MODEL")
@click.option("-p", "--prompt", help="Answer this once and exit.")
@click.option("-f", "--file", type=click.Path(), help="Answer what is in this file (- is the input) and exit.")
@click.option("--json", "as_json", is_flag=True, help="Write each answer as a line of JSON.")
@click.option("--load", "load_path", type=click.Path(), help="Go on with a saved conversation.")
@click.option("--save", "save_path", type=click.Path(), help="Save the conversation there after each answer.")
@_option("--language", type=click.Choice(LANGUAGES), help="Of the opening and the program.  [default: the locale's]")
@_option("--template", type=click.Choice(sorted(TEMPLATES)), help="How to speak.  [default: by the model]")
@_option("--think", type=click.Choice(MODES), default="auto", help="Think before answering; auto: as the model will.")
@_option("--keep-thoughts", is_flag=True, help="Later turns read what was thought before earlier answers.")
@_option("--system", metavar="TEXT", help="What the model reads first, in place of an opening dialogue.")
@_option("--state", metavar="FILE", help="A state to begin in: state-tuned (.pth), or of State.save.")
@_option("--opening", metavar="FILE", help="An opening dialogue of your own (TOML or JSON), or: none.")
@_option("--tokenizer", help="A tokenizer.json, or 20B, world or bytes.  [default: by the vocabulary]")
@_option("--threads", type=click.IntRange(1), help="[default: the physical cores; one for a small model]")
@_option("--head-q8-0/--head-fp16", default=None, help="Hold an FP16 head in 8 bits.  [default: if quantized]")
@_option("--max-tokens", type=int, default=_D.max_tokens, help="Longest answer.")
@_option("--temperature", type=float, default=_D.temperature, help="0 always takes the likeliest token.")
@_option("--top-p", type=float, default=_D.top_p, help="Share of probability that is kept.")
@_option("--top-k", type=int, default=_D.top_k, help="How many tokens are kept; 0 is all.")
@_option("--min-p", type=float, default=_D.min_p, help="Least probability, as a share of the largest.")
@_option("--presence-penalty", type=float, default=_D.presence_penalty, help="Against any repetition.")
@_option("--frequency-penalty", type=float, default=_D.frequency_penalty, help="Against each repetition.")
@_option("--penalty-decay", type=float, default=_D.penalty_decay, help="How slowly repetition is forgotten.")
@_option("--seed", type=int, help="Makes answers repeatable.  [default: none]")
@_option("--quiet", is_flag=True, help="No line of figures after an answer.")
@_option("--history", metavar="FILE", help="Where typed lines are kept, or: none.  [default: the user's state folder]")
@_option(
    "--config", type=click.Path(), is_eager=True, expose_value=False, callback=read_config,
    help=f"Defaults of these options, in TOML.  [default: {default_path()}]",
)  # fmt: skip
def command(model: str | None, prompt: str | None, file: str | None, as_json: bool, **options: Any) -> None:
    """Talk with the model in the file MODEL, or with the demo model that comes with the program.

    With -p or -f, or when the input is no terminal, answers alone are written to the output:
    one, or one for each line of input. The exit status is 0, 1 after an error, 130 after Ctrl-C.
    """
    _be_lenient(sys.stdout)
    params = SamplingParams(**{name: options[name] for name in SETTINGS})
    language = Language(options["language"] or guess_language())
    screen = (JsonScreen if as_json else Screen)(language, quiet=options["quiet"])
    message = _one_message(prompt, file)
    if message is None:
        check_input()
    screen.hides_thoughts = message is not None
    session = _open(model or str(demo.MODEL), screen, params, options)
    if model is None:
        screen.say("demo")
    if message is not None:
        session.say(message)
        session.keep()
    elif sys.stdin.isatty():
        from rwkv_np.chat.editor import Editor  # prompt_toolkit: of use at a terminal alone

        repl.run(session, Editor(session, _history(options["history"])))
        return
    else:
        repl.run_lines(session, sys.stdin)
    if session.was_interrupted:
        sys.exit(INTERRUPTED)


def _one_message(prompt: str | None, path: str | None) -> str | None:
    """What -f and -p say, in that order; None where neither is given."""
    if path is None:
        return prompt
    if path == "-":
        check_input()
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    return "\n".join(part for part in (decode_utf8(data, path).strip(), prompt) if part)


def _open(path: str, screen: Screen, params: SamplingParams, options: dict[str, Any]) -> Session:
    """Load model, tokenizer and opening, and the conversation to go on with."""
    if options["system"] and options["opening"]:
        raise click.UsageError("--system and --opening both say how the conversation begins; give one of them")
    if cache.is_first_run("program"):
        screen.say("compiling")
    model = load(path, options["threads"], head_q8_0=options["head_q8_0"], progress=show_loading)
    show_loading("compiling the sampler", 0, 1)
    prepare()
    show_loading("compiling the sampler", 1, 1)
    c = model.config
    tokenizer = load_tokenizer(options["tokenizer"], c.vocab_size, model_path=path, notify=screen.note)
    name = options["template"]
    template = TEMPLATES[name] if name else template_for(c.vocab_size, c.architecture)
    if template.lead is None and options["think"] != "auto":
        screen.say("no_thoughts", template=template.name)
    opening = _opening(tokenizer, template, options)
    template = replace(opening.named(template), think=options["think"])
    screen.note(
        f"{os.path.basename(path)}: {c.record.title}, {c.n_layer} layers, n_embd {c.n_embd}, {c.data_type}; "
        f"{os.path.basename(tokenizer.name)} tokenizer, {template.name} template"
    )
    identity = {"name": os.path.basename(path), "fingerprint": fingerprint(path)}
    start = load_start_state(options["state"], c) if options["state"] else None
    if start:
        identity["state"] = hashlib.sha256(start.data.tobytes()).hexdigest()[:32]
    began = " ".join([identity["fingerprint"], identity.get("state", "")]).strip()
    openings = OpeningCache(cache.place("openings"), cache_key(began), c)
    conversation = Conversation(
        model, tokenizer, template, params, opening.render(template), openings,
        keep_thoughts=options["keep_thoughts"], start=start,
    )  # fmt: skip
    session = Session(conversation, screen, identity)
    session.open(options["load_path"], options["save_path"])
    return session


def _opening(tokenizer: Tokenizer, template: Template, options: dict[str, Any]) -> Opening:
    """The one that was asked for, or for the families that learned to chat with one, that of the language."""
    if options["system"]:
        return Opening(text=options["system"])
    if options["opening"]:
        return NO_OPENING if options["opening"] == "none" else read_opening(options["opening"])
    if tokenizer.name in ("20B", "World") and not options["state"]:  # a state is what a dialogue would make
        return bundled_opening(template, options["language"] or guess_language())
    return NO_OPENING


def _history(path: str | None) -> Path | None:
    if path == "none":
        return None
    return Path(path) if path else platformdirs.user_state_path("rwkv-np", appauthor=False) / "history"


def _be_lenient(stream: TextIO) -> None:
    """A terminal that lacks a character shows a question mark rather than ending the program."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
