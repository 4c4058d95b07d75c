"""Compiled kernels on disk: found again, never run if damaged or if other users could have written them."""

import errno
import logging
import os
import runpy
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest
from rwkv_np.kernels import cache, kept_code, notes, outdated, trust
from rwkv_np.kernels.kept_code import SUFFIX, KeptCode
from waiting import PATIENCE

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes and owners")


def _double(x):
    return 2 * x


def _triple(x):
    return 3 * x


@pytest.fixture(autouse=True)
def said():
    """The lines that were shown; for `say_once`, each test counts as a new process."""
    lines, logger, handler = [], logging.getLogger("rwkv_np"), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    for once in (notes.say_once, kept_code._sweep):
        once.cache_clear()
    yield lines
    logger.removeHandler(handler)


def start(folder, function=_double):
    """Get the function as in a new process: (its result for 21, whether its code was found)."""
    dispatcher = numba.njit(function)
    dispatcher._cache = KeptCode(function, folder)
    return dispatcher(21), sum(dispatcher.stats.cache_hits.values()) == 1


def kept(folder):
    (path,) = folder.glob(f"*{SUFFIX}")
    return path


def test_code_is_found_again(tmp_path, said):
    assert start(tmp_path) == (42, False)
    assert start(tmp_path) == (42, True)
    assert not said and os.listdir(tmp_path) == [kept(tmp_path).name]


def test_the_same_source_in_another_place_has_the_same_code(tmp_path):
    source = "def double(x):\n    return 2 * x\n"
    first, second = (function_in(tmp_path / name, source) for name in ("checkout", "site-packages"))
    changed = function_in(tmp_path / "changed", source + "# more\n")
    (tmp_path / "kept").mkdir()
    assert start(tmp_path / "kept", first) == (42, False)
    assert start(tmp_path / "kept", second) == (42, True)
    assert start(tmp_path / "kept", changed) == (42, False)


def function_in(folder, source):
    """The function `double` of a file with that source."""
    folder.mkdir()
    (folder / "twice.py").write_text(source)
    return runpy.run_path(str(folder / "twice.py"))["double"]


def empty(data):
    return b""


def truncated(data):
    return data[:-1]


def longer(data):
    return data + b"\0"


def flip(place):
    def flipped(data):
        at = place if place >= 0 else len(data) + place
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    flipped.__name__ = f"flipped at {place}"
    return flipped


def numbas_own(data):
    return data[len(kept_code._MAGIC) + kept_code._DIGEST :]


DAMAGES = [empty, truncated, longer, numbas_own, *map(flip, (0, 20, 60, 1000, -1))]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_compiled_again_and_replaced(tmp_path, said, damage):
    start(tmp_path)
    whole = kept(tmp_path).read_bytes()
    kept(tmp_path).write_bytes(damage(whole))
    assert start(tmp_path) == (42, False)
    assert len(said) == 1 and f"{tmp_path}: damaged compiled kernels found" in said[0]
    assert start(tmp_path) == (42, True)
    assert len(said) == 1


def test_a_whole_file_in_the_place_of_another_is_not_taken(tmp_path, said):
    start(tmp_path, _triple)
    other = kept(tmp_path).read_bytes()
    kept(tmp_path).unlink()
    start(tmp_path)
    kept(tmp_path).write_bytes(other)
    assert start(tmp_path) == (42, False) and "damaged" in said[0]


def test_a_pickle_is_not_opened_before_its_checksum_is_right(tmp_path, monkeypatch):
    start(tmp_path)
    kept(tmp_path).write_bytes(kept(tmp_path).read_bytes()[:-1])
    monkeypatch.setattr(kept_code.pickle, "loads", lambda data: pytest.fail("unpickled"))
    assert start(tmp_path) == (42, False)


@posix
@pytest.mark.parametrize("mode", [0o622, 0o602], ids=oct)
def test_a_file_that_others_may_write_is_not_run_but_replaced(tmp_path, said, monkeypatch, mode):
    monkeypatch.setattr(trust, "_is_alone_in", lambda group: False)
    start(tmp_path)
    kept(tmp_path).chmod(mode)
    assert start(tmp_path) == (42, False) and len(said) == 1
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600
    assert start(tmp_path) == (42, True)


@posix
def test_a_file_of_somebody_else_is_not_run(tmp_path, monkeypatch):
    start(tmp_path)
    monkeypatch.setattr(trust, "_trusted", lambda: frozenset({os.geteuid() + 1}))
    assert start(tmp_path) == (42, False)


def test_a_full_disk_only_prevents_caching(tmp_path, said, monkeypatch):
    def no_room(source, destination):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_room)
    assert start(tmp_path) == (42, False) and start(tmp_path, _triple) == (63, False)
    assert len(said) == 1 and "cannot store compiled kernels: No space left on device. Free some space" in said[0]
    assert not os.listdir(tmp_path)


def test_a_deleted_folder_only_prevents_caching(tmp_path, said):
    assert start(tmp_path / "gone") == (42, False)
    assert len(said) == 1 and "cannot store compiled kernels: No such file or directory" in said[0]


@pytest.mark.parametrize("age", [7200, -7200], ids=["old", "of a clock that was ahead"])
def test_files_of_a_killed_process_are_deleted(tmp_path, age):
    dead, alive = tmp_path / "a.nbc.1.part", tmp_path / "b.nbc.2.part"
    dead.touch(), alive.touch()
    os.utime(dead, (time.time() - age,) * 2)
    start(tmp_path)
    assert not dead.exists() and alive.exists()


@pytest.mark.parametrize("when", [0, time.time() + 5 * 365 * 86400], ids=["1970", "the future"])
def test_code_of_a_clock_that_was_wrong_is_found_and_kept(tmp_path, said, when):
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    start(folder)
    os.utime(kept(folder), (when, when))
    assert start(folder) == (42, True)
    assert start(folder, _triple) == (63, False) and len(list(folder.glob(f"*{SUFFIX}"))) == 2
    assert start(folder) == (42, True) and not said


def test_a_folder_of_the_future_does_not_hinder_the_sweeping_of_others(tmp_path):
    ahead, old, new = (tmp_path / (16 * digit) for digit in "012")
    for folder, when in ((ahead, time.time() + 5 * 365 * 86400), (old, 0)):
        folder.mkdir()
        (folder / f"f{SUFFIX}").touch()
        os.utime(folder / f"f{SUFFIX}", (when, when))
    outdated.sweep(new)
    assert ahead.exists() and not old.exists()


def test_a_file_that_another_process_takes_for_a_dead_one_costs_the_keeping_alone(tmp_path, said, monkeypatch):
    """The clock jumped back by a day while it was written."""
    replace = os.replace

    def swept_before(part, path):
        os.utime(part, (time.time() + 86400,) * 2)
        kept_code._sweep.cache_clear()
        kept_code._sweep(tmp_path)
        replace(part, path)

    monkeypatch.setattr(os, "replace", swept_before)
    assert start(tmp_path) == (42, False) and not os.listdir(tmp_path)
    assert len(said) == 1 and "cannot store compiled kernels" in said[0]
    monkeypatch.undo()
    assert start(tmp_path) == (42, False) and start(tmp_path) == (42, True)


# --- the folder


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder in RWKV_NP_CACHE; temporary files have their own folder beside it."""
    monkeypatch.setenv(cache.ENV, str(tmp_path / "up" / "base"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(trust, "_is_alone_in", lambda group: False)
    (tmp_path / "up" / "base").mkdir(parents=True)
    (tmp_path / "up").chmod(0o755), (tmp_path / "up" / "base").chmod(0o755)
    return tmp_path / "up" / "base"


def is_spare(found, base):
    return (base.parents[1] / "tmp").resolve() in found.parents


def test_the_folder_that_is_named_is_made_and_used(base, said):
    assert cache.place("x") == (base / "x").resolve() and (base / "x").is_dir() and not said


@posix
def test_a_new_folder_is_private_whatever_the_umask(base, monkeypatch):
    monkeypatch.setenv(cache.ENV, str(base / "y" / "z"))
    before = os.umask(0)
    try:
        found = cache.place("x")
    finally:
        os.umask(before)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in (found, found.parent, found.parents[1]))


@posix
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777], ids=oct)
def test_a_folder_that_others_may_write_to_is_not_used(base, said, mode):
    (base / "x").mkdir()
    (base / "x").chmod(mode)
    assert is_spare(cache.place("x"), base)
    assert len(said) == 1
    assert f"others may write to {base}/x (chmod go-w {base}/x); " in said[0]
    assert "is used as the cache instead" in said[0]
    cache.place("x")
    assert len(said) == 1


@posix
def test_a_folder_in_one_that_others_may_write_to_is_not_used(base, said):
    base.parent.chmod(0o777)
    assert is_spare(cache.place("x"), base) and f"others may write to {base.parent} (" in said[0]
    assert not (base / "x").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the XDG rules are for Linux")
def test_without_a_name_it_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(cache.ENV)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.place("x") == (tmp_path / "xdg" / "rwkv-np" / "x").resolve()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.place("x") == (tmp_path / "home" / ".cache" / "rwkv-np" / "x").resolve()


@posix
def test_a_sticky_folder_above_is_no_danger(base, said):
    base.parent.chmod(0o1777)
    assert cache.place("x") == (base / "x").resolve() and not said


@posix
def test_a_folder_of_somebody_else_is_not_used(base, said, monkeypatch):
    (base / "x").mkdir()
    real, theirs = Path.stat, (base / "x").resolve()

    def stat_of(path, **options):
        found = real(path, **options)
        return os.stat_result((*found[:4], 12345, *found[5:])) if path == theirs else found

    monkeypatch.setattr(Path, "stat", stat_of)
    assert is_spare(cache.place("x"), base) and f"{base}/x belongs to user 12345 (name a folder of your own" in said[0]


@posix
def test_a_link_to_a_folder_of_others_is_seen_through(base, tmp_path, said):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (base / "x").symlink_to(tmp_path / "open")
    assert is_spare(cache.place("x"), base) and "others may write to" in said[0]


def test_without_a_usable_folder_nothing_is_cached(base, said, monkeypatch):
    base.rmdir()
    base.write_bytes(b"")
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(base))
    assert cache.place("x") is None
    assert len(said) == 1 and "Not a directory" in said[0] and "nothing is cached" in said[0]


def test_a_user_without_a_home_has_the_spare_folder(base, said, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(cache.ENV), monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert is_spare(cache.place("x"), base) and "there is no home folder (name a folder in RWKV_NP_CACHE)" in said[0]


# --- the program


@pytest.fixture
def own_kernels(tmp_path):
    """A copy of the compiled kernels, and the environment that selects it."""
    if cache.folder() is None:
        pytest.skip("no kernels are cached here")
    shutil.copytree(cache.folder(), tmp_path / "cache" / cache.folder().name)
    return tmp_path / "cache" / cache.folder().name, os.environ | {cache.ENV: str(tmp_path / "cache")}


def test_processes_that_start_at_once_with_damaged_kernels_all_answer(tiny_model, own_kernels):
    folder, environment = own_kernels
    command = [sys.executable, "-m", "rwkv_np.chat", str(tiny_model), "-p", "hello", "--max-tokens", "3", "--seed", "1"]

    def answers(n):
        children = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(n)
        ]
        return [(*child.communicate(timeout=PATIENCE), child.returncode) for child in children]

    [(right, _, code)] = answers(1)
    assert code == 0
    (path,) = folder.glob(f"batch.fill-*{SUFFIX}")
    path.write_bytes(b"")
    for out, error, code in answers(3):
        assert (out, code) == (right, 0), error
        assert error.count("damaged") <= 1 and "Traceback" not in error
    assert path.stat().st_size > 1000
    [(out, error, code)] = answers(1)
    assert (out, code) == (right, 0) and "damaged" not in error


# --- folders of other sources


HASHES = [16 * digit for digit in "abc"]


def used(folder, days_ago, *names):
    """A folder with those files, last used that many days ago."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"code")
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - 86400 * days_ago,) * 2)
    return folder


def test_a_new_folder_removes_those_that_nobody_used_for_90_days(base):
    old = used(base / HASHES[0], 91, f"x{SUFFIX}", f"x{SUFFIX}.0123abcd.part"), used(base / HASHES[1], 91)
    young = used(base / HASHES[2], 89, f"x{SUFFIX}")
    read = used(base / (16 * "d"), 200, f"x{SUFFIX}", f"y{SUFFIX}")
    os.utime(read / f"x{SUFFIX}", (time.time(), 0))
    assert cache.place(16 * "e") == base / (16 * "e")
    assert not any(folder.exists() for folder in old)
    assert os.listdir(young) == [f"x{SUFFIX}"] and len(os.listdir(read)) == 2


def test_what_does_not_look_like_a_folder_of_ours_stays(base):
    elsewhere = used(base / "openings", 400, f"x{SUFFIX}")
    foreign = used(base / HASHES[0], 400, f"x{SUFFIX}", "letter.txt")
    (base / HASHES[1]).symlink_to(elsewhere)
    (base / HASHES[2]).write_bytes(b"a file")
    cache.place(16 * "e")
    assert len(os.listdir(foreign)) == 2 and os.listdir(elsewhere) and len(os.listdir(base)) == 5


def test_a_folder_that_is_there_already_removes_nothing(base):
    (base / (16 * "e")).mkdir()
    old = used(base / HASHES[0], 91, f"x{SUFFIX}")
    cache.place(16 * "e"), cache.place("openings")
    assert old.exists()


def test_an_old_folder_that_cannot_be_removed_stops_nothing(base, monkeypatch):
    old = used(base / HASHES[0], 91, f"x{SUFFIX}")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert cache.place(16 * "e") is not None and old.exists()
