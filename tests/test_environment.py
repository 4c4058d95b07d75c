"""Invalid variables, settings and streams: one line that says what was found, and how to fix it."""

import os
import subprocess
import sys

import pytest
from rwkv_np.kernels.environment import CHECKS
from waiting import PATIENCE

from rwkv_np import demo

LOAD = f"import rwkv_np; print('imported'); rwkv_np.load({str(demo.MODEL)!r})"


def run(*command, environment=None, **options):
    return subprocess.run(
        [sys.executable, *map(str, command)], env=os.environ | (environment or {}), text=True, timeout=PATIENCE,
        **({"capture_output": True} | options),
    )  # fmt: skip


BAD = {
    "NUMBA_NUM_THREADS": ("0", "-3", "abc", "", "1.5", "100000", "9" * 30),
    "NUMBA_THREADING_LAYER": ("foo", ""),
    "NUMBA_CPU_FEATURES": ("foo", "+avx2,"),
    "NUMBA_DISABLE_JIT": ("1", "yes"),
}
GOOD = {
    "NUMBA_NUM_THREADS": ("1", "2", "64"), "NUMBA_THREADING_LAYER": ("omp", "Workqueue", "default"),
    "NUMBA_CPU_FEATURES": ("", "+avx2", "-avx512f,+sse4.2"), "NUMBA_DISABLE_JIT": ("0", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_bad_values_of_numbas_variables_are_found_before_numba_reads_them(name):
    is_good, _ = CHECKS[name]
    assert not any(map(is_good, BAD[name])) and all(map(is_good, GOOD[name]))


@pytest.mark.parametrize("name, value", [("NUMBA_NUM_THREADS", "0"), ("NUMBA_CPU_FEATURES", "x")])
def test_a_bad_variable_is_refused_in_one_line_by_the_commands(name, value):
    child = run("-m", "rwkv_np", "info", environment={name: value})
    assert child.returncode == 1 and not child.stdout
    assert child.stderr.startswith(f"Error: the variable {name} is {value!r}; expected ")
    assert child.stderr.endswith(f"or run: unset {name}\n") and child.stderr.count("\n") == 1


def test_a_number_that_numba_cannot_read_is_refused_by_what_needs_it():
    child = run("-m", "rwkv_np.chat", "-p", "hi", environment={"NUMBA_DEBUG_TYPEINFER": "abc"})
    expected = "Error: the variable NUMBA_DEBUG_TYPEINFER is 'abc'; expected a whole number. Correct it, or run: unset"
    assert child.returncode == 1 and child.stderr.startswith(expected) and child.stderr.count("\n") == 1


def test_the_package_can_be_imported_and_what_needs_kernels_raises_our_error():
    child = run("-c", LOAD, environment={"NUMBA_NUM_THREADS": "abc"})
    assert child.stdout == "imported\n" and "Warning" not in child.stderr
    assert "rwkv_np.errors.InputError: the variable NUMBA_NUM_THREADS is 'abc'" in child.stderr


def test_a_threading_layer_that_is_not_installed_is_refused_in_one_line():
    child = run("-c", "import numba; numba.get_num_threads()", environment={"NUMBA_THREADING_LAYER": "tbb"})
    if child.returncode == 0:
        pytest.skip("TBB is installed")
    child = run("-m", "rwkv_np", "chat", "-p", "hi", environment={"NUMBA_THREADING_LAYER": "tbb"})
    assert child.returncode == 1 and not child.stdout and "Traceback" not in child.stderr
    assert "\nError: the variable NUMBA_THREADING_LAYER is 'tbb': No threading layer" in "\n" + child.stderr
    assert child.stderr.endswith("unset NUMBA_THREADING_LAYER, or: pip install tbb\n")


def test_an_unknown_kernel_path_is_reported_and_another_used():
    child = run("-c", LOAD + "; print('loaded')", environment={"RWKV_NP_KERNELS": "sse9"})
    assert child.stdout == "imported\nloaded\n"
    assert child.stderr.startswith("RWKV_NP_KERNELS=sse9 is not a path (choose from generic")
    assert child.stderr.count("\n") == 1


# --- the settings file

NUL, NESTED, DIGITS = '"\\u0000"', "[" * 3000, "1" * 5000
SETTINGS = [
    ("seed = inf", "seed is inf; expected a whole number"),
    ("max_tokens = 3.7", "max_tokens is 3.7; expected a whole number"),
    ("threads = []", "threads is []; expected a whole number"),
    ("threads = true", "threads is True; expected a whole number"),
    ("temperature = {a = 1}", "temperature is {'a': 1}; expected a number"),
    ("temperature = false", "temperature is False; expected a number"),
    ("quiet = 1979-05-27", "quiet is datetime.date(1979, 5, 27); expected true or false"),
    ("language = ['en']", "language is ['en']; expected a string"),
    ("system = 3", "system is 3; expected a string"),
    (f"opening = {NUL}", "opening is '\\x00'; expected a string without the character U+0000"),
    (f"model = {NUL}", "model is '\\x00'; expected a string without the character U+0000"),
    (f"x = {NESTED}", "is not valid TOML: it is nested too deeply"),
    (f"seed = {DIGITS}", "is not valid TOML: Exceeds the limit"),
    (f"min_p = 1{'0' * 400}", "is not valid TOML: a whole number has more than 64 bits"),
    (f"quiet = 0x{'f' * 5000}", "is not valid TOML: a whole number has more than 64 bits"),
]


@pytest.mark.parametrize("line, said", SETTINGS, ids=[said for _, said in SETTINGS])
def test_a_setting_of_another_kind_is_refused_in_one_line(run_cli, tmp_path, line, said):
    (tmp_path / "c.toml").write_text(f"[chat]\n{line}\n")
    result = run_cli("chat", "--config", tmp_path / "c.toml", "-p", "hi", code=1)
    assert result.stderr.startswith(f"Error: {tmp_path}/c.toml: {said}") and result.stderr.count("\n") == 1


def test_settings_of_the_right_kind_are_taken(run_cli, tmp_path, tiny_model):
    (tmp_path / "c.toml").write_text('[chat]\nseed = "7"\ntemperature = 1\nquiet = true\nmax_tokens = 2\n')
    assert run_cli("chat", "--config", tmp_path / "c.toml", tiny_model, "-p", "hi").stdout


@pytest.mark.parametrize("text, said", [("[" * 200_000, "it is nested too deeply"), (f'{{"a": {DIGITS}}}', "Exceeds")])
def test_an_opening_in_json_that_python_cannot_read_is_refused_in_one_line(run_cli, tmp_path, tiny_model, text, said):
    (tmp_path / "o.json").write_text(text)
    result = run_cli("chat", tiny_model, "--opening", tmp_path / "o.json", "-p", "hi", code=1)
    assert f"o.json: is not valid JSON: {said}" in result.stderr.splitlines()[-1]


# --- streams that are closed by the shell

posix = pytest.mark.skipif(os.name != "posix", reason="needs a shell that can close streams")


def run_closed(closed, *arguments):
    command = [sys.executable, "-m", "rwkv_np", *map(str, arguments)]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    return subprocess.run(shell, capture_output=True, text=True, timeout=PATIENCE)


@posix
@pytest.mark.parametrize("arguments", [("info",), ("chat", "-p", "hi"), ("inspect", demo.MODEL)], ids=lambda a: a[0])
def test_a_closed_stdout_is_said_in_one_line(arguments):
    child = run_closed(">&-", *arguments)
    assert child.returncode == 1
    assert child.stderr.startswith("Error: stdout is closed; expected a file")
    assert child.stderr.count("\n") == 1


@posix
@pytest.mark.parametrize("arguments", [(), ("-f", "-")], ids=["lines", "file"])
def test_a_closed_stdin_is_said_in_one_line(tiny_model, arguments):
    child = run_closed("<&-", "chat", tiny_model, *arguments)
    assert child.returncode == 1 and child.stderr.startswith("Error: stdin is closed; expected a terminal")
    assert child.stderr.count("\n") == 1


@posix
def test_a_command_that_needs_neither_stdin_nor_stderr_runs_without_them(tiny_model):
    child = run_closed("<&- 2>&-", "chat", tiny_model, "-p", "hello", "--max-tokens", 3, "--seed", 1)
    open_one = run("-m", "rwkv_np", "chat", tiny_model, "-p", "hello", "--max-tokens", 3, "--seed", 1)
    assert child.returncode == 0 and child.stdout == open_one.stdout  # notes do not appear in the answer


@posix
def test_the_number_of_a_closed_stream_is_not_given_to_a_file(tiny_model):
    code = (
        "import os, sys; from rwkv_np.cli.streams import open_closed; open_closed();"
        f"os.write(9, str(open({str(tiny_model)!r}).fileno()).encode())"
    )
    shell = ["sh", "-c", 'exec 9>&1; exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    child = subprocess.run(shell, capture_output=True, text=True, timeout=PATIENCE)
    assert int(child.stdout) > 2


@posix
def test_help_that_cannot_be_written_is_said_in_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    child = run_closed("> /dev/full", "--help")
    assert (child.returncode, child.stderr) == (1, f"Error: {FULL}\n")


FULL = "stdout: No space left on device. Free some space, or write elsewhere"
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@full
@pytest.mark.parametrize("words", [("info",), ("inspect", demo.MODEL), ("chat", "-p", "hello")], ids=lambda a: a[0])
def test_a_full_disk_behind_stdout_is_named_in_one_line(words):
    child = run_closed("> /dev/full", *words)
    errors = [line for line in child.stderr.splitlines() if line.startswith("Error: ")]
    assert (child.returncode, errors) == (1, [f"Error: {FULL}"]) and "Exception ignored" not in child.stderr


@full
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_behind_stderr_loses_notes_but_not_answers(tiny_model, options):
    words = ["chat", tiny_model, "-p", "hello", "--max-tokens", 3, "--seed", 1, *options]
    child, usual = run_closed("2> /dev/full", *words), run_closed("", *words)
    assert child.returncode == usual.returncode == 0
    assert len(child.stdout) > 1 and (options or child.stdout == usual.stdout)


@full
def test_an_error_keeps_its_status_where_stderr_is_full():
    assert run_closed("2> /dev/full", "inspect", "none.bin").returncode == 1
    assert run_closed("2> /dev/full", "inspect").returncode == 2
