"""Failing places: read-only folders, folders that disappear, and clocks that jump."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_parameters, write_model

sys.path.insert(0, str(Path(__file__).parent))

from jobs import JOBS, OLD, Job, strays  # noqa: E402
from rwkv_np.kernels import cache  # noqa: E402
from test_faults import play  # noqa: E402

from rwkv_np.chat import opening_cache  # noqa: E402
from rwkv_np.chat.opening_cache import OpeningCache  # noqa: E402
from rwkv_np.files.output import new_file  # noqa: E402
from rwkv_np.models import load  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file modes")
WRITERS = ["convert", "quantize", "chat", "evaluate"]
FUTURE = time.time() + 5 * 365 * 86400


def errors(child):
    return [line for line in child.stderr.splitlines() if line.startswith("Error: ")]


@pytest.fixture
def read_only(tmp_path):
    """Make the folder of a prepared job read-only."""
    folders = []

    def make(job):
        job.prepare(tmp_path / "work")
        folders[:] = [path for path in (tmp_path / "work", tmp_path / "work" / "report") if path.exists()]
        for path in folders:
            path.chmod(0o555)
        return folders[0]

    yield make
    for path in folders:
        path.chmod(0o755)


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder_is_reported_in_one_line_before_the_work(read_only, name):
    job = JOBS[name]
    folder = read_only(job)
    child = play(replace(job, old=()), folder, "no-override")
    assert child.returncode == 1 and child.stdout == ""
    assert len(errors(child)) == 1 and "is not writable" in errors(child)[0], child.stderr
    for old in job.old:
        assert (folder / old).read_bytes() == OLD


def test_a_failed_save_is_reported_in_one_line(read_only):
    child = play(JOBS["save"], read_only(JOBS["save"]), "no-override")
    assert child.returncode == 1 and len(errors(child)) == 1 and "is not writable" in errors(child)[0]


@pytest.mark.parametrize("name", [*WRITERS, "save"])
def test_a_folder_deleted_during_the_work_is_reported_in_one_line(tmp_path, name):
    """The folder disappears before a file is opened in it, or before the new file is renamed."""
    for step in (1, 2):
        job = replace(JOBS[name], check=lambda *_: None)
        child = play(job, tmp_path / str(step), f"gone-at-step:{step}")
        assert child.returncode == 1, child.stderr
        assert len(errors(child)) == 1 and "No such file or directory" in errors(child)[0], child.stderr


# --- clocks


@pytest.mark.parametrize("when", [0, FUTURE], ids=["1970", "the future"])
def test_an_abandoned_part_is_deleted_whatever_its_time(tmp_path, when):
    part = tmp_path / ".a.bin.0123abcd.rwkv.part"
    part.write_bytes(b"half")
    os.utime(part, (when, when))
    with new_file(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole" and not strays(tmp_path)


@pytest.mark.parametrize("name", ["quantize", "chat", "save"])
@pytest.mark.parametrize("step", [2, 4])
def test_a_clock_that_jumps_back_between_two_changes_of_files_changes_nothing(tmp_path, name, step):
    """The second change is a file's renaming, the third looks for it; the fourth begins another, if the job has one."""
    child = play(JOBS[name], tmp_path / "work", f"clock-at-step:{step}")
    assert child.returncode == 0 and not errors(child) and not strays(tmp_path / "work"), child.stderr


KERNEL = """
from rwkv_np.kernels.cache import jit

@jit()
def double(x):
    return 2 * x

print(double(21), sum(double.stats.cache_hits.values()))
"""


def test_a_kernel_whose_writing_was_killed_is_compiled_again_and_its_rest_is_swept(tmp_path):
    """The first change in the cache is the opening of a file, the second its renaming."""
    kernels, script = tmp_path / "cache", tmp_path / "kernel.py"
    script.write_text(KERNEL)
    job = Job("kernel", lambda folder: [script], lambda *_: None)

    def start(fault):
        return play(job, tmp_path / "work", fault, {cache.ENV: str(kernels)}, watched=kernels)

    assert start("kill-at-step:2").returncode == -signal.SIGKILL
    (part,) = kernels.rglob("*.part")
    assert not list(kernels.rglob("*.nbc"))
    os.utime(part, (0, 0))
    assert start("kill-at-step:1000").stdout == "42 0\n" and not list(kernels.rglob("*.part"))
    assert start("kill-at-step:1").stdout == "42 1\n"  # it was kept, and nothing changes


@pytest.mark.parametrize("when", [0, FUTURE], ids=["1970", "the future"])
def test_states_of_a_clock_that_was_wrong_do_not_push_out_new_ones(tmp_path, monkeypatch, when):
    model = load(write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(0))))
    openings, state = OpeningCache(tmp_path, "key", model.config), model.initial_state()
    openings.put([1], state)
    (old,) = tmp_path.glob("*.state")
    monkeypatch.setattr(opening_cache, "BUDGET", old.stat().st_size * 3 // 2)
    os.utime(old, (when, when))
    assert openings.get([1]) is not None  # when used, it gets the current time
    os.utime(old, (when, when))
    openings.put([2], state)
    assert openings.get([2]) is not None and openings.get([1]) is None
