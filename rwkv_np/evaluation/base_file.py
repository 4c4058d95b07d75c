"""The base model's predictions of a text, saved in a file. Use it when two models do not fit into memory.

    magic   8 bytes "RWKVBASE"
    header  uint32 length, then JSON of that length: version, name, data_type, head_type,
            vocab_size, n_rows, window
    tokens  uint32[n_rows + 1], preceded by padding to a multiple of 4
    rows    n_rows of { float32 lowest, float32 step, uint16 steps[vocab_size] }

Little-endian. A row contains the log-probabilities after one token, ln p(v) = lowest + step * steps[v],
over the row's whole range, and is normalized again when it is read. The range is about 20 to 50, so
a log-probability is off by up to 4e-4, half a step. That alone gives a KL divergence of step² / 24, about
1e-8, if many tokens are likely, and less if few are. So FP16 cannot be distinguished from FP32, but
Q8_0 and all coarser types can.

A file takes 2 (V + 4) bytes per position: 13 GB for 100,000 tokens at a vocabulary of 65536. It is
written and read row by row, never loaded as a whole.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

from rwkv_np.errors import BaseFileError, PathLike
from rwkv_np.evaluation.divergence import log_softmax
from rwkv_np.evaluation.walk import Passage, Reader
from rwkv_np.files.mapped import MappedFile
from rwkv_np.files.reading import open_regular
from rwkv_np.text import excerpt, parse_json

MAGIC = b"RWKVBASE"
VERSION = 1
STEPS = 65535
BLOCK = 16  # rows encoded together


@dataclass(frozen=True)
class Header:
    """The header of a base file."""

    version: int
    name: str
    data_type: str
    head_type: str
    vocab_size: int
    n_rows: int
    window: int | None

    @property
    def token_bytes(self) -> int:
        return 4 * (self.n_rows + 1)

    @property
    def n_bytes(self) -> int:
        """Bytes after the header; no array of that size is allocated, since the numbers may be wrong."""
        return self.token_bytes + self.n_rows * (8 + 2 * self.vocab_size)

    def find_problem(self) -> str | None:
        """What is invalid in the header; None if nothing is."""
        if self.version != VERSION:
            return f"has version {excerpt(self.version)}; expected {VERSION}"
        if not all(isinstance(text, str) for text in (self.name, self.data_type, self.head_type)):
            return "has a model name that is not text"
        if not all(_is_count(n) for n in (self.vocab_size, self.n_rows)):
            return f"has an invalid size: {excerpt(self.n_rows)} rows of {excerpt(self.vocab_size)}"
        if self.window is not None and not _is_count(self.window):
            return f"has an invalid --window: {excerpt(self.window)}"
        return None


def _is_count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n > 0


def row_type(vocab_size: int) -> np.dtype:
    """The layout of a row in the file."""
    return np.dtype([("lowest", "<f4"), ("step", "<f4"), ("steps", "<u2", (vocab_size,))])


def encode(log_probs: np.ndarray) -> np.ndarray:
    """Convert (n, V) log-probabilities to n rows."""
    rows = np.empty(len(log_probs), row_type(log_probs.shape[1]))
    rows["lowest"] = log_probs.min(axis=1)
    rows["step"] = (log_probs.max(axis=1) - rows["lowest"]) / STEPS
    step = np.where(rows["step"] > 0, rows["step"], 1)[:, None].astype(np.float64)
    rows["steps"] = np.clip(np.rint((log_probs - rows["lowest"][:, None]) / step), 0, STEPS)
    return rows


def decode(rows: np.ndarray) -> np.ndarray:
    """Convert n rows to logits (n, V) float64: log-probabilities up to a constant in each row."""
    return rows["lowest"][:, None] + rows["step"][:, None].astype(np.float64) * rows["steps"]


class SavingReader:
    """The base model; its predictions of a passage are written to `file` while it reads."""

    def __init__(self, reader: Reader, file: BinaryIO, header: Header, passage: Passage) -> None:
        self.name, self._reader, self._file = reader.name, reader, file
        text = json.dumps(asdict(header)).encode()
        text += b" " * (-(len(text) + len(MAGIC) + 4) % 4)
        file.write(MAGIC + struct.pack("<I", len(text)) + text + passage.tokens.astype("<u4").tobytes())

    def restart(self) -> None:
        self._reader.restart()

    def read(self, ids: np.ndarray) -> np.ndarray:
        logits = self._reader.read(ids)
        for start in range(0, len(logits), BLOCK):
            self._file.write(encode(log_softmax(logits[start : start + BLOCK])).tobytes())
        return logits


class RowReader:
    """Saved predictions, used in place of the base model."""

    def __init__(self, name: str, path: str, rows: np.ndarray, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises an error if the file was truncated meanwhile."""
        self.name, self._path, self._rows, self._next, self._check = name, path, rows, 0, check

    def restart(self) -> None:
        """The windows are the file's own."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The next rows, like a model's logits. Raises BaseFileError: a row is not a prediction."""
        self._check()
        self._next += len(ids)
        rows = self._rows[self._next - len(ids) : self._next]
        # Two numbers per row are enough; checking the whole file when it is opened would read gigabytes.
        is_true = np.isfinite(rows["lowest"]) & np.isfinite(rows["step"]) & (rows["step"] >= 0)
        if not is_true.all():
            row = self._next - len(ids) + int(is_true.argmin())
            raise BaseFileError(self._path, f"is damaged: row {row} is not a prediction: {_MEND}")
        return decode(rows)


class BaseFile:
    """The file at `path`, mapped. It has another name than its model, which may be compared with it."""

    def __init__(self, path: PathLike) -> None:
        """Raises BaseFileError: not a base file, or an incomplete one; OSError."""
        self.path = os.fspath(path)
        with open_regular(path, BaseFileError) as file:
            self.header = _read_header(self.path, file)
            start = file.tell()
        self.name = f"{self.header.name} (kept)"
        h, n_bytes = self.header, os.path.getsize(path)
        if n_bytes != start + h.n_bytes:
            raise BaseFileError(path, f"has {n_bytes} bytes, but the header says {start + h.n_bytes}: {_MEND}")
        self._file = MappedFile(path, BaseFileError)
        data = self._file.data[start:]
        self._tokens = data[: h.token_bytes].view("<u4")
        self._rows = data[h.token_bytes :].view(row_type(h.vocab_size))

    def check(self, passage: Passage, vocab_size: int) -> None:
        """Raise BaseFileError unless these are predictions of that passage by a model of that vocabulary."""
        h, n = self.header, len(passage.tokens)
        if h.vocab_size != vocab_size:
            raise BaseFileError(
                self.path, f"has a vocabulary of {h.vocab_size}, but the model has {vocab_size}: {_MEND}"
            )
        if h.window != passage.window:
            raise BaseFileError(
                self.path, f"was made with --window {h.window or 'none'}, not {passage.window or 'none'}: {_MEND}"
            )
        if n > len(self._tokens):
            raise BaseFileError(
                self.path,
                f"contains {len(self._tokens)} tokens, fewer than the {n} requested; give --limit {len(self._tokens)}",
            )
        if not np.array_equal(self._tokens[:n], passage.tokens):
            raise BaseFileError(self.path, f"contains predictions of another text, or with another tokenizer: {_MEND}")

    def reader(self) -> RowReader:
        """The predictions, from the first one."""
        return RowReader(self.name, self.path, self._rows, self._file.check)


_MEND = "create it again: rwkv-np evaluate BASE.bin --text TEXT --save-base FILE"


def _read_header(path: str, file: BinaryIO) -> Header:
    start = file.read(len(MAGIC) + 4)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 4:
        raise BaseFileError(path, f"is not a file of saved predictions: {_MEND}")
    (length,) = struct.unpack("<I", start[len(MAGIC) :])
    try:
        header = Header(**parse_json(file.read(min(length, 2**16))))
    except (ValueError, TypeError) as error:
        raise BaseFileError(path, f"has a damaged header: {_MEND}") from error
    if problem := header.find_problem():
        raise BaseFileError(path, f"{problem}: {_MEND}")
    return header
