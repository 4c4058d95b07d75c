"""Find the model file for the path in a script, which names a checkpoint, often without its extension.

For "models/rwkv7" or "models/rwkv7.pth", in this order:

1. the path itself, if it is a model file; models/rwkv7.bin
2. models/rwkv7-TYPE.bin of the type that the strategy selects
3. models/rwkv7-TYPE.bin of any other type, the most exact first, with a note
4. models/rwkv7.pth, converted once to the file of (2), with a note; that needs PyTorch

So an existing usable file costs neither time nor disk space. A model file that is older than the checkpoint next to it
is used with a note: training scripts overwrite the checkpoint under the same name.
"""

from __future__ import annotations

import os
import shlex

from rwkv_np import arguments
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.quantize import quantize
from rwkv_np.errors import FormatError, PathLike
from rwkv_np.kernels.notes import say_once

TYPES = ("FP32", "FP16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
_CHECKPOINTS = (".pth", ".safetensors")


def find_model_file(model: PathLike, data_type: str) -> str:
    """The path of the model file for `model`, converted to `data_type` if necessary.

    Raises  FormatError: there is no model file and no checkpoint; and the errors of `rwkv_np.convert`
    """
    path = arguments.path("model", model)
    base, ending = os.path.splitext(path)
    if ending not in _CHECKPOINTS:
        base = path
        if os.path.isfile(path):
            return path
    checkpoint = next((base + e for e in _CHECKPOINTS if os.path.isfile(base + e)), None)
    return _existing(base, data_type, checkpoint) or _converted(path, base, data_type, checkpoint)


def _existing(base: str, data_type: str, checkpoint: str | None) -> str | None:
    others = [name for name in TYPES if name != data_type]
    names = [f"{base}.bin", *(f"{base}-{name}.bin" for name in (data_type, *others))]
    found = next((name for name in names if os.path.isfile(name)), None)
    if found is None:
        return None
    if names.index(found) > 1:
        say_once(f"Loading {found}, since {names[1]} does not exist")
    if checkpoint and os.path.getmtime(found) < os.path.getmtime(checkpoint):
        say_once(f"{found} is older than {checkpoint}; to convert the checkpoint again, delete it")
    return found


def _converted(path: str, base: str, data_type: str, checkpoint: str | None) -> str:
    """Convert, and quantize for a quantized type; both files stay next to the checkpoint."""
    if checkpoint is None:
        raise FormatError(
            path, f"there is no such file, nor {base}.bin, {base}-{data_type}.bin or {base}.pth; expected a model file "
            f"or a checkpoint. To make one: rwkv-np convert CHECKPOINT.pth {shlex.quote(base)}-{data_type}.bin"
        )  # fmt: skip
    float_type = "FP32" if data_type == "FP32" else "FP16"
    converted, wanted = f"{base}-{float_type}.bin", f"{base}-{data_type}.bin"
    say_once(f"Converting {checkpoint} to {converted}, once")
    convert(checkpoint, converted, float_type)
    if wanted != converted:
        say_once(f"Quantizing {converted} to {wanted}, once")
        quantize(converted, wanted, data_type)
    return wanted
