"""The objects and settings that all requests of a server share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.errors import ApiError
from rwkv_np.serve.keys import Keys, Owner
from rwkv_np.serve.mailbox import Outbox
from rwkv_np.serve.metrics import Metrics
from rwkv_np.serve.prompt import Prompts
from rwkv_np.serve.request import Submit
from rwkv_np.serve.schema import Grammars
from rwkv_np.serve.token_names import TokenNames
from rwkv_np.tokenizers import Tokenizer


@dataclass
class Service:
    """A model, its template and settings, and who may use it.

    name          the model's name in requests
    fingerprint   of its file
    think         whether a model that can think does so, unless a request says otherwise
    is_draining   whether the server is shutting down
    is_alive      whether the engine's thread runs
    hosts         the allowed names in the Host header; None: any
    origins       of other web pages that may send requests
    """

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    prompts: Prompts
    submit: Submit
    outbox: Outbox
    is_draining: Callable[[], bool] = lambda: False
    is_alive: Callable[[], bool] = lambda: True
    think: str = "auto"
    keys: Keys = field(default_factory=Keys)
    bounds: Bounds = field(default_factory=Bounds)
    metrics: Metrics = field(default_factory=Metrics)
    hosts: frozenset[str] | None = None
    origins: tuple[str, ...] = ()
    is_logged: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.names = TokenNames(self.tokenizer.token_bytes)
        self.grammars = Grammars(self.tokenizer, 0)

    @property
    def vocab_size(self) -> int:
        """How many ids the model has."""
        return self.tokenizer.vocab_size

    def check_model(self, name: str | None) -> None:
        """Raise ApiError unless `name` is this server's model or None."""
        if name is not None and name != self.name:
            said = name if name.isprintable() and len(name) <= 100 else f"{name[:100]!r}"
            raise ApiError(
                404, f"model {said} does not exist; this server has {self.name}", param="model", code="model_not_found"
            )

    def owner_of(self, authorization: str | None, address: str = "") -> Owner:
        """The client that sent the request: by its key, or by its `address` if the server has no keys.

        Raises ApiError: the key is missing or unknown.
        """
        owner = self.keys.owner_of(authorization, address)
        if owner is None:
            told = "is wrong" if authorization else "is missing; expected a header Authorization: Bearer KEY"
            headers = ((b"www-authenticate", b"Bearer"),)
            raise ApiError(401, f"the API key {told}", code="invalid_api_key", headers=headers)
        return owner
