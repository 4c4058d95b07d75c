"""The objects and settings that all requests of a server share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rwkv_np.serve.errors import ApiError
from rwkv_np.serve.keys import Keys, Owner
from rwkv_np.serve.mailbox import Outbox
from rwkv_np.serve.metrics import Metrics
from rwkv_np.serve.request import Submit
from rwkv_np.serve.served import ServedModel


@dataclass
class Service(ServedModel):
    """A model that is served over HTTP, and who may use it.

    is_draining   whether the server is shutting down
    is_alive      whether the engine's thread runs
    hosts         the allowed names in the Host header; None: any
    origins       of other web pages that may send requests
    """

    submit: Submit
    outbox: Outbox
    is_draining: Callable[[], bool] = lambda: False
    is_alive: Callable[[], bool] = lambda: True
    keys: Keys = field(default_factory=Keys)
    metrics: Metrics = field(default_factory=Metrics)
    hosts: frozenset[str] | None = None
    origins: tuple[str, ...] = ()
    is_logged: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

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
