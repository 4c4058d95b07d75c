"""Fixtures of several tests: the golden files, the shared data, and small random models."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner
from newcomer import Newcomer

from rwkv_np.cli import main
from rwkv_np.files.format import LATEST_VERSION, Header, write_header, write_parameter_header
from rwkv_np.files.quants import by_name
from rwkv_np.models.architecture import Sizes, common_sizes
from rwkv_np.models.registry import ARCHITECTURES, identify

# The same examples in every run, and no database of earlier runs. For random examples, where a person
# looks at the failures: pytest --hypothesis-profile=chance. Neither profile limits the time of an example.
UNHURRIED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("chance", UNHURRIED)
hypothesis.settings.register_profile("same", UNHURRIED, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

# Optional packages, and the test files that cannot be imported without them.
NEEDS = {
    "torch": (
        "checkpoint", "compat", "convert", "cut", "docs", "evaluation_definitions", "hugging_face", "lookup", "output",
        "quantize", "train_demo", "train_prose", "v5", "v6", "v7", "wkv_backward",
    ),
    "babel": ("train_demo",),
    "chatterbot_corpus": ("train_demo",),
    "yaml": ("train_demo",),
    "pexpect": ("docs",),
    "pyte": ("docs",),
    "uvicorn": ("docs",),
}  # fmt: skip
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]
collect_ignore = sorted({f"test_{part}.py" for name in MISSING for part in NEEDS[name]})

WORDS = "The time has come, the walrus said, to talk of many things. " * 12
GOLDEN = Path(__file__).parent / "data" / "golden-4v0"
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(trylast=True)  # after pytest has configured its output for the real terminal
def pytest_configure(config):
    config.pluginmanager.register(Newcomer())


def pytest_report_header():
    return f"{', '.join(MISSING)} not installed: {', '.join(collect_ignore)} left out" if MISSING else None


def shared_file(name: str) -> Path:
    """A file of the shared data beside the checkout; skips the test if it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in shared/ beside this checkout")
    return path


def official_package():
    """rwkv.model, imported with the environment variables that it reads at import."""
    os.environ |= {"RWKV_V7_ON": "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("rwkv.model")


@pytest.fixture
def golden():
    """The path of a golden file, by the end of its name, such as "FP16.bin"."""
    return lambda end: GOLDEN / f"golden-4v0.{end}"


def random_parameters(rng, n_layer=2, n_embd=32, dim_ffn=64, vocab_size=256, architecture="v4", **sizes):
    """Float32 parameters of a model, as in a model file; `sizes` are the sizes of other versions."""
    sizes = Sizes(n_layer=n_layer, n_embd=n_embd, dim_ffn=dim_ffn, vocab_size=vocab_size, **sizes)
    shapes = ARCHITECTURES[architecture].parameter_shapes(sizes)
    arrays = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        if name.endswith("time_decay"):
            x = {"v4": -np.exp(x - 1), "v6": x}.get(architecture, np.exp(-np.exp(x)))
        elif ".time_maa_w" in name and name[-1] in "12":
            x = x * np.float32(0.3)
        elif ".time_mix" in name or ".time_maa" in name or ".x_" in name:
            x = rng.random(shape, np.float32)
        elif ".ln" in name or name.startswith("ln"):
            x = x / 10 + (1 if name.endswith("weight") else 0)
        elif len(shape) == 2 and name != "emb.weight":
            x = x * np.float32(2 / np.sqrt(shape[1]))
        arrays[name] = x.astype(np.float32)
    return arrays


def write_model(path, arrays, data_type="FP32", version=LATEST_VERSION, **header):
    """Write arrays as a model file; `header` overrides header fields."""
    sizes = common_sizes({name: x.shape for name, x in arrays.items()})
    fields = dict(version=version, n_vocab=sizes.vocab_size, n_embed=sizes.n_embd, n_layer=sizes.n_layer)
    fields |= {"data_type": by_name(data_type, version).code} | header
    record = ARCHITECTURES.get(identify(arrays), ARCHITECTURES["v4"])
    with open(path, "wb") as file:
        write_header(file, Header(**fields))
        for name, x in arrays.items():
            is_matrix = record.is_quantizable(name, x.shape)
            stored = by_name(data_type if is_matrix else "FP32", version)
            write_parameter_header(file, name, x.shape, stored)
            blocks = x.reshape(x.shape[0] if x.ndim > 1 else 1, -1, stored.format.block_size)
            file.write(stored.format.encode(blocks).tobytes())
    return path


@pytest.fixture
def tiny_model(tmp_path):
    """The path of a random byte-vocabulary model file: 2 layers, n_embd 32."""
    return write_model(tmp_path / "tiny.bin", random_parameters(np.random.default_rng(0)))


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    return tmp_path / "words.txt"


@pytest.fixture
def model_fp16(tmp_path):
    return write_model(tmp_path / "model-FP16.bin", random_parameters(np.random.default_rng(1)), "FP16")


@pytest.fixture
def run_cli():
    """Run `rwkv-np ARGS` in this process; the exit code must be `code`, without a traceback."""

    def run(*args, code=0, stdin=None):
        # Otherwise a table would be as wide as pytest's terminal.
        result = CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(arg) for arg in args], input=stdin)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run
