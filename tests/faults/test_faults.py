"""Faults at known moments: killed before each change of a file, in the middle of a write, and full disks.

kill.py does the same at random moments, for a long time.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

sys.path.insert(0, str(Path(__file__).parent))

from jobs import JOBS, OLD, strays  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
CHILD = Path(__file__).parent / "faulty.py"
MANY = 40  # changes of files; every job here has fewer


def play(job, folder, fault, environment=None, watched=None):
    """Run the job in that folder with the fault, there or in `watched`; it must leave all files complete."""
    if job.name in ("convert", "train"):
        pytest.importorskip("torch")
    job.prepare(folder)
    words = [str(word) for word in job.words(folder)]
    program = ["rwkv-np", *words] if words[0].isalpha() else words
    child = subprocess.run(
        [sys.executable, CHILD, fault, watched or folder, *program], cwd=folder, input=job.stdin, capture_output=True,
        text=True, timeout=PATIENCE, env=os.environ | (environment or {}),
    )  # fmt: skip
    job.check(folder, child.stdout, child.stderr)
    assert "Traceback" not in child.stderr, child.stderr
    return child


@pytest.mark.parametrize("name", ["convert", "quantize", "save"])
def test_killed_before_any_change_of_a_file_all_files_are_complete(tmp_path, name):
    n_killed = 0
    for step in range(1, MANY):
        child = play(JOBS[name], tmp_path / str(step), f"kill-at-step:{step}")
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        n_killed += 1
    assert n_killed >= 3  # opened, renamed, and searched under its first name


@pytest.mark.parametrize("name", ["convert", "save"])
@pytest.mark.parametrize("number, code", [("TERM", 143), ("HUP", 129)])
def test_ended_before_the_renaming_leaves_no_incomplete_file(tmp_path, name, number, code):
    child = play(JOBS[name], tmp_path / "work", f"{number}-at-step:2")
    assert child.returncode == code, child.stderr
    assert not strays(tmp_path / "work")


@pytest.mark.parametrize("name, n_bytes", [("convert", 20_000), ("quantize", 9000), ("chat", 3000), ("train", 300)])
def test_killed_in_the_middle_of_a_write_all_files_are_complete(tmp_path, name, n_bytes):
    child = play(JOBS[name], tmp_path / "work", f"kill-at-byte:{n_bytes}")
    assert child.returncode == -signal.SIGXFSZ, child.stderr
    assert strays(tmp_path / "work")  # an unfinished file is there


@pytest.mark.parametrize("name, n_bytes", [("convert", 20_000), ("quantize", 9000), ("chat", 3000), ("save", 3000)])
def test_a_full_disk_is_reported_in_one_line_and_the_old_file_stays(tmp_path, name, n_bytes):
    child = play(JOBS[name], tmp_path / "work", f"full-at-byte:{n_bytes}")
    assert child.returncode == 1
    errors = [line for line in child.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "could not be written: File too large. Free some space" in errors[0]
    assert not strays(tmp_path / "work")
    if name in ("convert", "quantize"):
        assert (tmp_path / "work" / "out.bin").read_bytes() == OLD


def test_a_full_disk_at_the_caches_does_not_end_the_chat(tmp_path):
    job = JOBS["chat"]
    words = [word for word in job.words(tmp_path) if word != "--save"][:-1]
    openings = tmp_path / "cache"
    openings.mkdir()
    from rwkv_np.kernels import cache

    if cache.folder() is not None:  # compiled kernels are cached already, but the opening's state is not
        (openings / cache.folder().name).symlink_to(cache.folder(), target_is_directory=True)
    child = subprocess.run(
        [sys.executable, CHILD, "full-at-byte:1000", tmp_path, "rwkv-np", *map(str, words), "-p", "hello",
         "--system", "You are kind."],
        capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {cache.ENV: str(openings)},
    )  # fmt: skip
    assert child.returncode == 0 and child.stdout and "Traceback" not in child.stderr, child.stderr
    said = [line for line in child.stderr.splitlines() if "The chat continues; the next start reads" in line]
    assert len(said) == 1 and "could not be written: File too large" in said[0]


def test_a_deleted_folder_is_reported_in_one_line(tmp_path):
    script = (
        "import shutil, sys; from rwkv_np.files.output import new_file; from rwkv_np.cli import Command; import click\n"
        "@click.command(cls=Command)\n"
        "def command():\n"
        "    with new_file(sys.argv[1] + '/a') as file:\n"
        "        shutil.rmtree(sys.argv[1]); file.write(b'x')\n"
        "command([])"
    )
    (tmp_path / "gone").mkdir()
    child = subprocess.run([sys.executable, "-c", script, tmp_path / "gone"], capture_output=True, text=True)
    assert child.returncode == 1 and child.stderr.count("\n") == 1
    assert "gone/a: could not be written: No such file or directory" in child.stderr
