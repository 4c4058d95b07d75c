"""The folder of installed models: which models are in it, which file a name refers to, and removal.

A name may have a type after a colon: `g1-1.5b:Q4_1`. The type of a GGUF file is the one in its name, such as Q4_K_M,
or GGUF. Without a type a name refers to the one that was installed last. A name that is the path of a file refers to
that file: users of model files do not need this folder.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from rwkv_np.errors import InputError, PathLike
from rwkv_np.files.lock import is_locked
from rwkv_np.files.published import PUBLISHED, published_name
from rwkv_np.store.needs import ALL_TYPES

LOCK, MAKING, TOKENIZER = ".lock", "making", "tokenizer.json"
_CHECKPOINTS = ("*.pth", "*.safetensors")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_FILE = re.compile(rf"(.+)-({'|'.join(ALL_TYPES)})\.bin")
GGUF = ".gguf"
# As uploaders write them in the names of GGUF files: Q4_K_M, q8_0, FP16, IQ4_XS.
_GGUF_TYPE = re.compile(r"(?<![A-Za-z0-9])(I?Q\d_(?:K(?:_[SML])?|NL|XS|\d)|B?F16|F32|FP16|FP32)(?![A-Za-z0-9])", re.I)
_OTHER_TYPE = "GGUF"


@dataclass(frozen=True)
class Kept:
    """An installed model. `date` is when it was made, in seconds since 1970; `stem` is its checkpoint's name."""

    name: str
    data_type: str
    path: Path
    stem: str
    n_bytes: int
    date: float

    @property
    def reference(self) -> str:
        """The name with the type, which is unique."""
        return f"{self.name}:{self.data_type}"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file, as it was downloaded."""
        return self.path.suffix == GGUF


def split(reference: str) -> tuple[str, str | None]:
    """("g1-1.5b", "Q4_1") of "G1-1.5B:q4_1". Raises InputError: an unknown type."""
    name, colon, data_type = reference.partition(":")
    if colon and not is_type(data_type.upper()):
        raise InputError(f"{reference}: unknown type {data_type!r}; expected one of {', '.join(ALL_TYPES)}")
    return published_name(name) or name.lower(), data_type.upper() if colon else None


def is_type(name: str) -> bool:
    """Whether an installed model can have that type."""
    return name in (*ALL_TYPES, _OTHER_TYPE) or _GGUF_TYPE.fullmatch(name) is not None


def gguf_type(stem: str) -> str:
    """The type in the name of a GGUF file; "GGUF" if there is none."""
    found: list[str] = _GGUF_TYPE.findall(stem)
    return found[-1].upper() if found else _OTHER_TYPE


def is_name(name: str) -> bool:
    """Whether `name` is allowed as the name of a model."""
    return _NAME.fullmatch(name) is not None


class Store:
    """The folder; it may not exist yet."""

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)

    def models(self) -> list[Kept]:
        """Every installed model, sorted by name, and the types of a name in the order of ALL_TYPES; then GGUF files."""
        found = [kept for name in self._names() for kept in self.of(name)]
        order = {data_type: i for i, data_type in enumerate(ALL_TYPES)}
        return sorted(found, key=lambda kept: (kept.name, kept.is_gguf, order.get(kept.data_type, 0), kept.data_type))

    def of(self, name: str) -> list[Kept]:
        """The installed models of that name; the newest is the last."""
        paths = [path for ending in (".bin", GGUF) for path in self.place(name).glob(f"*{ending}")]
        found = [kept for path in paths if (kept := _kept(name, path))]
        return sorted(found, key=lambda kept: kept.date)

    def unfinished(self) -> dict[str, int]:
        """Names whose `get` was interrupted, and the bytes of its files."""
        left = {name: sum(map(_bytes_of, self._left(name))) for name in self._names()}
        return {name: n_bytes for name, n_bytes in left.items() if n_bytes}

    def checkpoints(self) -> dict[str, int]:
        """Names whose checkpoint is kept too, and its bytes."""
        found = {name: [path for path in self._beside(name) if path.name != TOKENIZER] for name in self._names()}
        return {name: sum(map(_bytes_of, paths)) for name, paths in found.items() if paths}

    def place(self, name: str) -> Path:
        """The folder of a name."""
        return self.folder / name

    def path(self, given: str) -> str:
        """The model file for `given`: a path, or the name of an installed model.

        Raises InputError: neither; the message has similar names and the command that downloads one
        """
        if os.path.exists(given) and not os.path.isdir(given):
            return given
        name = split(given)[0] if is_name(given.partition(":")[0].lower()) else None
        if name is not None and (found := self.of(name)):
            return str(self._chosen(given, found).path)
        if _looks_like_path(given) and name not in PUBLISHED:
            return given  # if it is invalid, opening it raises an error
        raise InputError(self._unknown(given, name or given))

    def chosen(self, reference: str) -> Kept | None:
        """The installed model of that name; None if there is none. Raises InputError: not in that type."""
        found = self.of(split(reference)[0])
        return self._chosen(reference, found) if found else None

    def remove(self, reference: str) -> int:
        """Delete that type of a model, or without a type everything under the name; returns the bytes freed.

        Raises InputError: it does not exist, or another process uses it; OSError
        """
        paths = self.removed_with(reference)
        name = split(reference)[0]
        if is_locked(str(self.place(name) / LOCK)):
            raise InputError(f"{name} is being downloaded by another process; stop that first")
        freed = sum(map(_bytes_of, paths))
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.tidy(name)
        return freed

    def removed_with(self, reference: str) -> list[Path]:
        """The paths that `remove` deletes. Raises InputError: there is nothing with that name or type."""
        name, data_type = split(reference)
        found = self.of(name) if is_name(name) else []
        if data_type is not None:
            return [self._chosen(reference, found).path]
        paths = [*(kept.path for kept in found), *self._beside(name), *self._left(name)]
        if not paths:
            raise InputError(f"{reference}: no model of that name in {self.folder}. rwkv-np list shows them")
        return paths

    def tidy(self, name: str) -> None:
        """Remove the folder of a name if only its lock is in it. The caller must have the lock.

        A foreign file stays, and so does an open lock on Windows.
        """
        making, folder = self.place(name) / MAKING, self.place(name)
        if making.is_dir() and not any(path.stat().st_size > 100 for path in making.iterdir()):
            shutil.rmtree(making, ignore_errors=True)  # nothing was downloaded yet
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)

    def _chosen(self, reference: str, found: list[Kept]) -> Kept:
        name, data_type = split(reference)
        matching = [kept for kept in found if data_type in (None, kept.data_type)]
        if not matching:
            there = ", ".join(kept.data_type for kept in found)
            kept = f"{name} is installed as {there}" if there else f"no model of that name in {self.folder}"
            raise InputError(f"{reference}: {kept}. Get it: rwkv-np get {name} --type {data_type}")
        return matching[-1]

    def _unknown(self, given: str, name: str) -> str:
        if name in PUBLISHED:
            return f"{given}: no such file, and this model is not installed. Get it: rwkv-np get {name}"
        names = {**dict.fromkeys(kept.name for kept in self.models()), **dict.fromkeys(PUBLISHED)}
        near = difflib.get_close_matches(name, names, 3, cutoff=0.5)
        if not near:
            return f"{given}: no such file, and no model of that name. rwkv-np list --available shows the names"
        known = any(self.of(near[0]))
        mend = f"rwkv-np list shows the models in {self.folder}" if known else f"Get it: rwkv-np get {near[0]}"
        return f"{given}: no such file, and no model of that name; did you mean {' or '.join(near)}? {mend}"

    def _names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir() and is_name(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _beside(self, name: str) -> list[Path]:
        """Kept checkpoints, and a tokenizer. A folder without a lock does not belong to this program."""
        folder = self.place(name)
        if not is_name(name) or not (folder / LOCK).exists():
            return []
        return [path for pattern in (*_CHECKPOINTS, TOKENIZER) for path in folder.glob(pattern)]

    def _left(self, name: str) -> list[Path]:
        making = self.place(name) / MAKING
        return [making] if is_name(name) and making.is_dir() else []


def _kept(name: str, path: Path) -> Kept | None:
    if path.name.startswith("."):
        return None
    if path.suffix == GGUF:
        stem, data_type = path.stem, gguf_type(path.stem)
    elif match := _FILE.fullmatch(path.name):
        stem, data_type = match.groups()
    else:
        return None
    try:
        found = path.stat()
    except FileNotFoundError:  # just removed by another process
        return None
    return Kept(name, data_type, path, stem, found.st_size, found.st_mtime)


def _bytes_of(path: Path) -> int:
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size


def _looks_like_path(given: str) -> bool:
    return os.path.basename(given) != given or os.path.splitext(given)[1] in (".bin", ".pth", ".safetensors", ".gguf")
