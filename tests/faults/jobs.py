"""Jobs that can be interrupted, and conditions that their files must meet at any moment.

Nothing that was reported as written may be lost or incomplete: each file is the old one or the new one. A job
gets a folder, says which command to run in it, and checks the files there afterwards.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwkv_np import demo
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.files.format import read_model_file

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden-4v0"
OLD = b"the content of the old file"
LINES = "hello\nhow are you\nwhat is two and two\n"


@dataclass(frozen=True)
class Job:
    """name, the command line for a folder, the input, and the check of (folder, stdout, stderr)."""

    name: str
    words: Callable[[Path], list[object]]
    check: Callable[[Path, str, str], None]
    stdin: str = ""
    old: tuple[str, ...] = ()
    """Files that exist before."""

    def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.old:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(OLD)

    def command(self, folder: Path) -> list[str]:
        """The command line of rwkv-np or of a script, including the interpreter."""
        words = [str(word) for word in self.words(folder)]
        return [sys.executable, "-m", "rwkv_np", *words] if words[0].isalpha() else [sys.executable, *words]


def strays(folder: Path) -> list[str]:
    """Hidden files: leftovers of unfinished writes."""
    return sorted(path.name for path in folder.rglob(".*"))


# --- checks


def _old_or(is_whole: Callable[[Path], bool], path: Path) -> None:
    if path.exists():
        assert path.read_bytes() == OLD or is_whole(path), f"{path.name} is incomplete: {path.stat().st_size} bytes"


def _is_model(path: Path) -> bool:
    return len(read_model_file(path).parameters) > 0  # raises FormatError if the file ends too early


def check_model(folder: Path, stdout: str, stderr: str) -> None:
    path = folder / "out.bin"
    assert path.exists(), "the old file is lost"
    _old_or(_is_model, path)
    if "MB, in" in stdout or "bits per weight" in stdout:
        assert path.read_bytes() != OLD, "reported as written, but the old file is still there"


def n_turns(path: Path) -> int:
    """How many turns a saved conversation has; raises if it is incomplete."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        said = json.loads(archive.read("conversation.json"))
    return len(said["branches"][said["branch"]]["turns"])


def check_chat(folder: Path, stdout: str, stderr: str) -> None:
    """Each answer except the last is followed by a save, before the next one begins."""
    n_answers = stdout.count("\n")
    path = folder / "kept.chat"
    found = n_turns(path) if path.exists() else 0
    assert found >= n_answers - 1, f"{n_answers} answers, {found} in the file"


def check_save(folder: Path, stdout: str, stderr: str) -> None:
    for i in range(3):
        path = folder / f"{i}.chat"
        if path.exists():
            assert n_turns(path) >= 1
        assert path.exists() or f"Saved to {i}.chat" not in stderr, f"{path.name} is lost"


def check_report(folder: Path, stdout: str, stderr: str) -> None:
    out = folder / "report"
    _old_or(lambda path: "report_format" in json.loads(path.read_text()), out / "report.json")
    _old_or(lambda path: path.read_text().endswith("\n"), out / "report.md")
    for path in out.glob("*.png"):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82"), path.name
    if (folder / "base").exists():
        BaseFile(folder / "base")


def check_training(folder: Path, stdout: str, stderr: str) -> None:
    import torch

    for name in ("demo.pth", "demo.resume"):
        if (folder / name).exists():
            torch.load(folder / name, weights_only=True)
    if (folder / "demo.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "demo.jsonl").read_text().splitlines()]
        assert rows, "the log is empty"
    if (folder / "demo.tokenizer.json").exists():
        json.loads((folder / "demo.tokenizer.json").read_text())


# --- the jobs

CHAT = ("chat", demo.MODEL, "--json", "--seed", 1, "--max-tokens", 8, "--threads", 1)

JOBS = {
    job.name: job
    for job in (
        Job(
            "convert", lambda folder: ["convert", GOLDEN / "golden-4v0.pth", folder / "out.bin", "--overwrite"],
            check_model, old=("out.bin",),
        ),
        Job(
            "quantize", lambda folder: ["quantize", GOLDEN / "golden-4v0.FP16.bin", folder / "out.bin", "--overwrite"],
            check_model, old=("out.bin",),
        ),
        Job("chat", lambda folder: [*CHAT, "--save", folder / "kept.chat"], check_chat, LINES),
        Job(
            "save", lambda folder: CHAT, check_save,
            "".join(f"{line}\n/save {i}.chat\n" for i, line in enumerate(LINES.splitlines())),
        ),
        Job(
            "evaluate",
            lambda folder: [
                "evaluate", "--formats", "Q4_1", "--from", demo.MODEL, "--text", ROOT / "README.md", "--limit", 600,
                "--no-timing", "--overwrite", "--out", folder / "report", "--save-base", folder / "base",
            ],
            check_report, old=("report/report.json", "report/report.md"),
        ),
        Job(
            "train", lambda folder: [ROOT / "tests" / "faults" / "train.py", folder / "demo.pth"], check_training,
        ),
    )
}  # fmt: skip
