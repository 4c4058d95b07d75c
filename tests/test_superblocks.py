"""GGUF's types: decoders against their definition, weight by weight, and against the `gguf` package."""

import numpy as np
import pytest
from rwkv_np.kernels import encode
from rwkv_np.kernels.formats import FORMATS
from rwkv_np.kernels.superblocks import TABLE

from rwkv_np.conversion import quantize
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.quants import VERSIONS, by_code, by_name

NAMES = [name for name, row in FORMATS.items() if row.encode is None]
SIZES = {
    "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176,
    "Q6_K": 210, "IQ4_NL": 18, "IQ4_XS": 136, "BF16": 2, "FP16": 2, "FP32": 4,
}  # fmt: skip


def half(b):
    return float(np.array(b, np.uint8).view("<f2")[0])


def k_scale(s, j):
    """Scale and minimum of part j in the 12 bytes of Q4_K and Q5_K."""
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4


# Weight i of a block of bytes b, as ggml defines it.


def q2_k(b, i):
    s, qs, d, m = b[:16], b[16:80], half(b[80:82]), half(b[82:84])
    q = qs[i // 128 * 32 + i % 32] >> 2 * (i % 128 // 32) & 3
    return d * (s[i // 16] & 15) * q - m * (s[i // 16] >> 4)


def q3_k(b, i):
    h, qs, s, d, j = b[:32], b[32:96], b[96:108], half(b[108:110]), i // 16
    q = qs[i // 128 * 32 + i % 32] >> 2 * (i % 128 // 32) & 3
    scale = s[j % 8] >> 4 * (j // 8) & 15 | (s[8 + j % 4] >> 2 * (j // 4) & 3) << 4
    return d * (scale - 32) * (q - (0 if h[i % 32] >> i // 32 & 1 else 4))


def q4_k(b, i, fifth=0, qs_at=16):
    scale, least = k_scale(b[4:16], i // 32)
    q = b[qs_at + i // 64 * 32 + i % 32] >> 4 * (i % 64 // 32) & 15 | fifth << 4
    return half(b[:2]) * scale * q - half(b[2:4]) * least


def q5_k(b, i):
    return q4_k(b, i, b[16 + i % 32] >> i // 32 & 1, 48)


def q6_k(b, i):
    low = b[i // 128 * 64 + i % 64] >> 4 * (i % 128 // 64) & 15
    high = b[128 + i // 128 * 32 + i % 32] >> 2 * (i % 128 // 32) & 3
    scale = int(np.array(b[192 + i // 16], np.uint8).view(np.int8))
    return half(b[208:210]) * scale * ((low | high << 4) - 32)


def iq4_nl(b, i):
    return half(b[:2]) * int(TABLE[b[2 + i % 16] >> 4 * (i // 16) & 15])


def iq4_xs(b, i):
    j, high, low, qs = i // 32, b[2] | b[3] << 8, b[4:8], b[8:]
    scale = low[j // 2] >> 4 * (j % 2) & 15 | (high >> 2 * j & 3) << 4
    return half(b[:2]) * (scale - 32) * int(TABLE[qs[j * 16 + i % 16] >> 4 * (i % 32 // 16) & 15])


def bf16(b, i):
    return float(np.array([0, 0, *b], np.uint8).view("<f4")[0])


DEFINITIONS = {
    "Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs,
    "BF16": bf16,
}  # fmt: skip


def random_blocks(name, n):
    row, rng = FORMATS[name], np.random.default_rng(0)
    blocks = rng.integers(0, 256, n * row.block.itemsize, np.uint8).view(row.block)
    for field in set(row.block.fields or ()) & {"d", "m"}:
        blocks[field] = rng.integers(-100, 100, n) / 8  # so that every product is exact in float32
    return blocks


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_gives_every_weight_as_ggml_defines_it(name):
    blocks = random_blocks(name, 20)
    raw = blocks.view(np.uint8).reshape(20, -1).tolist()
    expected = [[DEFINITIONS[name](b, i) for i in range(FORMATS[name].block_size)] for b in raw]
    found = FORMATS[name].decode(blocks)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_agrees_with_the_gguf_package_to_the_last_bit(name):
    gguf = pytest.importorskip("gguf")
    raw = np.random.default_rng(1).integers(0, 256, (64, 30 * FORMATS[name].block.itemsize), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    found = FORMATS[name].decode(raw.view(FORMATS[name].block)).reshape(expected.shape)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(found[~is_nan].view(np.uint32), expected[~is_nan].view(np.uint32))


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_decode_without_complaint(name):
    row = FORMATS[name]
    noise = np.random.default_rng(2).integers(0, 256, (3, 512 * row.block.itemsize), np.uint8).view(row.block)
    assert row.decode(noise).shape == (3, 512, row.block_size)


def test_blocks_have_ggmls_sizes():
    assert {data_type.name: data_type.format.block.itemsize for data_type in GGML_TYPES.values()} == SIZES
    assert {code: data_type.code for code, data_type in GGML_TYPES.items()} == {code: code for code in GGML_TYPES}


@pytest.mark.parametrize("name", NAMES)
def test_a_type_of_gguf_cannot_be_written(name):
    assert name not in quantize.TYPES and all(by_name(name, version) is None for version in VERSIONS)
    with pytest.raises(ValueError, match=f"{name} has no encoder"):
        encode.encode(FORMATS[name], np.zeros((1, FORMATS[name].block_size), np.float32))


def test_codes_of_rwkv_cpp_files_are_not_ggmls():
    assert by_code(8, 101).name == "Q5_1" and GGML_TYPES[8].name == "Q8_0"
    assert all(by_code(code, 101) is None for code in (10, 11, 12, 13, 14, 20, 23, 30))
