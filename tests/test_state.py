"""A state can be stored, saved and returned to, and is never accepted by another model."""

import numpy as np
import pytest
from conftest import random_parameters, write_model

import rwkv_np
from rwkv_np.errors import InputError, OutputError, StateFileError


@pytest.fixture
def model(tiny_model):
    return rwkv_np.load(tiny_model)


@pytest.fixture
def other(tmp_path):
    arrays = random_parameters(np.random.default_rng(0), n_layer=3)
    return rwkv_np.load(write_model(tmp_path / "other.bin", arrays))


def test_a_saved_state_continues_with_the_very_same_logits(model, tmp_path):
    _, state = model.forward(list(b"some text"))
    state.save(tmp_path / "s.state")
    loaded = rwkv_np.load_state(tmp_path / "s.state", model.config)
    np.testing.assert_array_equal(model.forward(5, loaded)[0], model.forward(5, state)[0])


def test_a_copy_shares_nothing(model):
    state = model.initial_state()
    copy = state.copy()
    copy.wkv[:], copy.shift[:] = 7, 7
    assert not (state.wkv == 7).any() and not (state.shift == 7).any()


def test_a_state_of_another_shape_is_refused(model, other, tmp_path):
    _, state = other.forward([1])
    with pytest.raises(InputError, match=r"belongs to another model: its shift is \(3, 2, 32\); .*\(2, 2, 32\)"):
        model.forward([1], state)
    state.save(tmp_path / "s")
    with pytest.raises(StateFileError, match="belongs to another model"):
        rwkv_np.load_state(tmp_path / "s", model.config)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04" + bytes(50)], ids=["empty", "text", "zip"])
def test_a_file_that_is_not_a_state_is_refused(model, tmp_path, data):
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(StateFileError, match="is damaged or not a saved state"):
        rwkv_np.load_state(tmp_path / "s", model.config)


def test_a_damaged_state_is_refused(model, tmp_path):
    model.initial_state().save(tmp_path / "s")
    data = bytearray((tmp_path / "s").read_bytes())
    for at in range(0, len(data), 97):  # zip stores a checksum of every array
        data[at] ^= 0xFF
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(StateFileError):
        rwkv_np.load_state(tmp_path / "s", model.config)


@pytest.mark.parametrize(
    "change", [
        np.float64, np.uint8, lambda x: x[:-1], lambda x: np.repeat(x, 2)[::2],
        lambda x: x.astype(">f4"), lambda x: np.ma.array(x), lambda x: x.tolist(), lambda x: None,
        lambda x: x.reshape(2, -1), lambda x: np.frombuffer(bytes(x.nbytes + 1), np.uint8)[1:].view(np.float32),
    ],
)  # fmt: skip
def test_numbers_that_a_kernel_would_misread_are_refused(model, change):
    state = model.initial_state()
    state.data[:] = 0
    state.data = state.data.astype(change) if isinstance(change, type) else change(state.data)
    for read in (model.forward, model.advance):
        with pytest.raises(InputError, match="the state "):
            read(1, state)
    with pytest.raises(InputError, match="the state "):
        model.new_pool(1).take(state)


@pytest.mark.parametrize("kind", ["<f8", "u1", "i1", "?", ">f4", "<f2"])
def test_a_saved_state_of_other_numbers_is_refused(model, tmp_path, kind):
    parts = {name: np.ones(part.shape, kind) for name, part in model.initial_state().parts.items()}
    np.savez(tmp_path / "s.npz", architecture=np.array("v4"), **parts)
    if kind == ">f4":  # the same numbers in another byte order can be read
        assert (rwkv_np.load_state(tmp_path / "s.npz", model.config).wkv == 1).all()
        return
    with pytest.raises(StateFileError, match="expected float32"):
        rwkv_np.load_state(tmp_path / "s.npz", model.config)


def test_a_state_of_an_earlier_version_can_be_read(model, tmp_path):
    """Two arrays and a name: as State.save wrote before states were one array."""
    _, state = model.forward([1, 2, 3])
    np.savez(
        tmp_path / "s.npz", architecture=np.array("v4"), shift=np.ascontiguousarray(state.shift),
        wkv=np.ascontiguousarray(state.wkv),
    )  # fmt: skip
    np.testing.assert_array_equal(rwkv_np.load_state(tmp_path / "s.npz", model.config).data, state.data)


def test_saving_does_not_replace_a_file_unasked(model, tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        model.initial_state().save(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"
    model.initial_state().save(tmp_path / "s", overwrite=True)
    rwkv_np.load_state(tmp_path / "s", model.config)
