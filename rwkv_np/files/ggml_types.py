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

# Types of models for llama.cpp that are refused, by name.
OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8",
    33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4",
}  # fmt: skip
