"""A function like the kernels that compiles quickly and is cached: the fuzzer damages its cache files."""

from rwkv_np.kernels import cache


@cache.jit()
def twice(n):
    return 2 * n


if __name__ == "__main__":
    assert twice(21) == 42
