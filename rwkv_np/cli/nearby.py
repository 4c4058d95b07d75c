"""The model files in a folder, for someone who started a chat without naming one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rwkv_np.errors import FileError
from rwkv_np.files import sniff

MOST = 8  # names: a line or two
_LOOKED_AT = 200  # files: the folder of a data set can have thousands of *.bin


def find_models(folder: Path, most: int = MOST) -> list[str]:
    """The names of the first model files in `folder`, in alphabetical order."""
    try:
        names = sorted(path.name for path in islice(folder.glob("*.bin"), _LOOKED_AT))
    except OSError:
        return []
    return list(islice((name for name in names if _is_model(folder / name)), most))


def _is_model(path: Path) -> bool:
    try:
        return sniff.kind(str(path)) == "model"
    except (FileError, OSError):
        return False
