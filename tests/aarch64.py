"""Run tests on an emulated aarch64 processor, for kernels that no x86 machine can run.

    python tests/aarch64.py FOLDER                                     the tests of kernels and engine
    python tests/aarch64.py FOLDER --cpu neoverse-n1 tests/test_kernels.py -k Q4_1
    python tests/aarch64.py FOLDER --torch tests/test_v7.py            with torch, which these tests need
    python tests/aarch64.py FOLDER -m rwkv_np info                     any module instead of pytest

QEMU's user-mode emulation runs an aarch64 Python on this checkout. FOLDER gets everything it needs,
about 500 MB: Debian's Python and its libraries, the wheels of setup.cfg's install_requires, and the
kernels compiled so far. Existing content is kept; delete FOLDER to start from scratch.

Needs Linux, apt-get, pip and qemu-aarch64-static (Debian: qemu-user-static), but not root, and changes
nothing outside FOLDER. LLVM is 10 to 30 times slower there, so this is not part of CI, and pytest does
not collect it. Tests that need torch also need `--torch`: 400 MB more in FOLDER.

A processor of CPUINFO is one that LLVM knows by name, as on a real machine. With the others, such as
`max`, LLVM sees QEMU's host instead and finds neither a name nor features: there the list of the
operating system's kernel decides alone.
"""

from __future__ import annotations

import argparse
import configparser
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DEBIAN = ("python3", "libgomp1", "libstdc++6")
# pip would install torch's requirements for the host, including GPU libraries, so they are listed here.
TORCH = ("--no-deps", "torch==2.6.0", "sympy==1.13.1", "mpmath<1.4", "networkx", "jinja2", "markupsafe")
TESTS = ["tests/test_kernels.py", "tests/test_engine.py", "tests/test_dispatch.py"]

# The content of /proc/cpuinfo for one processor: (implementer, part) is its name; features as Linux lists them.
_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
CPUINFO = {
    "cortex-a72": ("0x41", "0xd08", _V8),
    "neoverse-n1": ("0x41", "0xd0c", f"{_V8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
}


def main() -> int:
    """Set up FOLDER if needed, and run."""
    options, rest = _arguments()
    folder = options.folder.resolve()
    root, site = folder / "root", folder / "site"
    if not (root / "usr/bin/python3").exists():
        unpack_debian(folder / "apt", root)
    if not (site / "numba").exists():
        install_wheels(site, python_version(root), needs())
    if options.torch and not (site / "torch").exists():
        install_wheels(site, python_version(root), TORCH)
    link_package(folder / "package")
    python = make_machine(folder / options.cpu, root, options.cpu)
    run = ["-m", "pytest", "-p", "no:cacheprovider", *(rest or TESTS)]
    if options.module:
        run = ["-m", options.module, *rest]
    return subprocess.run([python, *run], cwd=CHECKOUT, env=environment(folder), check=False).returncode


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="a folder for the aarch64 system")
    parser.add_argument("--cpu", default="max", help="a processor of QEMU's list (`-cpu help`); default: max")
    parser.add_argument("--torch", action="store_true", help="install torch too, for tests that convert checkpoints")
    parser.add_argument("-m", dest="module", help="run this module instead of pytest")
    return parser.parse_known_args()


def unpack_debian(apt: Path, root: Path) -> None:
    """Download DEBIAN and its dependencies for arm64, with a separate package state, and unpack them."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "state/status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "state/status",
        "Dir::Cache": apt / "cache",
    }
    get = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    subprocess.run([*get, "update"], check=True)
    subprocess.run([*get, "install", "-y", "--download-only", "--no-install-recommends", *DEBIAN], check=True)
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)


def python_version(root: Path) -> str:
    """The version that `python3` links to, such as "3.11"."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def needs() -> list[str]:
    """The packages that ours and most of its tests need."""
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    return [*setup["options"]["install_requires"].split("\n"), "pytest>=8", "hypothesis>=6.100", "psutil>=5.9"]


def install_wheels(site: Path, version: str, packages: Sequence[str]) -> None:
    """Unpack aarch64 wheels of those packages and their dependencies."""
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37))]
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site), "--only-binary=:all:"]
    command += ["--python-version", version, "--implementation", "cp"]
    command += [argument for platform in platforms for argument in ("--platform", platform)]
    subprocess.run([*command, *filter(None, map(str.strip, packages))], check=True)


def link_package(folder: Path) -> None:
    """rwkv_np as installed: the checkout's folder, with kernels/ inside."""
    package = folder / "rwkv_np"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for source in [*(CHECKOUT / "rwkv_np").iterdir(), CHECKOUT / "kernels"]:
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)


def make_machine(folder: Path, root: Path, cpu: str) -> Path:
    """Make a folder that QEMU uses as the root folder of a machine with this processor; returns its Python.

    QEMU looks there first for every file, including /proc/cpuinfo. Python is a script, since tests
    start `sys.executable`, and the host's kernel cannot run an aarch64 program.
    """
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    for part in root.iterdir():
        if not (folder / part.name).exists():
            (folder / part.name).symlink_to(part)
    if cpu in CPUINFO:
        (folder / "proc/cpuinfo").write_text(cpuinfo(*CPUINFO[cpu]))
    python, program = folder / "python", root / f"usr/bin/python{python_version(root)}"
    python.write_text(f'#!/bin/sh\nexec qemu-aarch64-static -cpu {cpu} -L "{folder}" -0 "$0" "{program}" "$@"\n')
    python.chmod(0o755)
    return python


def cpuinfo(implementer: str, part: str, features: str) -> str:
    """The text of /proc/cpuinfo for a machine with one such processor."""
    return (
        f"processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n"
    )


def environment(folder: Path) -> dict[str, str]:
    """The environment of the emulated Python; variables about the host's own processor are left out."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "PYTHON"))}
    env |= {
        "PYTHONHOME": str(folder / "root/usr"),
        "PYTHONPATH": os.pathsep.join([str(folder / "package"), str(folder / "site")]),
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",  # the checkout's rwkv_np has no kernels/
        "PYTHONDONTWRITEBYTECODE": "1",
        "RWKV_NP_CACHE": str(folder / "cache"),
    }
    env.setdefault("NUMBA_NUM_THREADS", "2")
    return env


if __name__ == "__main__":
    sys.exit(main())
