"""The data types of a model file: one row of `DATA_TYPES` each.

A row adds a name and a code, as used by people and files, to a format of `kernels/formats.py`, which
defines the layout and the meaning of the bytes. The quantizer decides the type of each parameter.

File version 100 (rwkv.cpp of April 2023) and 101 (since 2023-05-27) use the same codes for
different formats, so a type is found by its code *and* the file's version.
"""

from __future__ import annotations

from dataclasses import dataclass

from rwkv_np.kernels.formats import FORMATS, Format

VERSIONS = (100, 101)


@dataclass(frozen=True)
class DataType:
    """A format under the name and the code that it has in files of those versions."""

    name: str
    code: int
    versions: tuple[int, ...]
    format: Format


DATA_TYPES = (
    DataType("FP32", 0, VERSIONS, FORMATS["FP32"]),
    DataType("FP16", 1, VERSIONS, FORMATS["FP16"]),
    DataType("Q4_0", 2, (101,), FORMATS["Q4_0"]),
    DataType("Q4_1", 3, (101,), FORMATS["Q4_1"]),
    DataType("Q5_0", 7, (101,), FORMATS["Q5_0"]),
    DataType("Q5_1", 8, (101,), FORMATS["Q5_1"]),
    DataType("Q8_0", 9, (101,), FORMATS["Q8_0"]),
    DataType("Q4_0", 2, (100,), FORMATS["Q4_0_v100"]),
    DataType("Q4_1", 3, (100,), FORMATS["Q4_1_v100"]),
    DataType("Q4_1_O", 4, (100,), FORMATS["Q4_1_O"]),
)
REMOVED_TYPES = {5: "Q4_2", 6: "Q4_3"}

_BY_CODE = {(t.code, version): t for t in DATA_TYPES for version in t.versions}
_BY_NAME = {(t.name, version): t for t in DATA_TYPES for version in t.versions}


def by_code(code: int, version: int) -> DataType | None:
    """The type that `code` means in a file of that version; None if it is unknown."""
    return _BY_CODE.get((code, version))


def by_name(name: str, version: int = 101) -> DataType | None:
    """The type called `name` in a file of that version; None if there is none."""
    return _BY_NAME.get((name, version))
