"""The arithmetic of RWKV: functions on arrays, and nothing else.

A kernel knows arrays, never files, configurations or models. Every kernel has a plain NumPy
reference, which is its definition; the tests compare with it.
"""

from rwkv_np.kernels import environment as environment  # before anything here imports Numba
