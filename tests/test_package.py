"""What the package gives to whoever installs or imports it."""

import ast
import email
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rwkv_np
from rwkv_np import demo

ROOT = Path(__file__).parents[1]


def test_all_names_what_is_there():
    assert sorted(rwkv_np.__all__) == rwkv_np.__all__
    assert all(hasattr(rwkv_np, name) for name in rwkv_np.__all__)


def test_importing_the_package_imports_no_library_that_only_some_commands_need():
    libraries = ("torch", "numba", "tokenizers", "huggingface_hub")
    code = f"import sys, rwkv_np; print([name for name in {libraries} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["inspect", str(demo.MODEL)]])
def test_who_only_asks_waits_for_no_compiler(arguments):
    code = (
        "import sys; from rwkv_np.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('numba', 'torch') if name in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    assert out.splitlines()[-1] == "[]"


def test_no_two_modules_of_the_chat_need_each_other():
    """Not even for the names of types."""
    needs = {path.stem: set(chat_imports(path)) for path in (ROOT / "rwkv_np" / "chat").glob("*.py")}
    assert needs["line"] >= {"commands", "session"}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert needs == {}


def chat_imports(path):
    """The modules of the chat that a file of it imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "rwkv_np.chat":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rwkv_np.chat."):
            yield node.module.split(".")[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from this checkout by the installed setuptools, without a network."""
    pytest.importorskip("setuptools", minversion="70.1")  # the first that makes wheels by itself
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("rwkv_np", "kernels", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


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


def test_torch_is_no_requirement_of_the_package_itself(wheel):
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    requires = email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist")
    assert [r for r in requires if r.startswith("torch") and "extra ==" not in r] == []
    assert any(r.startswith("numba") for r in requires)


def test_the_command_line_shows_its_commands_and_its_version(run_cli):
    out = run_cli("--help").stdout
    assert all(word in out for word in ("chat", "convert", "evaluate", "info", "inspect", "quantize"))
    assert rwkv_np.__version__ in run_cli("--version").stdout
    assert "No such command" in run_cli("chatt", code=2).stderr


def test_info_shows_the_kernels_chosen_and_why(run_cli, monkeypatch):
    out = run_cli("info").stdout
    assert all(word in out for word in ("kernels", "because", "threads", "compiled code", "numba"))
    monkeypatch.setenv("RWKV_NP_KERNELS", "generic")
    found = json.loads(run_cli("info", "--json").stdout)
    assert found["kernels"] == "generic" and found["because"] == "RWKV_NP_KERNELS=generic"
