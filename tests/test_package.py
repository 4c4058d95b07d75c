"""The package as installed and imported by others."""

import ast
import email
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import rwkv_np
from rwkv_np import demo
from rwkv_np.toml import tomllib

ROOT = Path(__file__).parents[1]


def test_all_names_what_is_there():
    assert sorted(rwkv_np.__all__) == rwkv_np.__all__
    assert all(hasattr(rwkv_np, name) for name in rwkv_np.__all__)


def test_importing_the_package_imports_no_library_that_only_some_commands_need():
    libraries = ("torch", "numba", "tokenizers", "huggingface_hub")
    code = f"import sys, rwkv_np; print([name for name in {libraries} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_no_message_advises_a_script_of_the_checkout():
    """An installed package does not have the folder tools/."""
    for path in (ROOT / "rwkv_np").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        expressions = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]  # including docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in expressions:
                assert "tools/" not in node.value, f"{path.name}, line {node.lineno}: {node.value}"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["chat", "--help"], ["inspect", str(demo.MODEL)], ["get", "--help"], ["list", "--available"]],
)
def test_help_and_version_do_not_load_the_compiler(arguments):
    code = (
        "import sys; from rwkv_np.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('numba', 'torch') if name in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    assert out.splitlines()[-1] == "[]"


def test_no_two_modules_of_the_chat_need_each_other():
    """Not even for type annotations."""
    needs = {path.stem: set(chat_imports(path)) for path in (ROOT / "rwkv_np" / "chat").glob("*.py")}
    assert needs["line"] >= {"commands", "session"}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert needs == {}


def chat_imports(path):
    """The modules of the chat that one of its files imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "rwkv_np.chat":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rwkv_np.chat."):
            yield node.module.split(".")[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the files of this checkout that a build needs."""
    pytest.importorskip("setuptools", minversion="70.1")  # the first version that makes wheels without other packages
    folder = tmp_path_factory.mktemp("source")
    names = ("rwkv_np", "kernels", "tools", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
    for name in names:
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
    return folder


def build(source, folder, what):
    """Build an archive as pip would, with the installed setuptools and without a network; returns its path."""
    folder.mkdir(exist_ok=True)
    code = "import sys; sys.path[:0] = ['tools/backend']; import editable; editable.build_{}(sys.argv[1])".format(what)
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """A wheel built from this checkout."""
    return zipfile.ZipFile(build(source, tmp_path_factory.mktemp("wheel"), "wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder where pip has installed the wheel, without its dependencies, which are installed already."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, wheel.filename], check=True)
    return folder


def run_in(folder, *arguments, path=""):
    """The output of Python when started in that folder, with `path` first in the search path."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


WHERE = "import rwkv_np.kernels; print(rwkv_np.__file__, rwkv_np.kernels.__file__, sep='\\n')"


def test_the_demo_model_talks_from_a_wheel(installed, tmp_path):
    assert run_in(tmp_path, "-c", WHERE, path=installed).splitlines() == [
        str(installed / "rwkv_np" / "__init__.py"), str(installed / "rwkv_np" / "kernels" / "__init__.py"),
    ]  # fmt: skip
    question = ("-p", "What is the capital of France?", "--temperature", "0")
    assert "Paris" in run_in(tmp_path, "-m", "rwkv_np.chat", *question, path=installed)


def test_in_a_checkout_its_own_kernels_are_found_whatever_is_installed(source, installed):
    """Python searches the current folder before the installed packages."""
    for path in ("", installed):
        assert run_in(source, "-c", WHERE, path=path).splitlines() == [
            str(source / "rwkv_np" / "__init__.py"), str(source / "kernels" / "__init__.py"),
        ]  # fmt: skip


def test_a_wheel_puts_one_package_into_site_packages(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"rwkv_np", f"rwkv_np-{rwkv_np.__version__}.dist-info"}
    assert "rwkv_np/kernels/__init__.py" in wheel.namelist()


def test_a_wheel_holds_every_module(wheel):
    modules = {f"rwkv_np/{p.relative_to(ROOT / 'rwkv_np')}" for p in (ROOT / "rwkv_np").rglob("*.py")}
    modules |= {f"rwkv_np/kernels/{p.relative_to(ROOT / 'kernels')}" for p in (ROOT / "kernels").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_a_wheel_holds_the_demo_model_and_what_belongs_to_it(wheel):
    files = {f"rwkv_np/data/{path.name}" for path in demo.DATA.iterdir()}
    assert f"rwkv_np/data/{demo.MODEL.name}" in files
    assert files <= set(wheel.namelist())


def test_a_wheel_says_that_it_has_types(wheel):
    assert "rwkv_np/py.typed" in wheel.namelist()


def test_a_source_archive_can_be_built(source, tmp_path):
    with tarfile.open(build(source, tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert f"{backend['backend-path'][0]}/{backend['build-backend']}.py" in names
    assert {"pyproject.toml", "setup.cfg", "kernels/cache.py", "rwkv_np/py.typed"} <= names


def test_a_source_archive_makes_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build(source, tmp_path / "dist", "sdist")) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = tmp_path.glob("rwkv_np-*")
    again = zipfile.ZipFile(build(unpacked, tmp_path / "again", "wheel"))
    assert contents(again) == contents(wheel)


def contents(archive):
    """The checksums of a wheel's files."""
    return {info.filename: info.CRC for info in archive.infolist()}


USER = """import rwkv_np
rwkv_np.load("m.bin", threads="2")
"""


def test_type_checkers_see_an_editable_install(source, tmp_path):
    """From another folder, as for a program that uses this package."""
    pytest.importorskip("mypy")
    (tmp_path / "dist").mkdir()
    archive = zipfile.ZipFile(build(source, tmp_path / "dist", "editable"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    archive.extractall(subprocess.check_output([python, "-c", where], text=True).strip())
    (tmp_path / "user.py").write_text(USER)
    options = ["--python-executable", python, "--cache-dir", tmp_path / "cache"]
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert 'user.py:2: error: Argument "threads" to "load" has incompatible type "str"' in out
    assert "Found 1 error" in out
    names = {row.split(",")[0] for row in archive.read(record_of(archive)).decode().splitlines()}
    assert names == set(archive.namelist())


def record_of(archive):
    return next(name for name in archive.namelist() if name.endswith("RECORD"))


def test_torch_is_not_a_requirement_of_the_package_itself(wheel):
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    requires = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist")
    assert [r for r in requires if r.startswith("torch") and "extra ==" not in r] == []
    assert any(r.startswith("numba") for r in requires)


def test_the_command_line_shows_its_commands_and_its_version(run_cli):
    out = run_cli("--help").stdout
    assert all(word in out for word in ("chat", "convert", "evaluate", "info", "inspect", "quantize"))
    assert rwkv_np.__version__ in run_cli("--version").stdout
    assert "No such command" in run_cli("chatt", code=2).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_its_commands(shell):
    typed = {"COMP_WORDS": "rwkv-np c", "COMP_CWORD": "c" if shell == "fish" else "1"}
    environment = os.environ | typed | {"_RWKV_NP_COMPLETE": f"{shell}_complete"}
    code = "import sys; sys.argv[0] = 'rwkv-np'; from rwkv_np.cli import main; main(prog_name='rwkv-np')"
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert "chat" in out and "convert" in out and "inspect" not in out


def test_info_shows_the_kernels_chosen_and_why(run_cli, monkeypatch):
    out = run_cli("info").stdout
    assert all(word in out for word in ("kernels", "reason", "threads", "kernel cache", "numba"))
    monkeypatch.setenv("RWKV_NP_KERNELS", "generic")
    found = json.loads(run_cli("info", "--json").stdout)
    assert found["kernels"] == "generic" and found["reason"] == "RWKV_NP_KERNELS=generic"
