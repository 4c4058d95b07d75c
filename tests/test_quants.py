"""Every data type against the files that rwkv.cpp wrote, and its encoder against its decoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rwkv_np.kernels.blocks import NO_OUTLIER

from rwkv_np.files.format import read_model_file
from rwkv_np.files.quants import DATA_TYPES, by_code, by_name

QUANTIZED = [t for t in DATA_TYPES if t.format.is_quantized]
IDS = [f"{t.name}-v{t.versions[0]}" for t in QUANTIZED]
# Half of a step, in steps of d: the limit of rounding errors (symmetric 4- and 5-bit types clip the largest).
STEPS = {"Q4_0": 15, "Q4_1": 15, "Q5_0": 31, "Q5_1": 31, "Q8_0": 254, "Q4_1_O": 15}


@pytest.mark.parametrize("end", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "v100-Q4_0", "v100-Q4_1", "v100-Q4_1_O"])
def test_encoders_write_the_golden_bytes(golden, end):
    source = read_model_file(golden("FP16.bin")).parameters
    parameters = read_model_file(golden(f"{end}.bin")).parameters.values()
    quantized = [p for p in parameters if p.data_type.format.is_quantized]
    assert len(quantized) == 14
    for p in quantized:
        x = source[p.name].rows(slice(None)).reshape(*p.blocks().shape, 32)
        assert p.data_type.format.encode(x).tobytes() == p.data.tobytes(), p.name


@pytest.mark.parametrize("data_type", QUANTIZED, ids=IDS)
def test_values_come_back_within_a_step(data_type):
    x = np.random.default_rng(1).standard_normal((64, 4, 32)).astype(np.float32)
    back = data_type.format.decode(data_type.format.encode(x))
    span = x.max(-1) - x.min(-1) if "_1" in data_type.name else 2 * np.abs(x).max(-1)
    assert back.dtype == np.float32 and back.shape == x.shape
    assert (np.abs(back - x) <= 1.02 * span[..., None] / STEPS[data_type.name]).all()


@pytest.mark.parametrize("data_type", QUANTIZED, ids=IDS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 1e-8, -1e-8, 6e4, -6e4])
def test_constant_blocks_come_back(data_type, value):
    x = np.full((3, 32), value, np.float32)
    back = data_type.format.decode(data_type.format.encode(x))
    np.testing.assert_allclose(back, x, rtol=1e-3, atol=6e-8)


@pytest.mark.parametrize("data_type", QUANTIZED, ids=IDS)
@settings(max_examples=150, deadline=None)
@given(x=hnp.arrays(np.float32, (2, 32), elements=st.floats(-6e4, 6e4, width=32)))
def test_any_finite_block_encodes_to_finite_values_of_the_right_size(data_type, x):
    blocks = data_type.format.encode(x)
    assert blocks.dtype == data_type.format.block and blocks.shape == (2,)
    back = data_type.format.decode(blocks)
    assert np.isfinite(back).all()
    # A float16 scale has an error of up to 2^-25, and is multiplied by up to 127 steps.
    allowed = 0.15 * np.abs(x).max(-1) + np.ptp(x, axis=-1) / 15 + 127 * 2.0**-25
    assert (np.abs(back - x).max(-1) <= 1.01 * allowed).all()


@pytest.mark.parametrize("data_type", DATA_TYPES, ids=lambda t: f"{t.name}-v{t.versions[0]}")
def test_any_bytes_decode_without_complaint(data_type):
    noise = np.random.default_rng(2).integers(0, 256, 4096 * data_type.format.block.itemsize, np.uint8)
    assert data_type.format.decode(noise.view(data_type.format.block)).shape == (4096, data_type.format.block_size)


def test_fifth_bits_belong_to_the_elements_in_order():
    block = np.zeros((), by_name("Q5_1").format.block)
    block["d"], block["qh"] = 1, 1 << 0 | 1 << 17 | 1 << 31
    assert np.flatnonzero(by_name("Q5_1").format.decode(block)).tolist() == [0, 17, 31]


def test_nibbles_lie_in_halves_in_version_101_and_beside_each_other_in_100():
    x = np.arange(32, dtype=np.float32) % 16
    assert by_name("Q4_1", 101).format.encode(x)["qs"][1] == 0x11  # elements 1 and 17
    assert by_name("Q4_1", 100).format.encode(x)["qs"][1] == 0x32  # elements 2 and 3


def test_q4_1_o_keeps_its_outlier_and_marks_a_block_without_one():
    q4_1_o = by_name("Q4_1_O", 100)
    x = np.linspace(-1, 1, 32, dtype=np.float32)
    x[7] = -50
    assert q4_1_o.format.decode(q4_1_o.format.encode(x))[7] == -50
    assert q4_1_o.format.encode(np.zeros(32))["outlier_index"] == NO_OUTLIER


def test_codes_mean_what_their_version_says():
    assert by_code(2, 100).format.block.itemsize == 20 and by_code(2, 101).format.block.itemsize == 18
    assert by_code(4, 101) is None and by_code(7, 100) is None and by_code(5, 101) is None
    assert by_name("Q4_1_O") is None and by_name("Q4_1_O", 100).code == 4
