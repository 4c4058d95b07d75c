"""A batch job and a corpus on a Ray cluster of one node: the bytes of this machine.

What can happen to several nodes is in tests/faults/ray_kill.py.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("msgspec")
pytest.importorskip("ray")

from test_batch import many, written  # noqa: E402
from waiting import PATIENCE  # noqa: E402

from rwkv_np import demo  # noqa: E402

ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}


def rwkv_np(*arguments):
    command = [sys.executable, "-m", "rwkv_np", *map(str, arguments), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done


def test_a_job_on_a_cluster_has_the_bytes_of_this_machine(tmp_path):
    requests = written(tmp_path / "requests.jsonl", [*many(30), "broken", many(1)[0]])
    rwkv_np("batch", demo.MODEL, requests, tmp_path / "here.jsonl")
    said = rwkv_np("batch", demo.MODEL, requests, tmp_path / "ray.jsonl", "--ray", "--address", "local")
    assert ": ready" in said.stderr and said.stdout == ""
    for end in (".jsonl", ".errors.jsonl"):
        assert (tmp_path / f"ray{end}").read_bytes() == (tmp_path / f"here{end}").read_bytes()


def test_a_corpus_on_a_cluster_has_the_figures_of_this_machine(tmp_path):
    (tmp_path / "corpus").mkdir()
    for i in range(4):
        (tmp_path / "corpus" / f"{i}.txt").write_text(f"The walrus has {i} oysters. " * (5 + i))
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"\xff")
    words = ("evaluate", demo.MODEL, "--text", tmp_path / "corpus", "--json")
    here, there = rwkv_np(*words), rwkv_np(*words, "--ray", "--address", "local")
    assert there.stdout == here.stdout and len(json.loads(here.stdout)["files"]) == 5


def test_no_cluster_is_an_error_of_one_line(tmp_path):
    requests = written(tmp_path / "requests.jsonl", many(1))
    command = [sys.executable, "-m", "rwkv_np.batch", demo.MODEL, requests, tmp_path / "a", "--ray"]
    done = subprocess.run(
        [*map(str, command), "--address", "127.0.0.1:1"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "Error: there is no Ray cluster at 127.0.0.1:1"
    )
