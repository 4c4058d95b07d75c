"""Start workers and give them jobs; if a worker ends too early, report which file it was opening.

Time is processor time, measured by the worker itself (worker.py): a busy machine makes no file slow. This module
only notices a process that waits for something that never comes, after a minute without progress.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
WAITS = 120  # checks of half a second each without output and almost without processor time
LIFE = 5000  # files per worker, so that memory it leaked or overwrote is not blamed on later files

Report = dict[str, Any]


class Broken(Exception):
    """A worker ended while it had no file: the fuzzer itself, or a seed, is wrong."""


class Supervisor:
    """One worker at a time; `folder` contains the seeds, `limit` is the maximum of seconds per file."""

    def __init__(self, folder: Path, limit: float) -> None:
        self._folder, self._limit = folder, limit
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (closed with the supervisor)
        self._n_files = 0

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stderr.close()

    def stop(self) -> None:
        """Stop the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            os.close(self._reader)
            self._process = None

    def make_seeds(self, kinds: list[str]) -> None:
        """Write the seeds of those kinds."""
        for _ in self._do({"do": "seeds", "kinds": kinds}):
            pass

    def files(self, kind: str, seed: int, start: int, stop: int) -> Iterator[Report]:
        """The results of those files. A worker that ends is replaced, and the next one continues after its file."""
        while start < stop:
            for report in self._do({"do": "files", "kind": kind, "seed": seed, "start": start, "stop": stop}):
                if "verdict" in report:
                    start = report["number"] + 1
                    self._n_files += 1
                    yield report
        if self._n_files >= LIFE:
            self.stop()

    def open(self, kind: str, path: Path) -> Report:
        """The result of one file, in a new process."""
        self.stop()
        (report,) = [r for r in self._do({"do": "open", "kind": kind, "path": str(path)}) if "verdict" in r]
        self.stop()
        return report

    def _start(self) -> subprocess.Popen[bytes]:
        self._reader, writer = os.pipe()
        # Freed memory is overwritten, so that a read after free gives wrong values.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RWKV_NP_T")}
        environment |= {"MALLOC_PERTURB_": "165", "RWKV_NP_CONFIG": os.devnull, "OMP_NUM_THREADS": "2"}
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(writer), str(self._limit)], env=environment, pass_fds=[writer],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._stderr,
        )  # fmt: skip
        os.close(writer)
        self._n_files, self._buffer = 0, b""
        return process

    def _do(self, job: Report) -> Iterator[Report]:
        """The reports of a job; the last one reports the end of the job or of the worker."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        self._stderr.truncate(0)
        process.stdin.write(json.dumps(job | {"folder": str(self._folder)}).encode() + b"\n")
        process.stdin.flush()
        number = None
        for line in self._lines(process):
            report = json.loads(line)
            if report.get("done"):
                return
            number = report.get("begin")
            yield report
        yield self._death(process, number, job)

    def _death(self, process: subprocess.Popen[bytes], number: int | None, job: Report) -> Report:
        status = process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace")
        self.stop()
        if number is None:
            raise Broken(f"a worker ended with status {status} while it had no file ({job}):\n{said[-3000:]}")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        sort = "hang" if status == -signal.SIGPROF else "blocked" if status == -signal.SIGKILL else "signal"
        return {
            "number": number, "verdict": "finding", "sort": sort, "error": name, "place": _place(said),
            "text": said[-300:].strip(),
        }  # fmt: skip

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """Lines of reports, until the worker closes its end or hangs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            waits, before = 0, 0.0
            while True:
                if not selector.select(0.5):
                    spent = _processor_seconds(process.pid)
                    waits, before = (waits + 1 if spent - before < 0.1 else 0), spent
                    if waits > WAITS:
                        process.kill()
                        return
                    continue
                waits = 0
                if not (data := os.read(self._reader, 2**16)):
                    return
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                yield from lines


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _place(said: str) -> str:
    """The innermost lines of our code in faulthandler's output."""
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith('File "')]
    ours = [line for line in lines if "rwkv_np" in line or "kernels" in line]
    return " > ".join("/".join(line.removeprefix('File "').split("/")[-3:]) for line in [*ours[:1], *lines[:1]])
