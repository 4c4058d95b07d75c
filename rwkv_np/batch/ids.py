"""Which custom_ids a job has seen, and a number for each: in 24 bytes an entry, not in a dictionary's 200.

A hash table with open addressing in one block of memory. The ids themselves are not kept, only 16 bytes of their hash:
for a million ids, two have the same with a probability of 1e-27.
"""

from __future__ import annotations

import hashlib

_DIGEST, _SLOT = 16, 24  # bytes: the hash; the hash and the number
_FULLEST = 0.7  # share of used slots; beyond it, searches take long


class IdTable:
    """From ids to whole numbers of -2**62 to 2**62."""

    def __init__(self) -> None:
        self._n, self._n_slots = 0, 1024
        self._slots = bytearray(_SLOT * self._n_slots)

    def __len__(self) -> int:
        return self._n

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return len(self._slots)

    def get(self, key: str) -> int | None:
        """The number of an id; None: it is not in the table."""
        digest = _digest(key)
        at = self._find(digest)
        return self._number(at) if self._slots[at : at + _DIGEST] == digest else None

    def put(self, key: str, number: int) -> None:
        """Add an id, or change its number."""
        if self._n >= _FULLEST * self._n_slots:
            self._grow()
        self._write(_digest(key), number)

    def _write(self, digest: bytes, number: int) -> None:
        at = self._find(digest)
        self._n += self._slots[at : at + _DIGEST] != digest
        self._slots[at : at + _SLOT] = digest + number.to_bytes(_SLOT - _DIGEST, "little", signed=True)

    def _find(self, digest: bytes) -> int:
        """Where the digest is, or the free slot where it belongs."""
        slot = int.from_bytes(digest[:8], "little") % self._n_slots
        while True:
            at = _SLOT * slot
            found = self._slots[at : at + _DIGEST]
            if found == digest or not any(found):
                return at
            slot = (slot + 1) % self._n_slots

    def _number(self, at: int) -> int:
        return int.from_bytes(self._slots[at + _DIGEST : at + _SLOT], "little", signed=True)

    def _grow(self) -> None:
        old = self._slots
        self._n, self._n_slots = 0, 2 * self._n_slots
        self._slots = bytearray(_SLOT * self._n_slots)
        for at in range(0, len(old), _SLOT):
            digest = bytes(old[at : at + _DIGEST])
            if any(digest):
                self._write(digest, int.from_bytes(old[at + _DIGEST : at + _SLOT], "little", signed=True))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST).digest()
