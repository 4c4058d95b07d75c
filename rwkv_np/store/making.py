"""From a checkpoint to an installed model: download, convert, quantize. Each step is done once.

The output of a step stays until the next step is complete. So an interruption (a signal, a power cut, a full disk)
costs only the current step: the same command continues. The checkpoint is deleted as soon as it is converted, so that
at most two of the three files are on the disk at the same time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import Quantized, quantize
from rwkv_np.errors import InputError, MissingPackageError
from rwkv_np.files import hub
from rwkv_np.files.download import bytes_so_far
from rwkv_np.files.lock import locked
from rwkv_np.files.output import write_error
from rwkv_np.store import installing, room
from rwkv_np.store.kept import LOCK, MAKING, TOKENIZER, Kept, Store
from rwkv_np.store.origin import Origin

Show = Callable[[str, int, int], None]
Progress = Callable[[str], AbstractContextManager[Show]]
"""Makes the progress display of a step from its label. The display is called with a name, the bytes done, and the
total."""
Note = Callable[[str], None]
_FOR = "type"  # the file that names the type that is being made


class Made(NamedTuple):
    """An installed model, and whether it was made by this call."""

    kept: Kept
    is_new: bool


@contextmanager
def _no_progress(label: str) -> Iterator[Show]:
    yield lambda name, done, total: None


def make(
    origin: Origin,
    data_type: str | None,
    store: Store,
    *,
    keep_checkpoint: bool = False,
    force: bool = False,
    progress: Progress = _no_progress,
    note: Note = lambda line: None,
) -> Made:
    """The installed model of that origin and type; it is made if it does not exist.

    data_type        one of needs.ALL_TYPES; None: any that exists, or the one recommended for this machine
    keep_checkpoint  keep the downloaded file, for other types and programs
    force            make it even if this machine has not enough memory for it
    note             called with a line of text for the user
    Raises           InputError: another model has the name, or it does not fit in memory; OutputError: it does
                     not fit on the disk; DownloadError, CheckpointError, FormatError, MissingPackageError
    """
    if origin.is_gguf:
        installing.check_wish(origin, data_type)
    place = store.place(origin.name)
    try:
        with locked(str(place / LOCK), lambda: note(f"Another process is getting {origin.name}; waiting for it.")):
            try:
                if there := _there(origin, data_type, store):
                    _forget_finished(store, origin.name)
                    return Made(there, is_new=False)
                if origin.is_gguf:
                    installing.install(origin.described(), place, progress, note, force=force)
                    return Made(store.of(origin.name)[-1], is_new=True)
                origin = _described(origin, place)
                chosen = data_type or room.default_type(origin)
                _Work(origin, chosen, place, keep_checkpoint, progress, note).run(force)
                return Made(next(kept for kept in store.of(origin.name) if kept.data_type == chosen), is_new=True)
            finally:
                store.tidy(origin.name)
    except OSError as error:
        raise write_error(str(error.filename or place), error) from error


def _there(origin: Origin, data_type: str | None, store: Store) -> Kept | None:
    """The model, if it is installed already. Raises InputError: another model has the name."""
    found = store.of(origin.name)
    if other := next((kept for kept in found if kept.stem != origin.stem), None):
        if not origin.published:
            raise InputError(
                f"{origin.name} is already installed, made from {other.stem}. Choose another name, or remove "
                f"that one: rwkv-np remove {origin.name}"
            )
    matching = [kept for kept in found if data_type in (None, kept.data_type)]
    return matching[-1] if matching else None


def _forget_finished(store: Store, name: str) -> None:
    """Delete the files of a process that was killed between its last step and this one."""
    making = store.place(name) / MAKING
    with suppress(FileNotFoundError):
        data_type = (making / _FOR).read_text(encoding="ascii")
        if any(kept.data_type == data_type for kept in store.of(name)):
            shutil.rmtree(making)


def _described(origin: Origin, place: Path) -> Origin:
    """The origin with its size. The hub is asked only if something must be downloaded."""
    if any((folder / f"{origin.stem}-FP16.bin").exists() for folder in (place, place / MAKING)):
        return origin
    _require_converter()
    return origin.described()


def _require_converter() -> None:
    """Raise MissingPackageError now rather than after the download."""
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            "converting a checkpoint needs torch, which is not installed. Install it: pip install 'rwkv-np[convert]'"
        )


@dataclass(frozen=True)
class _Work:
    """The work to make one model; `place` is the folder of its name."""

    origin: Origin
    data_type: str
    place: Path
    keep_checkpoint: bool
    progress: Progress
    note: Note

    def run(self, force: bool) -> None:
        """All steps that are not done yet."""
        if not force:
            room.check_memory(self.origin, self.data_type)
        self.making.mkdir(exist_ok=True)
        self._forget_others()
        self._check_disk()
        (self.making / _FOR).write_text(self.data_type, encoding="ascii")
        source = self._fp16()
        if source is None:
            source = self._convert()
        if self.data_type != "FP16":
            self._quantize(source)
        shutil.rmtree(self.making)

    # --- places

    @property
    def making(self) -> Path:
        return self.place / MAKING

    @property
    def destination(self) -> Path:
        return self.place / f"{self.origin.stem}-{self.data_type}.bin"

    @property
    def downloaded(self) -> Path:
        """The path of a downloaded checkpoint."""
        return self.making / self.origin.file

    def _fp16(self) -> Path | None:
        """The converted checkpoint, if it is installed or an earlier attempt made it."""
        name = f"{self.origin.stem}-FP16.bin"
        return next((path for path in (self.place / name, self.making / name) if path.exists()), None)

    def _checkpoint(self) -> Path | None:
        """The checkpoint, if it is on this machine."""
        if not self.origin.is_remote:
            return Path(self.origin.source)
        cached = hub.find(self.origin.source)
        places = [self.place / self.origin.file, self.downloaded, *([Path(cached)] if cached else [])]
        return next((path for path in places if self._is_whole(path)), None)

    def _is_whole(self, path: Path) -> bool:
        return path.is_file() and self.origin.n_bytes in (None, 0, path.stat().st_size)

    def _forget_others(self) -> None:
        """Delete the files of another checkpoint with this name, for example of an older upload."""
        for path in self.making.iterdir():
            if path.name != _FOR and not path.name.lstrip(".").startswith(self.origin.stem):
                path.unlink()

    # --- room

    def _check_disk(self) -> None:
        fp16, final = (room.needs_of(self.origin, t).file for t in ("FP16", self.data_type))
        if self._fp16() is not None:
            room.check_disk(self.origin, self.place, final, 0)
            return
        found = self._checkpoint()
        is_ours = found is None or found == self.downloaded
        n_bytes = (self.origin.n_bytes or 0) if is_ours else 0
        there = n_bytes if found else bytes_so_far(str(self.downloaded))
        kept = n_bytes if self.keep_checkpoint else 0
        peak = n_bytes + fp16 if self.data_type == "FP16" else max(n_bytes + fp16, kept + fp16 + final)
        room.check_disk(self.origin, self.place, peak, there)

    # --- steps

    def _convert(self) -> Path:
        checkpoint = self._checkpoint() or self._download()
        folder = self.place if self.data_type == "FP16" else self.making
        converted = folder / f"{self.origin.stem}-FP16.bin"
        with self.progress("Converting") as show:
            convert(checkpoint, converted, progress=show)
        self._copy_tokenizer(checkpoint)
        if self.keep_checkpoint and self.downloaded.exists():
            os.replace(self.downloaded, self.place / self.origin.file)
        self.downloaded.unlink(missing_ok=True)
        return converted

    def _download(self) -> Path:
        self.note(f"Downloading {self.origin.source}, {room.gb(self.origin.n_bytes or 0)}")
        with self.progress("Downloading") as show:
            hub.fetch(self.origin.source, str(self.downloaded), expected=self.origin.published, progress=show)
        return self.downloaded

    def _quantize(self, source: Path) -> None:
        from rwkv_np.kernels.cache import is_first_run  # imports numba, which is slow: check everything else first

        if is_first_run("encode"):
            self.note("Compiling the encoder for this processor: only once, takes a few seconds.")
        with self.progress("Quantizing") as show:

            def report(result: Quantized, done: int, total: int) -> None:
                show(result.name, done, total)

            quantize(source, self.destination, self.data_type, progress=report)

    def _copy_tokenizer(self, checkpoint: Path) -> None:
        """A model with its own vocabulary has its tokenizer in the same folder."""
        names = (f"{self.origin.stem}.tokenizer.json", TOKENIZER)
        found = next((checkpoint.parent / name for name in names if (checkpoint.parent / name).is_file()), None)
        if found and not self.origin.is_remote:
            shutil.copyfile(found, self.place / TOKENIZER)
