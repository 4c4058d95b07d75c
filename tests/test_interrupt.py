"""Ctrl-C before a command starts, while Python still imports libraries."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
ROOT = Path(__file__).parents[1]
# Python imports this file at its start. It sends Ctrl-C in the middle of the import of a library.
SITE = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def pressed(tmp_path):
    """How a command ends if Ctrl-C is pressed while it imports a library."""

    def run(command, name):
        (tmp_path / "sitecustomize.py").write_text(SITE.format(name=name))
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path,
            stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(tmp_path)},
            # Background processes ignore Ctrl-C; this one must not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    return run


PROGRAMS = {
    "-m rwkv_np": ["-m", "rwkv_np", "info"],
    "-m rwkv_np.chat": ["-m", "rwkv_np.chat", "-p", "x"],
    "-m rwkv_np.serve": ["-m", "rwkv_np.serve", "--port", "0"],
    "rwkv-np": ["{folder}/rwkv-np", "info"],
    "convert": [ROOT / "tools" / "convert.py", "a.pth", "b.bin"],
    "quantize": [ROOT / "tools" / "quantize.py", "a.bin", "b.bin"],
    "evaluate": [ROOT / "tools" / "evaluate.py", "a.bin"],
}


@pytest.mark.parametrize("name", ["numpy", "click", "rwkv_np.models"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_libraries_are_imported_leaves_with_130_and_no_traceback(pressed, tmp_path, program, name):
    (tmp_path / "rwkv-np").write_text("from rwkv_np.cli import main\nmain()\n")
    child = pressed([str(word).format(folder=tmp_path) for word in PROGRAMS[program]], name)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "")


@pytest.mark.parametrize("name", ["numba", "rwkv_np.kernels.cache"])
def test_ctrl_c_while_a_command_imports_more_does_too(pressed, name):
    child = pressed(["-m", "rwkv_np", "chat", "-p", "x"], name)
    assert (child.returncode, child.stdout) == (130, "") and "Traceback" not in child.stderr


def test_ctrl_c_in_another_program_that_imports_the_package_stays_a_keyboard_interrupt(pressed):
    code = "\ntry:\n    import rwkv_np\nexcept KeyboardInterrupt:\n    print('caught')\n"
    assert pressed(["-c", code], "rwkv_np.models").stdout == "caught\n"
