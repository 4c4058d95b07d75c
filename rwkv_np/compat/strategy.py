"""The official package's strategy strings: validation, and the parts that matter here.

"cuda fp16i8 *10 -> cpu fp32" names a device and a data type for groups of layers. Here all layers are computed on the
CPU, in float32. The first group's type selects the model file: FP32 for fp32, FP16 for fp16 and bf16, Q8_0 with i8,
Q4_1 with i4 or i3. (A model file has FP16 or FP32, but not bfloat16; converting a bfloat16 weight of ordinary size to
FP16 is exact.)
"""

from __future__ import annotations

import re

from rwkv_np import arguments
from rwkv_np.errors import InputError
from rwkv_np.kernels.notes import say_once

_GROUP = re.compile(r"([a-z]\w*)(?::\d+)? (fp32|fp16|bf16)(i8|i4|i3)?(?: \*\d+\+?)?")
_FLOATS = {"fp32": "FP32", "fp16": "FP16", "bf16": "FP16"}
_BLOCKS = {"i8": "Q8_0", "i4": "Q4_1", "i3": "Q4_1"}


def wanted_type(strategy: str) -> str:
    """The type of model file for `strategy`; prints a note if it names a device other than the CPU.

    Raises InputError (a ValueError, as in the official package): not a strategy
    """
    arguments.one_of("strategy", strategy, str, 'a string such as "cpu fp32"')
    groups = [_GROUP.fullmatch(" ".join(group.split())) for group in strategy.split("->")]
    found = [group for group in groups if group]
    if len(found) < len(groups):
        raise InputError(f'strategy is {arguments.shown(strategy)}; expected a device and a type, as in "cpu fp32"')
    if any(group[1] != "cpu" for group in found):
        say_once(f"strategy {strategy!r}: the device is ignored, all layers are computed on the CPU")
    first = found[0]
    return _BLOCKS[first[3]] if first[3] else _FLOATS[first[2]]
