"""The types of tensors in a GGUF file, by ggml's id.

They are not in `quants.DATA_TYPES`: an id means something else as a code in a file of rwkv.cpp, and such a
file never has most of these types. `kernels/formats.py` defines what their bytes mean.
"""

from __future__ import annotations

from rwkv_np.files.quants import DataType
from rwkv_np.kernels.formats import FORMATS

_NAMES = {
    0: "FP32", 1: "FP16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip

# ggml's id -> the type; it belongs to no version of rwkv.cpp's files
GGML_TYPES = {code: DataType(name, code, (), FORMATS[name]) for code, name in _NAMES.items()}
