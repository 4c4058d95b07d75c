"""Ctrl-C before a command starts, while Python still imports libraries."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite.binding.executionengine import ExecutionEngine
from waiting import PATIENCE

from rwkv_np.interrupt import CALLBACKS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
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


# A kernel is compiled, and when LLVM asks Python for what it has of it, the signal comes.
IN_CALLBACK = """
import os, sys, signal, time
from numba.core import codegen
from rwkv_np import interrupt
from rwkv_np.cli import Command
from rwkv_np.interrupt import leave
import click, numba

number = int(sys.argv.pop())
signal.signal(signal.SIGINT, leave)  # as a program of ours begins
asked = codegen.JITCodeLibrary._object_getbuffer_hook.__func__

def hook(cls, module):
    if not hook.is_done:
        hook.is_done = True
        signal.raise_signal(number)
        print("goes on", flush=True)
    return asked(cls, module)

hook.is_done = False
codegen.JITCodeLibrary._object_getbuffer_hook = classmethod(hook)

@click.command(cls=Command)
def command():
    numba.njit(lambda x: x + 1)(1)
    time.sleep(20)  # it comes at once
command([])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_while_a_kernel_is_compiled_waits_until_that_is_done(name):
    """An exception raised in a callback of llvmlite was lost, and ended in a segmentation fault now and then."""
    number = getattr(signal, name)
    child = subprocess.run(
        [sys.executable, "-c", IN_CALLBACK, str(int(number))], capture_output=True, text=True, timeout=PATIENCE,
        cwd=ROOT,
    )  # fmt: skip
    assert child.returncode == 128 + number, child
    assert child.stdout == "goes on\n" and child.stderr == ""


def test_the_callbacks_that_a_signal_waits_for_have_these_names():
    for name in CALLBACKS - {"__del__"}:
        assert hasattr(ExecutionEngine, name)
