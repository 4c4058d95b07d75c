"""A short run of the server's soak. The long one: python tests/serve_soak.py --requests 10000."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the server's memory from /proc")


def test_answers_survive_hang_ups_broken_bodies_and_slow_readers():
    script = Path(__file__).with_name("serve_soak.py")
    # So few requests say nothing about memory.
    command = [sys.executable, str(script), "--requests", "120", "--known", "15", "--growth", "1.5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["n_problems"] == 0 and found["busy_at_the_end"] == 0
    assert found["requests"]["whole"] > 40 and found["requests"]["hang up"] > 5
