"""Check the bytes of a checkpoint's storage against the CRC-32 in the zip archive.

A download that was resumed at the wrong place has the right size and list of names, but gives a model that produces
nonsense. The CRC of a gigabyte takes 0.7 s, so `convert` computes it in a second thread while the values are
converted.
"""

from __future__ import annotations

import zlib

from rwkv_np.errors import CheckpointError
from rwkv_np.files.mapped import MappedFile
from rwkv_np.files.pth import Place

_STEP = 2**22


class Checksum:
    """The checksum of the storage `key` at `place`, computed once even if several tensors share it."""

    def __init__(self, file: MappedFile, key: str, place: Place) -> None:
        self._file, self._key, self._place = file, key, place
        self._is_right: bool | None = None

    def verify(self) -> None:
        """Raise CheckpointError if the bytes differ from those that were written."""
        if self._is_right is None:
            self._is_right = self._compute() == self._place.crc
        if not self._is_right:
            raise CheckpointError(
                self._file.path,
                f"is damaged: the CRC-32 of data/{self._key} does not match. Download it again",
            )

    def _compute(self) -> int:
        start, n_bytes, _ = self._place
        found = 0
        for at in range(start, start + n_bytes, _STEP):
            self._file.check()
            found = zlib.crc32(self._file.data[at : min(at + _STEP, start + n_bytes)], found)
        return found
