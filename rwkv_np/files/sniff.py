"""Identify a file that was given as something else.

Users pass a checkpoint to the chat and a model file to the converter; the message then
names what the file is, and the command that makes the right file from it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection

from rwkv_np.errors import CheckpointError, FileError, FormatError
from rwkv_np.files import pth
from rwkv_np.files.reading import open_regular


def kind(path: str, error: type[FileError] = FormatError) -> str:
    """One of: empty, model, checkpoint, legacy, tar, pickle, safetensors, gguf, ggml, lfs, state, chat, text,
    unknown.

    Raises  `error`: it is a folder, a pipe or a device; OSError
    """
    if os.path.isdir(path):
        raise error(path, _describe_folder(path))
    with open_regular(path, error) as file:
        start = file.read(512)
    if not start:
        return "empty"
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start.startswith(b"GGUF"):
        return "gguf"
    if start[:4] == b"fmgg":
        return "model"
    if start[:4] in (b"lmgg", b"tjgg"):
        return "ggml"
    if start.startswith(b"version https://git-lfs"):
        return "lfs"
    if _is_safetensors(start):
        return "safetensors"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "legacy" if _LEGACY_MAGIC in start[:40] else "pickle"
    if start[257:262] == b"ustar":
        return "tar"
    return "text" if _is_text(start) else "unknown"


# The start of files by torch.save since 0.1.10, as an integer in a pickle.
_LEGACY_MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_CONVERT = "Convert it: rwkv-np convert {path} MODEL-FP16.bin"

_FOUND = {
    "empty": ("is empty", "Copy or download it again"),
    "model": (
        "is a model file", "It is already converted: quantize it (rwkv-np quantize), or chat with it"
    ),
    "checkpoint": ("is a PyTorch checkpoint", _CONVERT),
    "legacy": ("is a PyTorch checkpoint from before 1.6", _CONVERT),
    "tar": (
        "is a tar archive; PyTorch before 0.1.10 (2017) wrote such checkpoints",
        "Load it with an old PyTorch and save it with a new one, or unpack the archive that contains the checkpoint",
    ),
    "pickle": ("is a Python pickle but not a PyTorch checkpoint", "Give the file with the weights"),
    "safetensors": ("is a safetensors checkpoint", _CONVERT),
    "gguf": (
        "is a GGUF file (llama.cpp)", "Give it as a model, or make a model file of it: rwkv-np convert {path} MODEL.bin"
    ),
    "ggml": ("is a ggml file of another program", "Get the .pth checkpoint of the model, and convert it"),
    "lfs": ("is a git-lfs pointer, not the file itself", "Fetch the file: git lfs pull"),
    "state": (
        "is a saved state, not a model", "Chat with its model: rwkv-np chat MODEL.bin --state {path}"
    ),
    "chat": (
        "is a saved chat, not a model", "Continue with its model: rwkv-np chat MODEL.bin --load {path}"
    ),
    "text": ("is a text file", "Give the file with the weights"),
    "unknown": ("is a file of an unknown kind", "Give the file with the weights"),
}  # fmt: skip


def describe_as_model(path: str) -> str:
    """What the file is, if it was given as a model file, and what to do about it."""
    return _describe(path, kind(path), "a model file of rwkv.cpp's format")


def describe_as_checkpoint(path: str) -> str:
    """The same for a file that was given as a checkpoint."""
    return _describe(path, kind(path, CheckpointError), "an RWKV checkpoint (.pth or .safetensors)")


def _describe(path: str, found: str, expected: str) -> str:
    if found in ("checkpoint", "legacy", "safetensors") and is_time_state(_names(path, found)):
        return describe_time_state(path)
    words, mend = _FOUND[found]
    return f"{words}; expected {expected}. {mend.format(path=shlex.quote(path))}"


def is_time_state(names: Collection[str]) -> bool:
    """Whether these are the tensor names of a state-tuned checkpoint: a state for each layer, without a model."""
    return bool(names) and all(re.fullmatch(r"blocks\.\d+\.att\.time_state", name) for name in names)


def describe_time_state(path: str) -> str:
    """What such a file is, if it was given as a model or a checkpoint."""
    return (
        "contains the state of a state-tuned RWKV (time_state), not a model. Chat with the model it was tuned for: "
        f"rwkv-np chat MODEL.bin --state {shlex.quote(path)}"
    )


def _names(path: str, found: str) -> Collection[str]:
    """The names of a checkpoint's tensors; empty if they cannot be read."""
    try:
        if found == "safetensors":
            with open_regular(path, FormatError) as file:
                n_bytes = int.from_bytes(file.read(8), "little")
                return set(json.loads(file.read(min(n_bytes, pth.MAX_NAMES)))) - {"__metadata__"}
        read = pth.read_zip if found == "checkpoint" else pth.read_legacy
        return pth.named_tensors(path, read(path).content)
    except (FileError, ValueError, TypeError):
        return ()


def _kind_of_zip(path: str) -> str:
    """The kind of a zip archive: a checkpoint, or a file that NumPy wrote (a state or a chat)."""
    with open_regular(path, FormatError) as file:
        start = file.read(100)
    first = start[30 : 30 + start[26]] if len(start) > 30 else b""
    return {b"architecture.npy": "state", b"conversation.json": "chat"}.get(first, "checkpoint")


def _describe_folder(path: str) -> str:
    """What the folder is; a folder of the transformers library is recognized by its config.json."""
    if os.path.exists(os.path.join(path, "config.json")):
        return (
            "is a folder of the transformers library. Make a model file of it: "
            f"rwkv-np convert {shlex.quote(path)} MODEL-FP16.bin"
        )
    return "is a folder; give the file with the weights"


def _is_safetensors(start: bytes) -> bool:
    """Whether it starts with 8 bytes of header length (the format allows 100 MB), then JSON."""
    return int.from_bytes(start[:8], "little") <= 10**8 and start[8:9] == b"{"


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # the last character may be incomplete
    return True
