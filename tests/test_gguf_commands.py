"""Every command that takes a model takes a GGUF file."""

import json
import struct

import numpy as np
import pytest
from conftest import random_parameters, write_model
from test_gguf import SIZES
from test_gguf_container import text

from rwkv_np.conversion import checkpoint_to_gguf
from rwkv_np.conversion.to_gguf import to_gguf
from rwkv_np.files.gguf_output import Strings
from rwkv_np.tokenizers.gguf import escape


def bytes_vocabulary(template=None, n_ids=300):
    """The 256 bytes from id 1 on, and tokens for padding."""
    tokens = [b"<s>", *(escape(bytes([value])) for value in range(256)), *(b"[PAD%d]" % i for i in range(257, n_ids))]
    types = np.array([3, *[1] * 256, *[5] * (n_ids - 257)])
    found = {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": Strings(tokens),
        "tokenizer.ggml.token_type": types,
    }
    return found | ({} if template is None else {"tokenizer.chat_template": template})


def model(folder, version="v7", data_type="FP16", template=None):
    """A random model as a model file and as a GGUF file with a vocabulary of its own."""
    sizes = dict(n_embd=64, dim_ffn=96, vocab_size=300) | SIZES[version]
    parameters = random_parameters(np.random.default_rng(0), architecture=version, **sizes)
    source = write_model(folder / "m.bin", parameters, data_type)
    to_gguf(source, folder / "m.gguf", vocabulary=bytes_vocabulary(template))
    return source, folder / "m.gguf"


def test_chat(tmp_path, run_cli):
    _, path = model(tmp_path)
    done = run_cli("chat", path, "-p", "hello", "--max-tokens", "3", "--seed", "1")
    assert done.stdout and "m.gguf: RWKV-7, 2 layers, n_embd 64, FP16; m.gguf tokenizer" in done.stderr


def test_inspect(tmp_path, run_cli):
    _, path = model(tmp_path)
    shown = run_cli("inspect", path).stdout
    assert f"{path}: RWKV-7 (x070), FP16, GGUF version 3" in shown and "tokenizer: the file's own" in shown
    assert "general.architecture                        rwkv7" in shown
    assert "tokenizer.ggml.tokens                       an array of 300" in shown
    assert json.loads(run_cli("inspect", path, "--json").stdout)["gguf"]["rwkv7.block_count"] == 2


def test_evaluate(tmp_path, run_cli, words):
    source, path = model(tmp_path)
    options = ("--text", words, "--no-timing", "--json", "--limit", "200")
    found = json.loads(run_cli("evaluate", path, *options).stdout)
    (row,) = found["rows"]
    assert row["data_type"] == "FP16" and row["quality"]["n_tokens"] == 199
    line = run_cli("evaluate", source, *options, code=1).stderr
    assert "no known tokenizer has 300 ids" in line, "the model file has no vocabulary"


def test_quantize_and_convert(tmp_path, run_cli):
    source, path = model(tmp_path)
    run_cli("quantize", path, tmp_path / "q.bin", "Q5_1")
    run_cli("quantize", source, tmp_path / "expected.bin", "Q5_1")
    assert (tmp_path / "q.bin").read_bytes() == (tmp_path / "expected.bin").read_bytes()
    run_cli("convert", path, tmp_path / "back.bin")
    assert "parameters" in run_cli("convert", path, tmp_path / "back.bin", "--overwrite").stdout
    line = run_cli("convert", path, tmp_path / "other.gguf", code=1).stderr
    assert "is a GGUF file already" in line


@pytest.mark.parametrize("data_type", ["FP32", "Q4_1"])
def test_a_world_model_becomes_a_gguf_file_with_its_vocabulary(tmp_path, run_cli, data_type):
    sizes = dict(n_layer=1, n_embd=32, dim_ffn=32, vocab_size=65536, head_size=32, ranks=(32, 32, 0, 32))
    parameters = random_parameters(np.random.default_rng(0), architecture="v7", **sizes)
    write_model(tmp_path / "rwkv7-g1.bin", parameters, data_type)
    run_cli("convert", tmp_path / "rwkv7-g1.bin", tmp_path / "x.gguf")
    shown = json.loads(run_cli("inspect", tmp_path / "x.gguf", "--json").stdout)
    assert (shown["tokenizer"], shown["template"], shown["data_type"]) == ("World", "g1", data_type)
    assert shown["gguf"]["tokenizer.ggml.eot_token_id"] == 261 and shown["gguf"]["general.name"] == "rwkv7-g1"
    assert text(rb"\n\n") in (tmp_path / "x.gguf").read_bytes() and struct.pack("<I", 261)


def world_checkpoint(folder, name="v7-toy", vocab_size=65536):
    """A toy checkpoint with World's vocabulary."""
    pytest.importorskip("torch")
    from make_checkpoint import make_checkpoint
    from shapes import checkpoint_of

    shapes = {key: [vocab_size, *shape[1:]] if key in ("emb.weight", "head.weight") else shape
              for key, shape in checkpoint_of(name).items()}  # fmt: skip
    make_checkpoint(folder / "rwkv7-g1-toy.pth", shapes)
    return folder / "rwkv7-g1-toy.pth"


@pytest.mark.parametrize("name, data_type", [("v7-toy", "FP16"), ("v6-toy", "FP32")])
def test_a_checkpoint_becomes_the_gguf_file_of_its_model_file(tmp_path, run_cli, name, data_type):
    source = world_checkpoint(tmp_path, name)
    run_cli("convert", source, tmp_path / "rwkv7-g1-toy.bin", data_type)
    run_cli("convert", tmp_path / "rwkv7-g1-toy.bin", tmp_path / "expected.gguf")
    before = sorted(path.name for path in tmp_path.iterdir())
    run_cli("convert", source, tmp_path / "found.gguf", data_type)
    assert (tmp_path / "found.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "found.gguf"]), "nothing else is left"


@pytest.mark.parametrize(
    "name, vocab_size, expected",
    [("v5.2-toy", 65536, "is RWKV-5"), ("v7-toy", 256, "has a vocabulary of 256; only World's")],
)
def test_a_checkpoint_that_gguf_cannot_have_is_refused_first(
    tmp_path, run_cli, name, vocab_size, expected, monkeypatch
):
    source = world_checkpoint(tmp_path, name, vocab_size)
    monkeypatch.setattr(checkpoint_to_gguf, "convert", None)
    line = run_cli("convert", source, tmp_path / "x.gguf", code=1).stderr
    assert f"{source}: {expected}" in line and [path.name for path in tmp_path.iterdir()] == [source.name]
