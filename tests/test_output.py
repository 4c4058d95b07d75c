"""A file is written completely or not at all, and a bad destination is reported before the work."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from make_checkpoint import make_checkpoint
from shapes import checkpoint_shapes
from waiting import PATIENCE, until_written

from rwkv_np.cli.convert import command
from rwkv_np.errors import OutputError
from rwkv_np.files import output
from rwkv_np.files.output import check_destination, new_file

ROOT = Path(__file__).parents[1]
CHECKPOINT = Path(__file__).parent / "data" / "golden-4v0" / "golden-4v0.pth"

Usage = namedtuple("Usage", "total used free")


def write(path, data=b"new", **options):
    with new_file(path, **options) as file:
        file.write(data)


def test_a_new_file_holds_what_was_written(tmp_path):
    write(tmp_path / "a.bin", durable=True)
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_nothing_stands_at_the_place_before_the_end(tmp_path):
    with new_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        assert not (tmp_path / "a.bin").exists()


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(OutputError, match="a.bin: already exists; use --overwrite"):
        write(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_an_existing_file_is_replaced_with_overwrite(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"older and longer")
    write(tmp_path / "a.bin", overwrite=True)
    assert (tmp_path / "a.bin").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_while_writing_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(error), new_file(tmp_path / "a.bin", overwrite=True) as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_two_writers_of_one_place_do_not_disturb_each_other(tmp_path):
    with new_file(tmp_path / "a.bin", overwrite=True) as first:
        first.write(b"first")
        write(tmp_path / "a.bin", b"second")
    assert (tmp_path / "a.bin").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.bin"]


WRITE_FOR_EVER = """
    import sys, time
    from rwkv_np.files.output import new_file

    with new_file(sys.argv[1], overwrite=True) as file:
        file.write(b"x" * 10**7)
        file.flush()
        time.sleep(1000)
"""


@contextmanager
def writer(path):
    """Another process that has written a part of `path`."""
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITE_FOR_EVER), path], cwd=ROOT)
    try:
        until_written(child, path.parent, f".{path.name}.*.part", 10**6)
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be deleted here")
@pytest.mark.parametrize("name", ["a.bin", "b.bin"])
def test_the_part_of_a_killed_process_is_deleted_by_the_next_that_writes_into_the_folder(tmp_path, name):
    with writer(tmp_path / "a.bin") as child:
        child.kill()
        child.wait()
        assert len(list(tmp_path.glob(".*.part"))) == 1
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be deleted here")
def test_the_part_of_a_living_process_is_left_alone(tmp_path):
    with writer(tmp_path / "a.bin"):
        write(tmp_path / "a.bin", overwrite=True)
        write(tmp_path / "b.bin")
        assert len(list(tmp_path.glob(".a.bin.*.part"))) == 1


def test_a_part_that_is_complete_and_not_yet_renamed_is_left_alone(tmp_path, monkeypatch):
    replace = os.replace

    def meanwhile(part, place):
        if str(place).endswith("a.bin"):
            write(tmp_path / "b.bin")
        replace(part, place)

    monkeypatch.setattr(os, "replace", meanwhile)
    write(tmp_path / "a.bin")
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin"]


def test_a_part_that_is_taken_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = output._lock, []

    def after_another(file):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(output, "_lock", after_another)
    write(tmp_path / "a.bin")
    assert taken and (tmp_path / "a.bin").read_bytes() == b"new"


def test_files_of_others_are_not_swept(tmp_path):
    names = [".a.bin.0123abcd.part", "a.bin.0123abcd.rwkv.part", ".a.bin.0123.rwkv.part", "film.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    write(tmp_path / "a.bin")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "a.bin"])


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be deleted here")
def test_room_that_a_dead_process_took_counts_as_free(tmp_path, monkeypatch):
    part = tmp_path / ".a.bin.01234567.rwkv.part"
    part.write_bytes(b"x")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 0, 0 if part.exists() else 100))
    check_destination(tmp_path / "a.bin", None, overwrite=False, n_bytes=100)


def test_a_name_without_a_folder_is_written_where_the_process_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.bin")
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.bin").write_bytes(b"old")
    (tmp_path / "a.bin").symlink_to(Path("disk") / "real.bin")
    write(tmp_path / "a.bin", overwrite=True)
    assert (tmp_path / "a.bin").is_symlink()
    assert (tmp_path / "disk" / "real.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path / "disk") == ["real.bin"]


def test_a_link_to_nothing_yet_is_written_through(tmp_path):
    (tmp_path / "a.bin").symlink_to("real.bin")
    write(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a.bin")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o666 & ~umask


def same(path):
    return path


def symlink(path):
    link = path.with_name("link")
    link.symlink_to(path)
    return link


def hard_link(path):
    link = path.with_name("link")
    os.link(path, link)
    return link


def roundabout(path):
    (path.parent / "folder").mkdir()
    return path.parent / "folder" / ".." / path.name


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("another_name", [same, symlink, hard_link, roundabout])
def test_the_source_is_never_the_destination(tmp_path, another_name, overwrite):
    source = tmp_path / "model.pth"
    shutil.copy(CHECKPOINT, source)
    destination = another_name(source)
    result = CliRunner().invoke(command, [str(source), str(destination), *["--overwrite"] * overwrite])
    assert result.exit_code == 1
    assert "is the source file itself; choose another destination" in result.stderr
    assert source.read_bytes() == CHECKPOINT.read_bytes()


def test_a_folder_is_not_a_destination(tmp_path):
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        check_destination(tmp_path, None, overwrite=True)


def test_a_pipe_is_not_a_destination(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is not a regular file"):
        check_destination(tmp_path / "pipe", None, overwrite=True)


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(OutputError, match=re.escape(f"does not exist; create it: mkdir -p {tmp_path}/x/y")):
        check_destination(tmp_path / "x" / "y" / "a.bin", None, overwrite=False)


def test_the_command_that_makes_a_folder_is_quoted_for_the_shell(tmp_path):
    folder = tmp_path / "it's new; rm x"
    with pytest.raises(OutputError) as error:
        check_destination(folder / "a.bin", None, overwrite=False)
    subprocess.run(error.value.problem.partition("create it: ")[2], shell=True, check=True)
    assert os.listdir(tmp_path) == [folder.name]


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OutputError, match=re.escape(f"the folder {tmp_path}/x does not exist")):
        check_destination(tmp_path / "x" / "a.bin", None, overwrite=False)


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match=re.escape(f"the folder {tmp_path} is not writable")):
        check_destination(tmp_path / "a.bin", None, overwrite=False)


def test_a_disk_that_is_too_small_is_reported_with_both_sizes_before_the_work(tmp_path, monkeypatch):
    n_bytes = (CHECKPOINT.parent / "golden-4v0.FP16.bin").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, n_bytes - 1))
    result = CliRunner().invoke(command, [str(CHECKPOINT), str(tmp_path / "a.bin")])
    assert result.exit_code == 1
    assert f"needs {n_bytes:,} bytes, and the disk has {n_bytes - 1:,} free" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_just_large_enough_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, 100))
    check_destination(tmp_path / "a.bin", None, overwrite=False, n_bytes=100)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_while_writing_is_our_error_and_the_old_file_stays(tmp_path, code):
    (tmp_path / "a.bin").write_bytes(b"old")
    message = f"could not be written: {os.strerror(code)}"
    with pytest.raises(OutputError, match=message), new_file(tmp_path / "a.bin", overwrite=True):
        raise OSError(code, os.strerror(code))
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name != "posix", reason="a file size limit simulates the full disk")
def test_a_disk_that_fills_up_in_the_middle_of_a_conversion_leaves_nothing(tmp_path):
    script = """
        import resource, signal, sys
        from rwkv_np.cli.convert import command

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        command(sys.argv[1:])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), CHECKPOINT, tmp_path / "a.bin"],
        capture_output=True, check=False, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "could not be written: File too large. Free some space, or write elsewhere" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory):
    """330 MB: converting it takes long enough for a signal to arrive in time."""
    path = tmp_path_factory.mktemp("large") / "model.pth"
    make_checkpoint(path, checkpoint_shapes(2, 1024, 60_000))
    yield path
    path.unlink()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_signal_in_the_middle_of_a_conversion_leaves_the_old_file_alone(tmp_path, large_checkpoint, signum, code):
    destination = tmp_path / "a.bin"
    destination.write_bytes(b"old")
    child = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "convert.py", large_checkpoint, destination, "FP32", "--overwrite"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until_written(child, tmp_path, ".*.part", 10**6)
    child.send_signal(signum)
    _, stderr = child.communicate(timeout=PATIENCE)
    assert child.returncode == code
    assert "Traceback" not in stderr
    assert destination.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_temporary_name_lies_beside_the_destination(tmp_path):
    """Otherwise the last step would be a copy between disks, which can fail in the middle."""
    with new_file(tmp_path / "a.bin") as file:
        assert Path(file.name).parent == tmp_path
