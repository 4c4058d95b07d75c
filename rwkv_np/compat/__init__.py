"""Scripts for other RWKV programs, with one changed import.

    from rwkv_np.compat.model import RWKV                      # was: from rwkv.model import RWKV
    from rwkv_np.compat.utils import PIPELINE, PIPELINE_ARGS   # was: from rwkv.utils import ...
    from rwkv_np.compat.rwkv_cpp import rwkv_cpp_model, rwkv_cpp_shared_library   # was: from rwkv_cpp import ...

The modules have the names, the arguments and the results of the official `rwkv` package and of rwkv.cpp's Python
module; arrays are NumPy's, and PyTorch is imported only to convert a checkpoint. They add nothing to the library: a
new program should use `rwkv_np` itself.
"""

from rwkv_np.compat.model import RWKV
from rwkv_np.compat.utils import PIPELINE, PIPELINE_ARGS

__all__ = ["PIPELINE", "PIPELINE_ARGS", "RWKV"]
