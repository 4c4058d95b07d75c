"""The choice of a path, and the features passed to LLVM, for simulated machines."""

from types import SimpleNamespace

import numba
import pytest
from rwkv_np.kernels import dispatch

# AT_HWCAP of two processors, as reported by Linux: Cortex-A72 (Raspberry Pi 4) and Neoverse-N1.
CORTEX_A72, NEOVERSE_N1 = 0x8FF, 0x119FFB
ASIMDDP = 1 << 20
# What LLVM 22 lists for the host on both.
HOST_FEATURES = "+aes,+crc,+fp-armv8,+neon,-rand,+sha2,-sve"


@pytest.fixture
def pose(monkeypatch):
    """pose(hwcap, features): simulate an aarch64 Linux machine and Numba's features."""

    def pose(hwcap, features=HOST_FEATURES, hwcap2=0, system="Linux", machine="aarch64"):
        auxiliary = {16: hwcap, 26: hwcap2}
        fake = SimpleNamespace(system=lambda: system, machine=lambda: machine)
        monkeypatch.setattr(dispatch, "platform", fake)
        monkeypatch.setattr(dispatch, "_auxiliary", auxiliary.__getitem__)
        monkeypatch.setattr(dispatch, "numba_features", lambda: features)
        dispatch.cpu_features.cache_clear()

    monkeypatch.setattr(numba.config, "CPU_NAME", None)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    dispatch.cpu_features.cache_clear()
    yield pose
    dispatch.cpu_features.cache_clear()


def test_dot_products_that_llvm_does_not_list_are_found_and_passed_to_llvm(pose):
    pose(NEOVERSE_N1)
    assert dispatch.available_paths() == ["generic", "neon"]
    assert dispatch.choose("").path == "neon"
    assert dispatch.target_features("neon") == f"{HOST_FEATURES},+dotprod"
    assert dispatch.target_features("generic") == ""


@pytest.mark.parametrize("hwcap", [CORTEX_A72, NEOVERSE_N1 - ASIMDDP])
def test_without_dot_products_the_generic_path_is_taken(pose, hwcap):
    pose(hwcap)
    assert dispatch.available_paths() == ["generic"]
    assert "dotprod" in dispatch.choose("neon").reason and dispatch.choose("neon").path == "generic"
    assert dispatch.target_features("neon") == ""


def test_a_code_generator_without_a_list_gets_the_features_too(pose):
    pose(0, features="", system="Darwin", machine="arm64")
    assert dispatch.choose("").path == "neon"
    assert dispatch.target_features("neon") == "+dotprod"


def test_features_that_llvm_lists_are_not_repeated(pose):
    pose(NEOVERSE_N1, features="+neon,+dotprod")
    assert dispatch.choose("").path == "neon"
    assert dispatch.target_features("neon") == ""


def test_each_bit_has_its_feature(pose):
    pose(0, hwcap2=1 << 13)
    assert dispatch.system_features() == {"i8mm"}
    pose(ASIMDDP, hwcap2=1 << 14)
    assert dispatch.system_features() == {"bf16", "dotprod"}


@pytest.mark.parametrize(
    ("setting", "value", "features"),
    [("CPU_FEATURES", "+neon", "+neon"), ("CPU_NAME", "cortex-a72", HOST_FEATURES), ("CPU_FEATURES", "", "")],
)
def test_the_users_own_features_win(pose, monkeypatch, setting, value, features):
    monkeypatch.setattr(numba.config, setting, value)
    pose(NEOVERSE_N1, features=features)
    assert dispatch.choose("").path == "generic"
    assert dispatch.target_features("neon") == ""


def test_the_user_can_ask_for_dot_products(pose, monkeypatch):
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+neon,+dotprod")
    pose(CORTEX_A72, features="+neon,+dotprod")
    assert dispatch.choose("").path == "neon"
    assert dispatch.target_features("neon") == ""


def test_features_added_after_the_code_generator_was_made_are_ignored(pose, monkeypatch):
    before = dispatch.numba_features()
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+dotprod,+avx512vnni,+avx512bw,+avx512vl,+f16c")
    assert dispatch.numba_features() == before
    assert dispatch.cpu_features() == {name[1:] for name in before.split(",") if name.startswith("+")}


def test_on_other_systems_only_numbas_list_counts(pose):
    features = "+avx2,+f16c,+fma,-avx512vnni"
    pose(-1, features=features, hwcap2=-1, machine="x86_64")
    assert dispatch.cpu_features() == {"avx2", "f16c", "fma"}
    assert [dispatch.target_features(path) for path in dispatch.PATHS] == len(dispatch.PATHS) * [""]
