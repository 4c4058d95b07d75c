"""Open damaged files of every kind, and check that each is refused in one line, or accepted and finite.

    python tests/fuzz/run.py --files 100000 --seed 1              about an hour of one core
    python tests/fuzz/run.py --kinds chat,state --files 5000
    python tests/fuzz/run.py --open chat FINDINGS/chat~17~v4.chat      open one file again

A finding is one of: a signal, five seconds of processor time, a traceback, an error of more than one line, a warning
on the screen, more memory than twice the file plus a fixed allowance (16 MB, or 64 MB if torch opens it), numbers that
are not finite (openers.py says when they must be), or an error after the file was accepted. The first files of each
distinct finding are kept. A number identifies a file: the same seed, kind and number give the same bytes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from supervisor import Broken, Supervisor

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from kinds import ALL, KINDS, Kind  # noqa: E402
from worker import make_file  # noqa: E402

BATCH = 500  # files between two lines of progress
KEPT = 3  # files of each distinct finding

Report = dict[str, Any]


@dataclass
class Count:
    """The results of a kind's files."""

    files: int = 0
    refused: int = 0
    accepted: int = 0
    findings: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        """Count one more file."""
        verdict = report["verdict"]
        self.files += 1
        self.refused += verdict == "refused"
        self.accepted += verdict == "accepted"
        self.findings += verdict == "finding"
        self.seconds += report.get("seconds", 0)
        self.slowest = max(self.slowest, report.get("seconds", 0))
        if verdict == "refused":
            self.errors[report["error"]] += 1


class Findings:
    """Distinct findings: with the same kind, sort, error and place; their first files are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[tuple[str, ...], Report] = {}

    def add(self, kind: Kind, seeds: Path, seed: int, report: Report) -> None:
        """Add a finding; its file is created again."""
        key = tuple(str(part) for part in (kind.name, report["sort"], report["error"], report["place"]))
        entry = self.found.setdefault(key, {"kind": kind.name, **report, "count": 0, "files": []})
        entry["count"] += 1
        if len(entry["files"]) < KEPT:
            name, data = make_file(kind, seeds, seed, report["number"])
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{kind.name}~{report['number']}~{name}"
            path.write_bytes(data)
            entry["files"].append(str(path))
        if entry["count"] == 1:
            print(f"found: {' '.join(key)}", file=sys.stderr)


def numbers(kinds: list[Kind], n_files: int) -> dict[str, int]:
    """How many files each kind gets; at least one."""
    whole = sum(kind.share for kind in kinds)
    return {kind.name: max(1, round(n_files * kind.share / whole)) for kind in kinds}


def fuzz(counts: dict[str, Count], n_files: int, seed: int, folder: Path, findings: Findings, limit: float) -> None:
    """Open `n_files` files of the kinds in `counts`, at most `limit` seconds each; fills `counts` and `findings`."""
    kinds = [KINDS[name] for name in counts]
    begin = time.monotonic()
    with Supervisor(folder, limit) as supervisor:
        supervisor.make_seeds([kind.name for kind in kinds])
        for kind in kinds:
            n = numbers(kinds, n_files)[kind.name]
            for start in range(0, n, BATCH):
                for report in supervisor.files(kind.name, seed, start, min(n, start + BATCH)):
                    counts[kind.name].add(report)
                    if report["verdict"] == "finding":
                        findings.add(kind, folder, seed, report)
                _show_progress(kind.name, counts, time.monotonic() - begin)
        _confirm(supervisor, findings)


def _confirm(supervisor: Supervisor, findings: Findings) -> None:
    """Check whether a file that ended a worker does so alone: an earlier file may have damaged the process."""
    for entry in findings.found.values():
        if entry["sort"] in ("signal", "hang", "blocked"):
            again = supervisor.open(entry["kind"], Path(entry["files"][0]))
            entry["alone"] = again["verdict"] if again["verdict"] != "finding" else again["sort"]


def _show_progress(kind: str, counts: dict[str, Count], seconds: float) -> None:
    n = sum(count.files for count in counts.values())
    found = sum(count.findings for count in counts.values())
    print(f"{n:7} files, {n / seconds:6.1f}/s, {found} findings: {kind}", file=sys.stderr)


def table(counts: dict[str, Count]) -> str:
    """A line for each kind, and the sum."""
    lines = [f"{'kind':18}{'files':>8}{'refused':>9}{'accepted':>9}{'findings':>9}{'files/s':>9}{'slowest':>9}"]
    for name, c in counts.items():
        rate = c.files / c.seconds if c.seconds else 0
        lines.append(f"{name:18}{c.files:8}{c.refused:9}{c.accepted:9}{c.findings:9}{rate:9.0f}{c.slowest:8.2f}s")
    sums = [sum(getattr(c, key) for c in counts.values()) for key in ("files", "refused", "accepted", "findings")]
    return "\n".join([*lines, f"{'all':18}{sums[0]:8}{sums[1]:9}{sums[2]:9}{sums[3]:9}"])


def describe(entry: Report) -> str:
    """The text for a distinct finding, with the command to reproduce it."""
    alone = f" (alone: {entry['alone']})" if "alone" in entry else ""
    return (
        f"{entry['kind']}: {entry['sort']} {entry['error']} x {entry['count']}{alone} at {entry['place'] or '?'}\n"
        f"    {entry['text'].strip()[:200]!r}\n"
        f"    python tests/fuzz/run.py --open {entry['kind']} {entry['files'][0]}"
    )


def _chosen(names: str) -> list[Kind]:
    wanted = ALL if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in KINDS]:
        raise click.BadParameter(f"there is no kind {unknown[0]!r}; there are {', '.join(ALL)}")
    for name in (name for name in wanted if not KINDS[name].is_available):
        print(f"{name} is left out: {KINDS[name].needs} is not installed", file=sys.stderr)
    return [KINDS[name] for name in wanted if KINDS[name].is_available]


def _open_one(kind: Kind, path: Path, folder: Path, limit: float) -> None:
    with Supervisor(folder, limit) as supervisor:
        supervisor.make_seeds([kind.name])
        report = supervisor.open(kind.name, path.resolve())
    print(json.dumps(report, indent=1))
    sys.exit(report["verdict"] == "finding")


@click.command()
@click.option("--kinds", default="all", help=f"Any of: {', '.join(ALL)}.")
@click.option("--files", default=1000, help="Number of files, over all kinds.")
@click.option("--seed", default=1, help="Random seed of the damage.")
@click.option("--keep", default="fuzz-findings", type=click.Path(), help="Folder for the files of findings.")
@click.option("--json", "as_json", is_flag=True, help="Print counts and findings as JSON.")
@click.option("--open", "one", type=(click.Choice(list(KINDS)), click.Path(exists=True)), help="Open only this file.")
@click.option("--limit", default=5.0, help="Seconds of processor time per file.")
def main(
    kinds: str, files: int, seed: int, keep: str, as_json: bool, one: tuple[str, str] | None, limit: float
) -> None:
    """Open damaged files of every kind. The exit status is 1 if there are findings, 2 if the fuzzer itself failed."""
    chosen, folder, broken = _chosen(kinds), Path(tempfile.mkdtemp(prefix="rwkv-np-seeds-")), False
    try:
        if one:
            _open_one(KINDS[one[0]], Path(one[1]), folder, limit)
        findings, counts = Findings(Path(keep)), {kind.name: Count() for kind in chosen}
        fuzz(counts, files, seed, folder, findings, limit)
    except Broken as error:
        print(error, file=sys.stderr)
        broken = True
    finally:
        shutil.rmtree(folder)
    entries = sorted(findings.found.values(), key=lambda entry: -entry["count"])
    if as_json:
        print(json.dumps({"seed": seed, "kinds": {k: vars(c) for k, c in counts.items()}, "findings": entries}))
    else:
        print(table(counts), *map(describe, entries), sep="\n")
    sys.exit(2 if broken else bool(entries))


if __name__ == "__main__":
    main()
