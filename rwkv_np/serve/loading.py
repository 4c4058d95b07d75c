"""From options to a loaded model, with the tokenizer, template and opening that its requests use.

The same options mean the same for the server and for batch jobs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwkv_np.chat.file_template import template_of
from rwkv_np.chat.language import Language
from rwkv_np.chat.opening import NO_OPENING, Opening, read_opening
from rwkv_np.chat.templates import TEMPLATES, Template
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.kernels import cache
from rwkv_np.models import Model, load
from rwkv_np.models.base import Progress
from rwkv_np.models.state import State
from rwkv_np.serve.prompt import Prompts
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

Options = Mapping[str, Any]
"""The options of `rwkv-np serve` or `rwkv-np batch`, by their names."""

Notify = Callable[[str], None]


def load_all(path: str, options: Options, notify: Notify, progress: Progress) -> tuple[Model, Tokenizer, Template]:
    """The model, its tokenizer and its chat template. Raises what reading them raises."""
    if cache.is_first_run("program"):
        notify(Language("en").say("compiling"))
    kept = {"head_q8_0": options["head_q8_0"], "head_epsilon": options["head_epsilon"]}
    model = load(path, options["threads"], **kept, progress=progress)
    c = model.config
    tokenizer = load_tokenizer(options["tokenizer"], c.vocab_size, model_path=path, notify=notify)
    name = options["template"]
    template = TEMPLATES[name] if name else template_of(path, c.vocab_size, c.architecture, notify)
    notify(
        f"{os.path.basename(path)}: {c.record.title}, {c.n_layer} layers, n_embd {c.n_embd}, {c.data_type}; "
        f"{os.path.basename(tokenizer.name)} tokenizer, {template.name} template"
    )
    return model, tokenizer, template


def prompts_of(tokenizer: Tokenizer, template: Template, opening: Opening | None) -> Prompts:
    """How messages become prompts. Raises InputError: the template cannot express the opening."""
    if opening is not None:
        opening.render(template)
        template = opening.named(template)
    made = Prompts(tokenizer, template, opening)
    made.endings  # noqa: B018  (computed now: the first request would wait a tenth of a second for it)
    return made


def name_of(path: str, options: Options) -> str:
    """The model's name in requests."""
    return options["name"] or Path(path).stem


def print_of(path: str) -> str:
    """The model's `system_fingerprint` in answers."""
    return f"fp_{fingerprint(path)[:12]}"


def start_state(model: Model, options: Options) -> State | None:
    """The state before every prompt; None: the empty one."""
    return load_start_state(options["state"], model.config) if options["state"] else None


def chosen_opening(options: Options) -> Opening | None:
    """The requested opening; None: the template's own."""
    if options["system"]:
        return Opening(text=options["system"])
    if options["state"] and not options["opening"]:
        return NO_OPENING  # the state replaces an opening dialogue
    if options["opening"]:
        return NO_OPENING if options["opening"] == "none" else read_opening(options["opening"])
    return None
