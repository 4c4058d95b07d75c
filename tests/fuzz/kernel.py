"""A function as the kernels are, compiled in a moment and kept: the fuzzer damages what is kept of it."""

from rwkv_np.kernels import cache


@cache.jit()
def twice(n):
    return 2 * n


if __name__ == "__main__":
    assert twice(21) == 42
