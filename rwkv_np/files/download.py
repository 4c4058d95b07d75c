"""Download a file over HTTP. Received bytes stay on the disk, and the next attempt or process continues from there.

A 6 GB checkpoint over a home connection is often interrupted, and no release of huggingface_hub since version 2 keeps a
partial file across processes. This module knows only three headers of the hub (hub.py knows the rest), and
leaves one request, with its redirects and retries, to request.py.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from rwkv_np.errors import DownloadError
from rwkv_np.files.output import write_error
from rwkv_np.files.request import BEYOND, PAUSES, Address, Broken, Patience, answer, reason_of

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes so far, and the total."""

CHUNK = 2**18  # most bytes to read from the connection at a time


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it; None for unknown values.

    etag    names the content; on the hub it is the SHA-256 of a large file
    sha256  the expected SHA-256 of the content, from another source
    """

    n_bytes: int | None
    etag: str | None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the content, if it is known."""
        is_sha256 = self.etag is not None and re.fullmatch("[0-9a-f]{64}", self.etag)
        return self.sha256 or (self.etag if is_sha256 else None)

    @property
    def content(self) -> str:
        """A name of the content for use in a file name; empty if it is unknown."""
        return re.sub("[^0-9a-zA-Z]", "", self.digest or self.etag or "")[:16]


class Changed(Exception):
    """The file on the server has changed since the server described it."""


# --- description


def look(address: Address) -> Remote:
    """Ask the server to describe the file. Raises DownloadError."""
    patience = Patience(address.name, PAUSES[:3])  # without a network, the user waits 3 s for the error
    while True:
        try:
            with answer(address, "HEAD") as (response, first):
                return _described(response, first)
        except Broken as error:
            patience.wait(error)


def _described(response: Any, first: Mapping[str, str]) -> Remote:
    length = first.get("X-Linked-Size") or response.headers.get("Content-Length")
    return Remote(int(length) if length and length.isdigit() else None, _etag(response, first))


def _etag(response: Any, first: Mapping[str, str]) -> str | None:
    """The ETag of the file. The storage behind a redirect has its own, so the hub sends the right one before."""
    etag = first.get("X-Linked-ETag") or response.headers.get("ETag") or ""
    return etag.strip().removeprefix("W/").strip('"') or None


# --- the file


def download(address: Address, place: str, remote: Remote, progress: Progress | None = None) -> None:
    """Download the file to `place`; it appears there after its size and SHA-256 were checked against `remote`.

    Raises  DownloadError: the server refuses, the connection breaks too often, or the content is wrong
            OutputError: the disk is full; received bytes stay, and the next call continues
            Changed: the server has a newer file
    """
    part = _part(place, remote)
    patience = Patience(address.name)
    while True:
        before = _size(part)
        try:
            with _opened(part, place) as file:
                _receive(address, file, place, remote, progress or (lambda name, done, total: None))
            break
        except Broken as error:
            if _size(part) > before:
                patience = Patience(address.name)
            patience.wait(error, _size(part), remote.n_bytes)
    _verify(part, place, remote, progress)
    os.replace(part, place)


def bytes_so_far(place: str) -> int:
    """How many bytes of the file for `place` earlier calls have downloaded."""
    return max((_size(part) for part in _parts(place)), default=0)


def _part(place: str, remote: Remote) -> str:
    """The path of the partial file. Its name depends on the content, so an older file is never continued with a newer
    one."""
    part = f"{place}.{remote.content}.part"
    for old in _parts(place):
        if old != part or not remote.content:  # without a name for the content, the part may belong to another file
            os.unlink(old)
    return part


def _parts(place: str) -> list[str]:
    folder, name = os.path.split(place)
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if entry.name.startswith(f"{name}.") and entry.name.endswith(".part")]
        return sorted(parts)
    return []


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


@contextmanager
def _opened(part: str, place: str) -> Iterator[BinaryIO]:
    """The partial file, opened to append. Unbuffered: received bytes are not lost if the process is killed."""
    try:
        file = open(part, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise write_error(place, error) from error
    with file:
        yield file


def _receive(address: Address, file: BinaryIO, place: str, remote: Remote, progress: Progress) -> None:
    """Append the missing bytes. Raises Broken if some are still missing."""
    done = file.seek(0, os.SEEK_END)
    if remote.n_bytes is not None and done > remote.n_bytes:
        done = file.truncate(0)
    if done == remote.n_bytes:
        return
    name = os.path.basename(place)
    with answer(address, "GET", done) as (response, first):
        if response.status == BEYOND:
            file.truncate(0)
            raise Broken("the server has no more bytes")
        _check_answer(response, first, remote)
        if done and not _goes_on(response, done, remote.n_bytes):
            done = file.truncate(0)  # the server sends from the first byte
        total = remote.n_bytes or done + int(response.headers.get("Content-Length") or 0)
        progress(name, done, total)
        for piece in _pieces(response):
            done += _write(file, piece, place)
            progress(name, done, max(total, done))
    if remote.n_bytes is not None and done > remote.n_bytes:
        os.unlink(file.name)
        raise DownloadError(
            f"{address.name}: the server sent more than the {remote.n_bytes:,} bytes that it announced. "
            "The download is deleted; run the command again"
        )
    if done < total:
        raise Broken("the connection broke")


def _check_answer(response: Any, first: Mapping[str, str], remote: Remote) -> None:
    etag = _etag(response, first)
    if remote.etag and etag and etag != remote.etag and ("X-Linked-ETag" in first or first is response.headers):
        raise Changed("the file on the server has changed")
    length = response.headers.get("Content-Length")
    if response.status == 200 and remote.n_bytes is not None and length and int(length) != remote.n_bytes:
        raise Changed(f"the server sends {int(length):,} bytes, but announced {remote.n_bytes:,}")


def _goes_on(response: Any, done: int, n_bytes: int | None) -> bool:
    """Whether the response starts after the bytes so far. Raises Broken if it starts elsewhere."""
    if response.status != 206:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != done:
        raise Broken("the server sent a different range than requested")
    if n_bytes is not None and found[2] not in ("*", str(n_bytes)):
        raise Changed(f"the server has {found[2]} bytes, but announced {n_bytes}")
    return True


def _pieces(response: Any) -> Iterator[bytes]:
    while True:
        try:
            piece = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(reason_of(error)) from error
        if not piece:
            return
        yield piece


def _write(file: BinaryIO, piece: bytes, place: str) -> int:
    """Append the whole piece; returns its length. A nearly full disk may accept only a part at first."""
    left = memoryview(piece)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise write_error(place, error) from error
    return len(piece)


def _verify(part: str, place: str, remote: Remote, progress: Progress | None) -> None:
    """Check the file on the disk, not only the received bytes: the first part may be from an earlier run."""
    if remote.digest is None:
        return
    found, total, done = hashlib.sha256(), _size(part), 0
    with open(part, "rb") as file:
        while piece := file.read(2**22):
            found.update(piece)
            done += len(piece)
            if progress and total > 2**28:  # about a second of work
                progress(f"{os.path.basename(place)}, checking", done, total)
    if found.hexdigest() != remote.digest:
        os.unlink(part)
        raise DownloadError(
            f"{os.path.basename(place)}: what was downloaded has the SHA-256 {found.hexdigest()}, expected "
            f"{remote.digest}. The download was damaged and is deleted; run the command again"
        )
