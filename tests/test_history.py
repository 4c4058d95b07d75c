"""The input history: stored between sessions, and never a reason for the chat to end."""

import asyncio
import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from rwkv_np.chat.editor import Editor, KeptHistory


def lines(history):
    async def collect():
        return [line async for line in history.load()]

    return asyncio.run(collect())


def test_lines_are_there_at_the_next_sitting(tmp_path):
    history = KeptHistory(tmp_path / "state" / "history")
    history.append_string("first"), history.append_string("two\nlines")
    assert lines(KeptHistory(tmp_path / "state" / "history")) == ["two\nlines", "first"]
    assert history.problem is None


def test_a_full_disk_leaves_the_lines_of_this_sitting(tmp_path, monkeypatch):
    history = KeptHistory(tmp_path / "history")
    lines(history)

    def no_room(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", no_room)
    history.append_string("said")
    assert history.get_strings() == ["said"]
    assert history.problem == f"{tmp_path}/history: No space left on device"


@pytest.mark.parametrize("break_it", ["vanish", "folder", "pipe"])
def test_what_is_no_file_is_not_read_and_not_written(tmp_path, break_it):
    path = tmp_path / "state" / "history"
    path.parent.mkdir()
    {"vanish": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[break_it]()
    history = KeptHistory(path)
    if break_it == "vanish":
        shutil.rmtree(path.parent)
    assert lines(history) == []
    history.append_string("said")
    assert history.problem.startswith(f"{path}: ")


def test_it_is_said_once_after_the_line(tmp_path):
    editor, notes = Editor.__new__(Editor), []
    editor._has_said_problem = False
    editor._session = SimpleNamespace(screen=SimpleNamespace(note=notes.append))
    editor._prompt = SimpleNamespace(history=SimpleNamespace(problem="/x/history: No space left on device"))
    editor._say_problem(), editor._say_problem()
    assert notes == ["/x/history: No space left on device. The input history is kept for this session only"]
