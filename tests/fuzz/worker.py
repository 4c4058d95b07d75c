"""The process that opens damaged files, one after another, and says what became of each.

    python worker.py REPORT_FD SECONDS < jobs

It is made to be killed: by a signal, by the clock (SECONDS of processor time a file, whoever else is busy),
or by its own limit of memory. So it says which file it begins before it does, and whoever started it (supervisor.py)
knows which one it had. A job is a line of JSON:

    {"do": "seeds", "folder": ..., "kinds": [...]}                    write the seeds
    {"do": "files", "folder": ..., "kind": ..., "seed": ..., "start": ..., "stop": ...}
    {"do": "open", "folder": ..., "kind": ..., "path": ...}           one file, as it is

Reports are lines too: {"begin": number}, {"number": ..., "verdict": ..., ...}, {"done": true}.
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

LONGEST = 1000  # characters of a line that somebody reads
ROOM = 2**30  # address space beside what the process has once it has opened all seeds: a bomb ends here

Report = dict[str, Any]


def make_file(kind: Kind, folder: Path, seed: int, number: int) -> tuple[str, bytes]:
    """(the name of its seed, the bytes) of a damaged file: they follow from these numbers alone."""
    rng = Random(f"{seed} {kind.name} {number}")
    source = rng.choice(sorted((folder / kind.name).iterdir()))
    data = source.read_bytes()
    try:
        return source.name, kind.edit(data, rng)
    except Exception:  # two edits that do not go together; an hour's run shall not end for that
        return source.name, blind(data, rng)


def place_of(error: BaseException) -> str:
    """Where it was raised: in our code, and in whose that called."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/rwkv_np/" in frame.filename or "/kernels/" in frame.filename]
    shown = [*ours[-1:], *([frames[-1]] if frames and frames[-1:] != ours[-1:] else [])]
    return " > ".join("/".join(frame.filename.split("/")[-3:]) + f":{frame.lineno}" for frame in shown)


def _finding(sort: str, error: BaseException) -> Report:
    name = type(error).__name__
    return {"verdict": "finding", "sort": sort, "error": name, "place": place_of(error), "text": str(error)[:300]}


def _wrong(error: BaseException) -> Report:
    """What openers.py finds: its words tell one from another, and not the place, which is always there."""
    return _finding("wrong", error) | {"place": str(error)[:60]}


def examine(kind: Kind, opener: Any, path: Path) -> Report:
    """What became of the file: refused, accepted, or a finding."""
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
    except SystemError as bad:  # NumPy makes strings of characters that there are not
        return _finding("not one line", bad) | {"place": place_of(error)}
    if len(said) > LONGEST or not is_plain:
        sort = "too long" if len(said) > LONGEST else "not one line"
        return _finding(sort, error) | {"text": repr(said[:300])}
    return {"verdict": "refused", "error": type(error).__name__}


class Memory:
    """The most memory that this process had while it did something. Linux alone tells it."""

    def __init__(self) -> None:
        self.is_known = os.path.exists("/proc/self/clear_refs")

    def _read(self, field: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))

    def begin(self) -> None:
        """Look from now on."""
        if self.is_known:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak begins again from what there is now
            self._before = self._read("VmHWM")

    def growth(self) -> int:
        """Bytes at the peak since then, beside what there was."""
        return self._read("VmHWM") - self._before if self.is_known else 0

    def limit(self) -> None:
        """Let the process ask for no more than ROOM from now on."""
        if self.is_known:
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (self._read("VmSize") + ROOM, hard))

    def unlimit(self) -> None:
        """Let it have what it likes: a new kind may need a new library."""
        if self.is_known:
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


class Worker:
    """Does jobs, and reports to a file."""

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
        """An opener that has opened all seeds of that kind: what is made once is made by then."""
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
        signal.setitimer(signal.ITIMER_PROF, self._limit)  # nobody handles its signal, so that it ends C code as well
        self._memory.begin()
        begin = time.process_time()
        said = examine(kind, opener, path)
        most = 2 * path.stat().st_size + kind.allowed
        if said["verdict"] != "finding" and (growth := self._memory.growth()) > most:
            self._memory.begin()  # some of it may be made once for all files
            said = examine(kind, opener, path)
            if (again := self._memory.growth()) > most:
                text = f"{growth / 1e6:.0f} and {again / 1e6:.0f} MB for {path.stat().st_size} bytes"
                said = {"error": "", "place": ""} | said | {"verdict": "finding", "sort": "memory", "text": text}
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.say({"number": number, "seconds": round(time.process_time() - begin, 3)} | said)


def main() -> None:
    """Do the jobs that come in, until there are no more."""
    report, limit = int(sys.argv[1]), float(sys.argv[2])
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where the seconds ended
    warnings.simplefilter("always")
    with tempfile.TemporaryDirectory(prefix="rwkv-np-fuzz-") as work:
        worker = Worker(report, limit, Path(work))
        for line in sys.stdin:
            worker.do(json.loads(line))


if __name__ == "__main__":
    main()
