"""Quantize a model file: the same bytes as rwkv.cpp's quantizer, computed on all cores, or better scales on request.

First the new type of every parameter is decided, so that a mistake in a pattern is found before the work
starts. Then worker threads encode one chunk of rows each, while the main thread writes finished chunks in
order: only a few chunks are in memory at a time. `kernels/encode.py` does the arithmetic, `kernels/search.py` that
of a search; matrices that `rwkv_np/calibration/` has encoded are copied.
"""

from __future__ import annotations

import fnmatch
import math
import os
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from rwkv_np import arguments
from rwkv_np.errors import FormatError, InputError, PathLike
from rwkv_np.files.format import (
    HEADER_BYTES,
    Header,
    ModelFile,
    parameter_bytes,
    write_header,
    write_parameter_header,
)
from rwkv_np.files.output import check_destination, new_file
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DATA_TYPES, DataType, by_name
from rwkv_np.models.containers import read_model
from rwkv_np.models.registry import ARCHITECTURES, identify

CHUNK = 2**19  # weights encoded at a time, 2 MB in float32; with fewer, the overhead of Python becomes visible
MAX_THREADS = 16  # by default: the writing thread cannot keep up with more, and each needs 5 MB

# The April 2023 program took numbers. 2 and 3 mean the types with these names in the current layout.
NUMBERS = {"2": "Q4_0", "3": "Q4_1", "4": "Q4_1_O"}
TYPES = tuple(t.name for t in DATA_TYPES if t.format.is_quantized and (101 in t.versions or t.name == "Q4_1_O"))
NEVER_UNASKED = ("emb.weight", "head.weight")  # as in rwkv.cpp
SEARCHED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")  # types of version 101 whose scales can be searched, or calibrated


@dataclass(frozen=True)
class Quantized:
    """The result for one parameter. `error` is the root mean square error as a share of the
    parameter's own root mean square; None where it was copied."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    data_type: str
    source_bytes: int
    n_bytes: int
    error: float | None
    note: str = ""


@dataclass(frozen=True)
class _Item:
    """A parameter and its type in the new file. `finished` is the matrix in that type, if someone else encoded it."""

    parameter: Parameter
    data_type: DataType
    note: str = ""
    is_searched: bool = False
    finished: Parameter | None = None

    @property
    def is_copied(self) -> bool:
        return self.data_type == self.parameter.data_type

    @property
    def n_bytes(self) -> int:
        """Its size in the new file, including its header."""
        return parameter_bytes(self.parameter.name, self.parameter.shape, self.data_type)


Progress = Callable[[Quantized, int, int], None]
"""Called after each parameter with its result, the bytes written so far, and the total."""


def quantize(
    source: PathLike,
    destination: PathLike,
    data_type: str,
    *,
    keep: Iterable[tuple[str, str]] = (),
    search: bool = False,
    finished: Mapping[str, Parameter] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Quantized]:
    """Write the FP16 or FP32 model file `source` with its matrices as `data_type`.

    data_type  one of TYPES, or the numbers 2, 3, 4 of April 2023; Q4_1_O makes a version 100 file
    keep       (pattern, type): parameters whose names match get that type; the last match counts
    search     search better scales than rwkv.cpp's for the types in SEARCHED: other bytes in the same layout
    finished   matrices that are already encoded in their types, by name
    threads    of the encoder; by default the number of cores, up to MAX_THREADS
    Raises     FormatError: already quantized, or values that cannot be quantized; InputError: an
               unknown type, a pattern that matches nothing; OutputError
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    overwrite = arguments.switch("overwrite", overwrite)
    if threads is not None:
        threads = arguments.whole_number("threads", threads, 1)
    keep = [_checked_pair(pair) for pair in arguments.one_of("keep", keep, Iterable, "pairs of pattern and type")]
    check_destination(destination, source, overwrite)
    search = arguments.switch("search", search)
    file = read_model(source)
    name, version = _name_and_version(data_type)
    if version == 100 and (search or finished):
        raise InputError(NOT_IN_V100)
    items = _plan(file, _type(name, version), [(pattern, _type(t, version)) for pattern, t in keep])
    items = [
        replace(item, is_searched=search and item.data_type.name in SEARCHED,
                finished=(finished or {}).get(item.parameter.name))
        for item in items
    ]  # fmt: skip
    n_bytes = HEADER_BYTES + sum(item.n_bytes for item in items)
    check_destination(destination, source, overwrite, n_bytes)
    h = file.header
    with new_file(destination, overwrite=overwrite) as out:
        write_header(out, Header(version, h.n_vocab, h.n_embed, h.n_layer, _type(name, version).code))
        return _write(file, items, out, threads or _n_threads(), n_bytes, progress)


# --- which parameter gets which type ---------------------------------------------------------------

NOT_IN_V100 = (
    "Q4_1_O is only written as rwkv.cpp did in April 2023: its blocks have as many bits as those of Q5_1, which is "
    "more exact when its scales are chosen well. Take Q5_1"
)


def planned_types(file: ModelFile, data_type: str, keep: Iterable[tuple[str, str]] = ()) -> dict[str, DataType]:
    """The types that `quantize` would give the matrices of an opened source file: of those that change, by name.

    Raises  as `quantize` does
    """
    name, version = _name_and_version(data_type)
    items = _plan(file, _type(name, version), [(pattern, _type(t, version)) for pattern, t in keep])
    return {item.parameter.name: item.data_type for item in items if not item.is_copied}


def _name_and_version(data_type: object) -> tuple[str, int]:
    """The type's name, and the version of a file of that type."""
    name = NUMBERS.get(data_type, data_type) if isinstance(data_type, str) else arguments.shown(data_type)
    return name, 100 if name == "Q4_1_O" else 101


def _checked_pair(pair: object) -> tuple[str, str]:
    if not isinstance(pair, (tuple, list)) or [type(part) for part in pair] != [str, str]:
        raise InputError(f"keep contains {arguments.shown(pair)}; expected pairs such as ('head.weight', 'Q8_0')")
    return pair[0], pair[1]


def _type(name: str, version: int) -> DataType:
    name = NUMBERS.get(name, name)
    found = by_name(name, version)
    if found is not None:
        return found
    if name in TYPES:
        raise InputError(
            f"a version {version} file cannot contain {name}: Q4_1_O exists only in version 100, "
            "and Q5_0, Q5_1 and Q8_0 only in 101"
        )
    raise InputError(f"unknown data type {name}; expected one of {', '.join(TYPES)}, FP16 or FP32")


def _plan(file: ModelFile, wanted: DataType, keep: Sequence[tuple[str, DataType]]) -> list[_Item]:
    for p in file.parameters.values():
        if p.data_type.format.is_quantized:
            raise FormatError(
                file.path,
                f"is already quantized ({p.name} is {p.data_type.name}); quantize from the FP16 or FP32 "
                "file: rwkv-np quantize MODEL-FP16.bin MODEL-Q4_1.bin Q4_1",
            )
    is_quantizable = _quantizable(file)
    matrices = [
        p.name for p in file.parameters.values()
        if len(p.shape) == 2 and (p.name in NEVER_UNASKED or is_quantizable(p.name, p.shape))
    ]  # fmt: skip
    for pattern, _ in keep:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in matrices):
            raise InputError(
                f"the pattern {pattern!r} matches no matrix; rwkv-np inspect {shlex.quote(file.path)} lists them"
            )
    return [_item(p, wanted, keep) if p.name in matrices else _Item(p, p.data_type) for p in file.parameters.values()]


def _quantizable(file: ModelFile) -> Callable[[str, tuple[int, ...]], bool]:
    """(name, shape) -> whether that parameter may be quantized, according to the architecture's record."""
    record = ARCHITECTURES.get(identify(file.parameters))
    return record.is_quantizable if record else lambda name, shape: len(shape) == 2


def _item(p: Parameter, wanted: DataType, keep: Sequence[tuple[str, DataType]]) -> _Item:
    """The new type of the matrix `p`: the last matching pattern's type, or `wanted`."""
    matches = [t for pattern, t in keep if fnmatch.fnmatchcase(p.name, pattern)]
    if p.name in NEVER_UNASKED and not matches:
        return _Item(p, p.data_type)
    chosen = matches[-1] if matches else wanted
    if p.shape[-1] % chosen.format.block_size:
        note = f"unchanged: rows of {p.shape[-1]} are not a multiple of {chosen.format.block_size}"
        return _Item(p, p.data_type, note)
    return _Item(p, chosen)


def _n_threads() -> int:
    """All cores, up to MAX_THREADS."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(n_cores, MAX_THREADS)


# --- the work -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """Encoded rows, with the sums of squares of their errors and of themselves."""

    data: np.ndarray
    error: float
    energy: float


def _write(
    file: ModelFile, items: list[_Item], out: BinaryIO, threads: int, n_bytes: int, progress: Progress | None
) -> list[Quantized]:
    results = []
    jobs = (_job(file.path, item, rows) for item, rows in _pieces(items))
    with ThreadPoolExecutor(threads) as pool:
        try:
            chunks = _in_order(pool, threads + 2, jobs)
            for item in items:
                p = item.parameter
                write_parameter_header(out, p.name, p.shape, item.data_type)
                results.append(_write_chunks(item, chunks, out))
                if progress:
                    progress(results[-1], out.tell(), n_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for queued chunks
            raise
    return results


def _pieces(items: list[_Item]) -> Iterator[tuple[_Item, slice]]:
    for item in items:
        yield from ((item, rows) for rows in _slices(item.parameter))


def _slices(p: Parameter) -> list[slice]:
    step = max(1, CHUNK // p.shape[-1])
    return [slice(start, start + step) for start in range(0, p.n_weights // p.shape[-1], step)]


def _in_order(pool: ThreadPoolExecutor, n_ahead: int, jobs: Iterator[Callable[[], _Chunk]]) -> Iterator[_Chunk]:
    """The results of `jobs` in order, with at most `n_ahead` of them started and not yet returned."""
    pending: deque[Future[_Chunk]] = deque()
    for job in jobs:
        pending.append(pool.submit(job))
        if len(pending) == n_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _write_chunks(item: _Item, chunks: Iterator[_Chunk], out: BinaryIO) -> Quantized:
    p, start = item.parameter, out.tell()
    error = energy = 0.0
    for _ in _slices(p):
        chunk = next(chunks)
        out.write(chunk.data.data)
        error, energy = error + chunk.error, energy + chunk.energy
    n_bytes = out.tell() - start
    relative = None if item.is_copied else math.sqrt(error / energy) if energy else 0.0
    return Quantized(p.name, p.shape, p.data_type.name, item.data_type.name, p.n_bytes, n_bytes, relative, item.note)


def _job(path: str, item: _Item, rows: slice) -> Callable[[], _Chunk]:
    return lambda: _encode(path, item, rows)


def _encode(path: str, item: _Item, rows: slice) -> _Chunk:
    """The rows in their new type."""
    from rwkv_np.kernels import encode as kernels  # imports numba, which takes half a second
    from rwkv_np.kernels import floats

    p = item.parameter
    blocks = p.blocks(rows).reshape(-1)
    if p.data_type.name == "FP16":
        x = np.empty(blocks.size, np.float32)
        n_bad = floats.widen(blocks.view(np.uint16), x)
    else:
        x = blocks
        n_bad = floats.count_not_finite(x)
    if n_bad:
        raise FormatError(path, _not_finite(p))
    if item.is_copied:
        return _Chunk(blocks.view(np.uint8), 0.0, 0.0)
    wanted = item.data_type.format
    if item.finished:
        data = item.finished.blocks(rows).reshape(-1)
        return _Chunk(data, floats.sum_of_squares((wanted.decode(data).reshape(-1) - x)), floats.sum_of_squares(x))
    if item.is_searched:
        from rwkv_np.kernels.search import encode_searched as encode
    else:
        encode = kernels.encode
    data, error, n_overflows = encode(wanted, x.reshape(-1, wanted.block_size))
    if n_overflows:
        raise FormatError(
            path,
            f"{p.name} contains values up to {np.abs(x).max():g}, too large for the float16 numbers of "
            f"{item.data_type.name}; leave it unchanged: --keep {shlex.quote(f'{p.name}={p.data_type.name}')}",
        )
    return _Chunk(data, error, floats.sum_of_squares(x))


def _not_finite(p: Parameter) -> str:
    bad = [(part.start, ~np.isfinite(x)) for part, x in p.chunks()]
    start, first = next((start, found) for start, found in bad if found.any())
    row, column = np.argwhere(first)[0]
    return (
        f"{p.name} contains {sum(int(found.sum()) for _, found in bad):,} values that are not finite, the first in "
        f"row {start + row}, column {column}. The checkpoint is damaged, or too large for FP16: download it again, "
        "or convert it to FP32"
    )
