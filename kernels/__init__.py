"""The arithmetic of RWKV: functions on arrays, and nothing else.

A kernel knows arrays, never files, configurations or models. Beside every kernel
stands its plain NumPy reference, which is the definition that tests compare with.
"""

from rwkv_np.kernels import environment as environment  # before anything here imports Numba
