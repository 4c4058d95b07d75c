"""A job that is interrupted loses nothing that was answered, and in the end has the bytes of one that was not."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("msgspec")

from test_batch import chat_row, many, read, written  # noqa: E402
from waiting import PATIENCE  # noqa: E402

from rwkv_np import demo  # noqa: E402
from rwkv_np.batch import appended  # noqa: E402
from rwkv_np.batch.appended import AppendedFile, repair  # noqa: E402
from rwkv_np.batch.ids import IdTable  # noqa: E402
from rwkv_np.errors import OutputError  # noqa: E402


def started(requests, answers, *options):
    command = [sys.executable, "-m", "rwkv_np.batch", demo.MODEL, requests, answers, "--threads", "1", *options]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


def finished(*arguments):
    job = started(*arguments)
    said = job.communicate(timeout=PATIENCE)[1]
    assert job.returncode == 0, said
    return said


def wait_for_rows(path, n, job):
    """Wait until the file has `n` lines."""
    end = time.monotonic() + PATIENCE
    while job.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < n):
        assert time.monotonic() < end, "no rows"
        time.sleep(0.002)


def slow(n=40):
    """Requests of some hundred milliseconds."""
    return [chat_row(f"r{i}", f"Tell me a story about {i}.", max_tokens=50, ignore_eos=True) for i in range(n)]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_kill_9_at_random_moments_and_resume_give_the_bytes_of_one_run(tmp_path):
    requests = written(tmp_path / "requests.jsonl", [*slow(), "broken", chat_row("bad", top_p=2)])
    whole, answers = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    finished(requests, whole, "--max-running", 4)
    chance, before = random.Random(3), b""
    for n in (3, 9, 15):
        job = started(requests, answers, "--max-running", 4)
        wait_for_rows(answers, n, job)
        time.sleep(0.05 * chance.random())
        job.kill()
        job.communicate()
        kept = answers.read_bytes()
        assert kept.startswith(before) and kept.count(b"\n") >= n
        before = kept
    assert kept != whole.read_bytes()
    said = finished(requests, answers, "--max-running", 7)
    assert f"{before.count(chr(10).encode())} by earlier starts" in said
    for end in (".jsonl", ".errors.jsonl"):
        assert answers.with_suffix(end).read_bytes() == whole.with_suffix(end).read_bytes()
    assert len(read(answers)) == 40 and sorted(p.suffix for p in tmp_path.iterdir()) == [".job"] * 2 + [".jsonl"] * 5


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_stop_at_once_and_say_how_to_go_on(tmp_path, number, status):
    requests, answers = written(tmp_path / "requests.jsonl", slow(400)), tmp_path / "answers.jsonl"
    job = started(requests, answers, "--max-running", 2)
    wait_for_rows(answers, 2, job)
    job.send_signal(number)
    said = job.communicate(timeout=PATIENCE)[1]
    assert job.returncode == status and "the same command goes on" in said and "Traceback" not in said
    n = len(read(answers))
    # The signal may come between writing a row and counting it.
    assert 2 <= n < 400 and any(f"{counted} answered" in said for counted in (n, n - 1))


def test_a_torn_last_line_is_answered_again(tmp_path, run_cli):
    requests, answers = written(tmp_path / "requests.jsonl", many(6)), tmp_path / "answers.jsonl"
    run_cli("batch", demo.MODEL, requests, answers)
    whole = answers.read_bytes()
    answers.write_bytes(whole[:-30])
    said = run_cli("batch", demo.MODEL, requests, answers).stderr
    assert answers.read_bytes() == whole and "1 answered, 5 by earlier starts" in said


def test_new_requests_are_answered_and_old_answers_stay(tmp_path, run_cli):
    requests, answers = written(tmp_path / "requests.jsonl", many(6)), tmp_path / "answers.jsonl"
    run_cli("batch", demo.MODEL, requests, answers)
    old = read(answers)
    written(requests, [*many(10)[6:], *many(5)])  # five new ones, one left out
    run_cli("batch", demo.MODEL, requests, answers)
    assert [row["custom_id"] for row in read(answers)] == ["r6", "r7", "r8", "r9", "r0", "r1", "r2", "r3", "r4", "r5"]
    assert read(answers)[4:] == old


def test_a_damaged_row_is_named(tmp_path, run_cli):
    requests, answers = written(tmp_path / "requests.jsonl", many(3)), tmp_path / "answers.jsonl"
    run_cli("batch", demo.MODEL, requests, answers)
    answers.write_bytes(answers.read_bytes().replace(b"\n", b"\n\0\0\n", 1))
    assert "line 2 is not a row" in run_cli("batch", demo.MODEL, requests, answers, code=1).stderr


def test_another_jobs_answers_are_not_mixed_in(tmp_path, run_cli, model_fp16):
    rows = [chat_row(f"r{i}", temperature=3) for i in range(3)]
    requests, answers = written(tmp_path / "requests.jsonl", rows), tmp_path / "answers.jsonl"
    run_cli("batch", demo.MODEL, requests, answers)
    whole = answers.read_bytes()
    said = run_cli("batch", demo.MODEL, requests, answers, "--seed", 2, code=1).stderr
    assert "was begun with seed 0, and this start has 2" in said
    assert "was begun with model" in run_cli("batch", model_fp16, requests, answers, "--name", "x", code=1).stderr
    (tmp_path / "answers.jsonl.job").unlink()
    assert "does not say which job" in run_cli("batch", demo.MODEL, requests, answers, code=1).stderr
    assert answers.read_bytes() == whole
    run_cli("batch", demo.MODEL, requests, answers, "--seed", 2, "--overwrite")
    assert answers.read_bytes() != whole


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_two_processes_do_not_write_the_same_answers(tmp_path, run_cli):
    requests, answers = written(tmp_path / "requests.jsonl", slow(400)), tmp_path / "answers.jsonl"
    job = started(requests, answers, "--max-running", 2)
    wait_for_rows(answers, 1, job)
    assert "another process is writing it" in run_cli("batch", demo.MODEL, requests, answers, code=1).stderr
    job.kill()
    job.communicate()


# --- the files


def test_a_full_disk_leaves_whole_lines_and_a_later_start_goes_on(tmp_path, run_cli, monkeypatch):
    requests, answers = written(tmp_path / "requests.jsonl", many(9)), tmp_path / "answers.jsonl"
    run_cli("batch", demo.MODEL, requests, tmp_path / "whole.jsonl")
    room = 1500
    write = os.write

    def writes(file, data):
        nonlocal room
        n = write(file, data[: max(room, 0)])
        room -= len(data)
        if n < len(data) and room < -400:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return n

    monkeypatch.setattr(appended.os, "write", writes)
    said = run_cli("batch", demo.MODEL, requests, answers, code=1).stderr
    monkeypatch.undo()
    assert "Free some space" in said and "the same command goes on" in said
    kept = answers.read_bytes()
    assert kept.endswith(b"}\n") and 0 < len(kept.splitlines()) < 9
    run_cli("batch", demo.MODEL, requests, answers)
    assert answers.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_line_that_does_not_fit_is_removed_again(tmp_path, monkeypatch):
    path = str(tmp_path / "a")
    write, calls = os.write, []

    def writes(file, data):
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:4])

    with AppendedFile(path) as file:
        file.append(b"first")  # in two writes
        monkeypatch.setattr(appended.os, "write", writes)
        with pytest.raises(OutputError, match="Free some space"):
            file.append(b"this is too long")
        monkeypatch.undo()
        file.append(b"last")
    assert (tmp_path / "a").read_bytes() == b"first\nlast\n"


@pytest.mark.parametrize("torn", [b"", b"x", b"x" * 200_000])
def test_repair_keeps_all_whole_lines(tmp_path, torn):
    path = tmp_path / "a"
    for whole in (b"", b"one\n", b"one\n" + b"y" * 70_000 + b"\n"):
        path.write_bytes(whole + torn)
        repair(str(path))
        assert path.read_bytes() == whole
    repair(str(tmp_path / "missing"))


def test_a_million_ids_take_fifty_bytes_each_and_none_is_confused():
    table, n = IdTable(), 30_000
    for i in range(n):
        table.put(f"request-{i}", i)
    table.put("request-5", -1)
    table.put("\0", 7)
    assert len(table) == n + 1 and table.get("request-5") == -1 and table.get("request-30000") is None
    assert all(table.get(f"request-{i}") == i for i in range(6, n)) and table.get("\0") == 7
    assert table.n_bytes <= 70 * n


def test_answers_of_a_finished_job_are_sorted_with_bounded_memory(tmp_path):
    from rwkv_np.batch.rows_file import sort

    path, order = tmp_path / "a", random.Random(1).sample(range(1000), 1000)
    path.write_text("".join(json.dumps({"custom_id": str(i), "response": "é" * (i % 7)}) + "\n" for i in order))
    sort(str(path), lambda row: int(row.custom_id))
    assert [int(row["custom_id"]) for row in read(path)] == list(range(1000))
    before = path.stat().st_ino
    sort(str(path), lambda row: int(row.custom_id))
    assert path.stat().st_ino == before  # it was sorted already
