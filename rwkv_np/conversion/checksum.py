"""Whether the bytes of a checkpoint's storage are those that were written: its CRC-32, from the zip archive.

A download that broke off and went on at the wrong place has the right size and list of names, and makes a model that
talks nonsense. The sum of a gigabyte takes 0.7 s, so `convert` has a second thread work it out while the values
are converted.
"""

from __future__ import annotations

import zlib

from rwkv_np.errors import CheckpointError
from rwkv_np.files.mapped import MappedFile
from rwkv_np.files.pth import Place

_STEP = 2**22


class Checksum:
    """That of the storage `key` at `place`, worked out once however many tensors share it."""

    def __init__(self, file: MappedFile, key: str, place: Place) -> None:
        self._file, self._key, self._place = file, key, place
        self._is_right: bool | None = None

    def verify(self) -> None:
        """Raise CheckpointError where the bytes are not those that were written."""
        if self._is_right is None:
            self._is_right = self._compute() == self._place.crc
        if not self._is_right:
            raise CheckpointError(
                self._file.path,
                f"is damaged: the bytes of data/{self._key} are not those that were written (by their CRC-32). "
                "Download it again",
            )

    def _compute(self) -> int:
        start, n_bytes, _ = self._place
        found = 0
        for at in range(start, start + n_bytes, _STEP):
            self._file.check()
            found = zlib.crc32(self._file.data[at : min(at + _STEP, start + n_bytes)], found)
        return found
