"""A few damaged files of every kind; and the fuzzer itself, whose long run is started by hand:

python tests/fuzz/run.py --files 100000
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker's timer signal is not on Windows")

RUN = Path(__file__).parent / "fuzz" / "run.py"


def fuzz(tmp_path, *arguments):
    command = [sys.executable, str(RUN), "--keep", str(tmp_path / "kept"), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode


def test_damaged_files_of_every_kind_are_refused_in_one_line_or_accepted_and_finite(tmp_path):
    found, status = fuzz(tmp_path, "--files", "500")
    assert [{**entry, "files": entry["files"][:1]} for entry in found["findings"]] == []
    assert status == 0 and all(count["files"] for count in found["kinds"].values())
    assert sum(count["files"] for count in found["kinds"].values()) >= 490
    for verdict in ("refused", "accepted"):
        assert sum(count[verdict] for count in found["kinds"].values()) > 100


def test_every_failure_is_found_and_the_next_file_is_still_opened(tmp_path):
    found, status = fuzz(tmp_path, "--kinds", "planted", "--files", "24", "--limit", "0.3")
    (count,) = found["kinds"].values()
    assert status == 1 and count["files"] == 24 == count["refused"] + count["accepted"] + count["findings"]
    sorts = {(entry["sort"], entry["error"]): entry for entry in found["findings"]}
    assert set(sorts) == {
        ("signal", "SIGSEGV"), ("hang", "SIGPROF"), ("traceback", "IndexError"), ("traceback", "MemoryError"),
        ("traceback", "SystemExit"), ("not one line", "ClickException"), ("too long", "ClickException"), ("memory", ""),
        ("warning", "RuntimeWarning"), ("later", "InputError"),
    } - (set() if sys.platform == "linux" else {("memory", ""), ("traceback", "MemoryError")})  # fmt: skip
    assert "string_at" in sorts["signal", "SIGSEGV"]["place"] and sorts["hang", "SIGPROF"]["alone"] == "hang"
    said = {sort: Path(entry["files"][0]).read_bytes() for (sort, _), entry in sorts.items()}
    assert said["signal"] == b"signal" and said["hang"] == b"hang" and said["later"] == b"later"


def test_a_finding_can_be_opened_again_by_its_file(tmp_path):
    (tmp_path / "planted~1~file").write_bytes(b"traceback")
    (tmp_path / "planted~2~file").write_bytes(b"refused")
    for number, verdict in ((1, "finding"), (2, "refused")):
        path = str(tmp_path / f"planted~{number}~file")
        done = subprocess.run([sys.executable, str(RUN), "--open", "planted", path], capture_output=True, text=True)
        assert json.loads(done.stdout)["verdict"] == verdict and done.returncode == (verdict == "finding")
