"""From options to a server that is ready to run: keys, address, model, template, engine and wire.

What can go wrong without the model is found before it is loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rwkv_np.chat.opening import Opening
from rwkv_np.chat.opening_cache import cache_key
from rwkv_np.chat.templates import Template
from rwkv_np.errors import InputError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.models import Model
from rwkv_np.models.base import Progress
from rwkv_np.serve import server
from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.endpoint import access_log
from rwkv_np.serve.kept_states import KeptStates, Notify
from rwkv_np.serve.keys import VARIABLE, read_keys
from rwkv_np.serve.limits import EngineLimits
from rwkv_np.serve.loading import Options, chosen_opening, load_all, name_of, print_of, prompts_of, start_state
from rwkv_np.serve.mailbox import Outbox
from rwkv_np.serve.metrics import Metrics
from rwkv_np.serve.server import Server, stats, submitter
from rwkv_np.serve.service import Service
from rwkv_np.serve.worker import Worker
from rwkv_np.tokenizers import Tokenizer

MB = 1_000_000
BACKLOG = 2048  # connections that may wait to be accepted; uvicorn has the same default


def open_server(path: str, options: Options, notify: Notify, progress: Progress) -> Server:
    """The server, ready to run. Errors that do not depend on the model are found before it is loaded."""
    keys = read_keys(options["api_key_file"])
    opening = chosen_opening(options)
    listening = server.bind(options["host"], options["port"])
    is_local = server.is_local(listening)
    if not (keys or is_local or options["insecure"]):
        listening.close()
        mend = f"give keys with --api-key-file or {VARIABLE}, or allow it with --insecure"
        raise InputError(f"--host {options['host']}: other computers could use this server without a key; {mend}")
    model, tokenizer, template = load_all(path, options, notify, progress)
    service, worker = _service(path, model, tokenizer, template, opening, options)
    service.keys = keys
    if is_local and not keys:
        service.hosts = server.LOCAL_NAMES | {options["host"].lower()}
    listening.listen(BACKLOG)  # before the line that announces it: a script may connect at once
    notify(_address(server.url_of(listening), service.name, bool(keys)))
    return server.Server(service, worker, listening, options["drain_timeout"])


def kept_states(path: str, worker: Worker, options: Options, notify: Notify) -> KeptStates:
    """The cache's file; its key names all that the bits of a state depend on."""
    initial = worker.initial
    start = "" if initial is None else hashlib.sha256(initial.data.tobytes()).hexdigest()
    origin = f"{fingerprint(path)} {options['head_q8_0']} {worker.model.config.head_epsilon!r} {start}"
    return KeptStates(options["cache_file"], cache_key(origin), worker, notify)


def _service(
    path: str, model: Model, tokenizer: Tokenizer, template: Template, opening: Opening | None, options: Options
) -> tuple[Service, Worker]:
    """The service and the worker."""
    outbox, figures = Outbox(), Metrics()
    limits = EngineLimits(
        running=options["max_running"], waiting=options["max_waiting"], prompt_tokens=options["max_prompt"],
        cache_bytes=options["cache_mb"] * MB,
    )  # fmt: skip
    worker = Worker(model, limits, outbox.hand_over, figures, start_state(model, options), lookup=options["lookup"])
    figures.watch(lambda: stats(worker))
    if options["log"]:
        access_log.setLevel("INFO")
    bounds = Bounds(default_tokens=options["max_tokens"], seconds=options["timeout"], answers=options["max_running"])
    bounds = replace(bounds, max_tokens=max(bounds.max_tokens, options["max_tokens"]))
    service = Service(
        name_of(path, options), print_of(path), tokenizer, prompts_of(tokenizer, template, opening), submitter(worker),
        outbox, lambda: worker.is_draining, lambda: worker.is_alive,
        think=options["think"], bounds=bounds, metrics=figures, origins=_origins(options["cors"] or ""),
        is_logged=options["log"],
    )  # fmt: skip
    return service, worker


def _origins(said: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in said.split(",") if part.strip())


def _address(url: str, name: str, has_keys: bool) -> str:
    access = "with an API key" if has_keys else "without an API key"
    return f"Serving {name} at {url}/v1, {access}. Open {url}/ in a browser to chat. Press Ctrl-C to stop."
