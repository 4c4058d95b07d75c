"""Tell what a file is that was given as something else.

People hand a checkpoint to the chat and a chat model to the converter; a message that
names what they hold, and the command that turns it into what is wanted, ends the matter.
"""

from __future__ import annotations


def kind(path: str) -> str:
    """One of: empty, model, checkpoint, pickle, safetensors, gguf, ggml, lfs, text, unknown."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    if start.startswith(b"PK\x03\x04"):
        return "checkpoint"
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
        return "pickle"
    return "text" if _is_text(start) else "unknown"


_FOUND = {
    "empty": ("is empty", "Copy or download it again"),
    "model": (
        "is a model file", "It is converted already: quantize it with tools/quantize.py, or chat with it"
    ),
    "checkpoint": ("is a PyTorch checkpoint", "Convert it: python tools/convert.py {path} MODEL-FP16.bin"),
    "pickle": (
        "is a PyTorch checkpoint of the kind before 1.6",
        ("Save it anew: python -c "
         "\"import torch; torch.save(torch.load('{path}', weights_only=True), 'new.pth')\""),
    ),
    "safetensors": (
        "is a safetensors checkpoint", "Convert it: python tools/convert.py {path} MODEL-FP16.bin"
    ),
    "gguf": (
        "is a GGUF file (llama.cpp)", "Take the .pth or .safetensors checkpoint of the model, and convert it"
    ),
    "ggml": ("is a ggml file of another program", "Take the .pth checkpoint of the model, and convert it"),
    "lfs": ("is a git-lfs pointer, 130 bytes that stand for the real file", "Fetch that: git lfs pull"),
    "text": ("is a text file", "Give the file that holds the weights"),
    "unknown": ("is no kind of file that is known here", "Give the file that holds the weights"),
}  # fmt: skip


def describe_as_model(path: str) -> str:
    """What the file is, for someone who gave it as a model file, and what to do about it."""
    found, mend = _FOUND[kind(path)]
    return f"{found}; expected a model file of rwkv.cpp's format. {mend.format(path=path)}"


def describe_as_checkpoint(path: str) -> str:
    """The same for someone who gave it as a checkpoint."""
    found, mend = _FOUND[kind(path)]
    return f"{found}; expected an RWKV checkpoint (.pth or .safetensors). {mend.format(path=path)}"


def _is_safetensors(start: bytes) -> bool:
    """8 bytes of header length, of which the format allows 100 MB, then JSON."""
    return int.from_bytes(start[:8], "little") <= 10**8 and start[8:9] == b"{"


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character cut off by the end of what was read
    return True
