"""API keys: which clients may send requests, and which prompts may share the cache.

Keys are compared by their hashes, with every known key and in constant time, so that the response time reveals nothing
about a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass

from rwkv_np.errors import InputError, PathLike, SettingsFileError
from rwkv_np.files.reading import SETTINGS_LIMIT, read_regular
from rwkv_np.text import decode_utf8

VARIABLE = "RWKV_NP_API_KEYS"
SHORTEST = 8


@dataclass(frozen=True)
class Owner:
    """A client: `name` is for fair queuing, `salt` for the cache. Neither reveals the key."""

    name: str = ""
    salt: str = ""


class Keys:
    """The keys of a server; without keys, every client may send requests, and an address is an owner."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = sorted({_digest(key) for key in keys})

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner_of(self, authorization: str | None, address: str = "") -> Owner | None:
        """The client for that header ("Bearer KEY"); None if the key is unknown.

        Without keys, addresses take turns in the queue, and all share the cache.
        """
        if not self._digests:
            return Owner(address)
        scheme, _, key = (authorization or "").strip().partition(" ")
        digest = _digest(key.strip())
        is_known = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(is_known):
            return None
        return Owner(digest.hex()[:16], hashlib.sha256(b"rwkv-np cache" + digest).hexdigest())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: PathLike | None) -> Keys:
    """The keys in a file, one per line, and in the environment. Raises SettingsFileError, InputError, OSError."""
    keys = []
    if path is not None:
        lines = decode_utf8(read_regular(path, SETTINGS_LIMIT, SettingsFileError), path).splitlines()
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise SettingsFileError(path, "contains no keys; expected one per line")
        if any(len(key) < SHORTEST for key in keys):
            raise SettingsFileError(path, f"contains a key of less than {SHORTEST} characters, which can be guessed")
    found = [key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip()]
    if any(len(key) < SHORTEST for key in found):
        raise InputError(f"{VARIABLE} contains a key of less than {SHORTEST} characters, which can be guessed")
    return Keys([*keys, *found])
