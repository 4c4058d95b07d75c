"""The one line of progress: in a terminal written over, in a log a new line every half minute."""

import itertools

import pytest

from rwkv_np.cli import progress
from rwkv_np.cli.progress import ByteLine, byte_progress


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock is 10 s after the last one."""
    ticks = itertools.count(0, 10.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.fixture
def terminal(monkeypatch):
    """Stderr can be drawn on, 60 columns wide; returns what was drawn."""
    drawn = []
    monkeypatch.setattr(progress, "is_drawable", lambda stream: True)
    monkeypatch.setattr(progress, "columns", lambda stream: 60)
    monkeypatch.setattr(progress, "write_over", drawn.append)
    return drawn


def test_a_log_gets_a_line_every_half_minute(clock, capsys):
    line = ByteLine("Downloading")
    for done in range(100, 1001, 100):
        line("a.pth", done * 10**6, 1000 * 10**6)
    assert capsys.readouterr().err.splitlines() == [
        "Downloading  30 %  300 of 1,000 MB, 10.0 MB/s, 1:10 left  a.pth",
        "Downloading  60 %  600 of 1,000 MB, 10.0 MB/s, 0:40 left  a.pth",
        "Downloading  90 %  900 of 1,000 MB, 10.0 MB/s, 0:10 left  a.pth",
    ]


def test_what_an_earlier_run_has_downloaded_does_not_count_as_speed(clock, terminal):
    line = ByteLine("Downloading")
    for done in (900, 910):
        line("a.pth", done * 10**6, 1000 * 10**6)
    assert terminal[-1].startswith("Downloading [##################--]  91 %  910 of 1,000 MB")
    assert len(terminal[-1]) == 59
    assert line._rate(line._start + 10, 910 * 10**6) == 10**6


def test_the_line_is_gone_at_the_end_and_after_an_error(terminal):
    with byte_progress("Converting") as show:
        show("emb.weight", 1, 2)
        show("head.weight", 2, 2)
    assert terminal[-1] == ""
    terminal.clear()
    with pytest.raises(OSError), byte_progress("Converting") as show:
        show("emb.weight", 1, 2)
        raise OSError
    assert len(terminal) == 2 and terminal[0].startswith("Converting [") and terminal[-1] == ""


def test_work_that_follows_has_its_own_speed(clock, terminal, monkeypatch):
    monkeypatch.setattr(progress, "columns", lambda stream: 200)
    line = ByteLine("Downloading")
    for text, done in (("a", 0), ("a", 500), ("a, checking", 100), ("a, checking", 300)):
        line(text, done * 10**6, 1000 * 10**6)
    assert "50.0 MB/s" in terminal[1] and "MB/s" not in terminal[2] and "20.0 MB/s, 0:35 left" in terminal[3]
