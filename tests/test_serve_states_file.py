"""The cache of states on disk: saved states are found after a restart, and damage only costs time."""

import stat
import sys

import numpy as np
import pytest
from conftest import random_parameters, write_model

import rwkv_np
from rwkv_np.position import Position
from rwkv_np.serve.states import StateCache
from rwkv_np.serve.states_file import StatesFileError, load, save

VOCAB = 101


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    arrays = random_parameters(np.random.default_rng(0), 2, 64, 64, VOCAB, "v4")
    return rwkv_np.load(write_model(tmp_path_factory.mktemp("states") / "model.bin", arrays), threads=1)


@pytest.fixture
def cache(model):
    made, rng = StateCache(2**20), np.random.default_rng(3)
    for i in range(8):
        ids = rng.integers(0, VOCAB, 5 + i)
        logits, state = model.forward(ids)
        position = Position(logits if i % 2 else None, state)
        made.put(f"salt {i % 3}", ids, position.n_bytes, lambda position=position: position)
    return made


def as_bytes(cache):
    return [
        (salt, ids.tolist(), at.state.data.tobytes(), None if at.logits is None else at.logits.tobytes())
        for salt, ids, at in cache.entries()
    ]


def test_what_is_saved_is_loaded_to_the_bit_and_in_the_same_order(cache, model, tmp_path):
    save(cache, tmp_path / "kept", "key")
    again = StateCache(2**20)
    assert load(again, tmp_path / "kept", "key", model) == 8
    assert as_bytes(again) == as_bytes(cache) and len(again) == 8


def test_a_smaller_cache_gets_the_most_recently_used_states(cache, model, tmp_path):
    save(cache, tmp_path / "kept", "key")
    small = StateCache(cache.n_bytes // 2)
    load(small, tmp_path / "kept", "key", model)
    assert 0 < len(small) < 8 and as_bytes(small) == as_bytes(cache)[-len(small) :]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_other_users_may_not_read_it(cache, tmp_path):
    save(cache, tmp_path / "kept", "key")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o600


def test_states_of_another_model_are_not_used(cache, model, tmp_path):
    save(cache, tmp_path / "kept", "key")
    with pytest.raises(StatesFileError, match="another model"):
        load(StateCache(2**20), tmp_path / "kept", "other", model)


def test_every_kind_of_damage_is_found_and_the_entries_before_it_are_used(cache, model, tmp_path):
    path, rng = tmp_path / "kept", np.random.default_rng(5)
    save(cache, path, "key")
    whole, expected = path.read_bytes(), as_bytes(cache)
    first = whole.index(b"\n") + 1
    for _ in range(200):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if rng.random() < 0.5:
            data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[at:]
            if at == first:
                continue
        path.write_bytes(data)
        found = StateCache(2**20)
        try:
            load(found, path, "key", model)
            assert at < first  # spaces, or an end between two entries
        except StatesFileError:
            pass
        assert as_bytes(found) == expected[: len(found)] and len(found) <= 8


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[" * 5000 + b"\n", b"\xff\xfe\n", b"x" * 20_000])
def test_a_foreign_file_is_refused(data, model, tmp_path):
    (tmp_path / "kept").write_bytes(data)
    with pytest.raises(StatesFileError, match="is not a file of states"):
        load(StateCache(2**20), tmp_path / "kept", "key", model)


def test_a_header_that_announces_gigabytes_takes_no_memory(cache, model, tmp_path):
    save(cache, tmp_path / "kept", "key")
    data = (tmp_path / "kept").read_bytes()
    first = data.index(b"\n") + 1
    (tmp_path / "kept").write_bytes(data[: first + 8] + (2**40).to_bytes(8, "little") + data[first + 16 :])
    with pytest.raises(StatesFileError, match="ends there"):
        load(StateCache(2**20), tmp_path / "kept", "key", model)
