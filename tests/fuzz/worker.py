"""The process that opens damaged files, one after another, and reports the result of each.

    python worker.py REPORT_FD SECONDS < jobs

It is expected to be killed: by a signal, by its time limit (SECONDS of its own processor time per file), or by its
memory limit. So it reports which file it begins, and its parent process (supervisor.py) knows which file it had. A
job is one line of JSON:

    {"do": "seeds", "folder": ..., "kinds": [...]}                    write the seeds
    {"do": "files", "folder": ..., "kind": ..., "seed": ..., "start": ..., "stop": ...}
    {"do": "open", "folder": ..., "kind": ..., "path": ...}           one file, unchanged

Reports are also lines: {"begin": number}, {"number": ..., "verdict": ..., ...}, {"done": true}.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import click  # noqa: E402
from kinds import KINDS, Kind  # noqa: E402
from mutations import blind  # noqa: E402

from rwkv_np.errors import RwkvError, one_line  # noqa: E402

LONGEST = 1000  # characters of an acceptable error line
ROOM = 2**30  # extra address space after all seeds were opened: it stops a zip bomb

Report = dict[str, Any]


def make_file(kind: Kind, folder: Path, seed: int, number: int) -> tuple[str, bytes]:
    """(the name of its seed, the bytes) of a damaged file: they depend only on these numbers."""
    rng = Random(f"{seed} {kind.name} {number}")
    source = rng.choice(sorted((folder / kind.name).iterdir()))
    data = source.read_bytes()
    try:
        return source.name, kind.edit(data, rng)
    except Exception:  # two edits do not work together; this must not end an hour's run
        return source.name, blind(data, rng)


def place_of(error: BaseException) -> str:
    """Where the error was raised: in our code, and in the library code that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/rwkv_np/" in frame.filename or "/kernels/" in frame.filename]
    shown = [*ours[-1:], *([frames[-1]] if frames and frames[-1:] != ours[-1:] else [])]
    return " > ".join("/".join(frame.filename.split("/")[-3:]) + f":{frame.lineno}" for frame in shown)


def _finding(sort: str, error: BaseException) -> Report:
    name = type(error).__name__
    return {"verdict": "finding", "sort": sort, "error": name, "place": place_of(error), "text": str(error)[:300]}


def _wrong(error: BaseException) -> Report:
    """A finding of openers.py: distinguished by its text, since its place is always the same."""
    return _finding("wrong", error) | {"place": str(error)[:60]}


def examine(kind: Kind, opener: Any, path: Path) -> Report:
    """The result of a file: refused, accepted, or a finding."""
    seen: list[Report] = []

    def show(message: Warning | str, category: type[Warning], file: str, line: int, *_: Any) -> None:
        where = "/".join(file.split("/")[-3:]) + f":{line}"
        seen.append({"verdict": "finding", "sort": "warning", "error": category.__name__, "place": where,
                     "text": str(message)[:300]})  # fmt: skip

    warnings.showwarning = show  # type: ignore[assignment]
    report = _examine(kind, opener, path)
    return report if report["verdict"] == "finding" or not seen else seen[0]


def _examine(kind: Kind, opener: Any, path: Path) -> Report:
    try:
        opened = kind.open(opener, path)
    except (RwkvError, OSError) as error:
        return _refused(error, one_line(error))
    except click.ClickException as error:
        return _refused(error, error.format_message())
    except BaseException as error:
        return _wrong(error) if type(error).__name__ == "Finding" else _finding("traceback", error)
    try:
        kind.use(opener, opened)
    except BaseException as error:
        return _wrong(error) if type(error).__name__ == "Finding" else _finding("later", error)
    return {"verdict": "accepted"}


def _refused(error: Exception, said: str) -> Report:
    try:
        is_plain = all(character.isprintable() for character in said)
    except SystemError as bad:  # NumPy can make strings of invalid characters
        return _finding("not one line", bad) | {"place": place_of(error)}
    if len(said) > LONGEST or not is_plain:
        sort = "too long" if len(said) > LONGEST else "not one line"
        return _finding(sort, error) | {"text": repr(said[:300])}
    return {"verdict": "refused", "error": type(error).__name__}


class Memory:
    """Measures the peak memory of this process during an operation. Only Linux reports it."""

    def __init__(self) -> None:
        self.is_known = os.path.exists("/proc/self/clear_refs")

    def _read(self, field: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))

    def begin(self) -> None:
        """Start measuring."""
        if self.is_known:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # this resets the peak to the current value
            self._before = self._read("VmHWM")

    def growth(self) -> int:
        """By how many bytes the peak exceeds the memory at the start."""
        return self._read("VmHWM") - self._before if self.is_known else 0

    def limit(self) -> None:
        """Limit the process to ROOM more bytes from now on."""
        if self.is_known:
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (self._read("VmSize") + ROOM, hard))

    def unlimit(self) -> None:
        """Remove the limit: a new kind may need to load a library."""
        if self.is_known:
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


class Worker:
    """Does jobs, and writes reports to a file descriptor."""

    def __init__(self, report: int, limit: float, work: Path) -> None:
        self._limit, self._report, self._work, self._memory = limit, report, work, Memory()
        self._openers: dict[tuple[str, str], Any] = {}

    def say(self, report: Report) -> None:
        """Write a line."""
        os.write(self._report, json.dumps(report).encode() + b"\n")

    def do(self, job: Report) -> None:
        """One job."""
        folder = Path(job["folder"])
        if job["do"] == "seeds":
            self._make_seeds(folder, job["kinds"])
        else:
            kind = KINDS[job["kind"]]
            opener = self._opener(kind, folder)
            if job["do"] == "open":
                self._look_at(kind, opener, 0, Path(job["path"]))
            else:
                for number in range(job["start"], job["stop"]):
                    name, data = make_file(kind, folder, job["seed"], number)
                    path = self._work / f"{number}~{name}"
                    path.write_bytes(data)
                    self._look_at(kind, opener, number, path)
                    path.unlink()
        self.say({"done": True})

    def _make_seeds(self, folder: Path, names: list[str]) -> None:
        for name in names:
            (folder / name).mkdir(parents=True)
            KINDS[name].make_seeds(folder / name)

    def _opener(self, kind: Kind, folder: Path) -> Any:
        """An opener that has opened all seeds of that kind, so that one-time initialization is done."""
        found = self._openers.get((kind.name, str(folder)))
        if found is None:
            self._memory.unlimit()
            found = self._openers[kind.name, str(folder)] = kind.opener(folder / "with", self._work)
            for seed in sorted((folder / kind.name).iterdir()):
                path = self._work / f"seed~{seed.name}"
                path.write_bytes(seed.read_bytes())
                said = examine(kind, found, path)
                assert said["verdict"] == "accepted", f"the seed {seed} of {kind.name} is not accepted: {said}"
            self._memory.limit()
        return found

    def _look_at(self, kind: Kind, opener: Any, number: int, path: Path) -> None:
        self.say({"begin": number})
        signal.setitimer(signal.ITIMER_PROF, self._limit)  # no handler for its signal, so that it also stops C code
        self._memory.begin()
        begin = time.process_time()
        said = examine(kind, opener, path)
        most = 2 * path.stat().st_size + kind.allowed
        if said["verdict"] != "finding" and (growth := self._memory.growth()) > most:
            self._memory.begin()  # a part of the memory may be one-time initialization
            said = examine(kind, opener, path)
            if (again := self._memory.growth()) > most:
                text = f"{growth / 1e6:.0f} and {again / 1e6:.0f} MB for {path.stat().st_size} bytes"
                said = {"error": "", "place": ""} | said | {"verdict": "finding", "sort": "memory", "text": text}
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.say({"number": number, "seconds": round(time.process_time() - begin, 3)} | said)


def main() -> None:
    """Do the incoming jobs until the input ends."""
    report, limit = int(sys.argv[1]), float(sys.argv[2])
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # prints the stack when the time is over
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory(prefix="rwkv-np-fuzz-") as work:
        worker = Worker(report, limit, Path(work))
        for line in sys.stdin:
            worker.do(json.loads(line))


if __name__ == "__main__":
    main()
