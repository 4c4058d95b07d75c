"""What an installed model is made from: a published checkpoint, an address on the hub, or a local file."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace

from rwkv_np.errors import InputError
from rwkv_np.files import hub
from rwkv_np.files.download import Remote
from rwkv_np.files.published import PUBLISHED, Published, Shape, published_name
from rwkv_np.store.kept import GGUF, is_name


@dataclass(frozen=True)
class Origin:
    """A checkpoint or a GGUF file, and the name of the installed model.

    source     hf://OWNER/REPO/FILE, or a path
    n_bytes    size of the checkpoint; None until the hub was asked
    published  its row in the table, if it has one
    """

    name: str
    source: str
    n_bytes: int | None = None
    published: Published | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it must be downloaded."""
        return hub.is_remote(self.source)

    @property
    def shape(self) -> Shape | None:
        """The shape that determines its sizes; None if only the checkpoint itself has it."""
        return self.published.shape if self.published else None

    @property
    def file(self) -> str:
        """The name of the checkpoint's file."""
        return hub.file_name(self.source) if self.is_remote else os.path.basename(self.source)

    @property
    def stem(self) -> str:
        """The same without its extension. The model's file name starts with it, so that the chat can tell World from
        G1."""
        return os.path.splitext(self.file)[0]

    @property
    def is_gguf(self) -> bool:
        """Whether it is installed as it is."""
        return self.file.lower().endswith(GGUF)

    def described(self) -> Origin:
        """The same, with its size; asks the hub if the size is not known otherwise. Raises DownloadError."""
        if self.n_bytes is not None:
            return self
        found: Remote = hub.describe(self.source)
        return replace(self, n_bytes=found.n_bytes or 0)


def origin_of(what: str, name: str | None = None) -> Origin:
    """What `rwkv-np get WHAT --name NAME` means: a published name, hf://OWNER/REPO/FILE, or the path of a checkpoint.

    Raises InputError: none of these, or a name that is not allowed
    """
    origin = _named(_found(what), name)
    if not is_name(origin.name):
        raise InputError(f"--name is {name!r}; expected letters, digits, dots, hyphens and underscores")
    if (owner := published_name(origin.name)) and (origin.published is None or origin.published.name != owner):
        raise InputError(f"{origin.name} is the name of a published model; choose another: --name NAME")
    return origin


def _found(what: str) -> Origin:
    if hub.is_remote(what):
        hub.file_name(what)  # raises if the address is invalid
        entry = next((entry for entry in PUBLISHED.values() if entry.source == what), None)
        return _of(entry) if entry else Origin("", what)
    if os.path.isfile(what):
        return Origin("", os.path.abspath(what), os.path.getsize(what))
    if known := published_name(what):
        return _of(PUBLISHED[known])
    near = difflib.get_close_matches(what.lower(), PUBLISHED, 3, cutoff=0.5)
    question = f"did you mean {' or '.join(near)}?" if near else "rwkv-np list --available shows the names."
    raise InputError(
        f"{what}: no published model of that name, and no such file; {question} "
        "Other checkpoints and GGUF files: rwkv-np get hf://OWNER/REPO/FILE.pth --name NAME, or a path"
    )


def _of(entry: Published) -> Origin:
    return Origin(entry.name, entry.source, entry.n_bytes, entry)


def _named(origin: Origin, name: str | None) -> Origin:
    """The origin with the given name, its published name, or one made from its file name."""
    derived = re.sub(r"[^a-z0-9._-]+", "-", origin.stem.lower()).strip("-._")[:100]
    return replace(origin, name=name.lower() if name else origin.name or derived)
