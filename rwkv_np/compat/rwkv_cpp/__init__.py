"""rwkv.cpp's Python module (its folder python/): the same modules under the same names.

    from rwkv_np.compat.rwkv_cpp import rwkv_cpp_model, rwkv_cpp_shared_library   # was: from rwkv_cpp import ...

No library is loaded. Model files are the same, and so is the layout of a state's buffer: each program can continue from
a state of the other. `sampling` and `tokenizer_util`, which rwkv.cpp has next to its scripts, are here too.
"""

from rwkv_np.compat.rwkv_cpp.rwkv_cpp_model import RWKVModel
from rwkv_np.compat.rwkv_cpp.rwkv_cpp_shared_library import (
    QUANTIZED_FORMAT_NAMES,
    RWKVContext,
    RWKVSharedLibrary,
    load_rwkv_shared_library,
)

__all__ = ["QUANTIZED_FORMAT_NAMES", "RWKVContext", "RWKVModel", "RWKVSharedLibrary", "load_rwkv_shared_library"]
