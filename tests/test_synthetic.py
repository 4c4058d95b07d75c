"""The random models of bench/: published shapes, in every version, that run without infinities."""

import math

import numpy as np
import pytest
from model import GGUF_FORMATS, matrix_operations
from shapes import SHAPES, sizes
from synthetic import synthetic_model, write_synthetic, write_synthetic_gguf

from rwkv_np import demo
from rwkv_np.files.gguf import GgufFile
from rwkv_np.models import load
from rwkv_np.models.engine import Engine
from rwkv_np.models.registry import ARCHITECTURES

TOYS = [name for name in SHAPES if name.endswith("toy") and "super" not in name]
# version, published size, layers, n_embd and weights in millions: as in its name, and as in its file at 2 bytes each
PUBLISHED = {
    "v7-0b1": (12, 768, 191), "v7-0b4": (24, 1024, 451), "v7-1b5": (24, 2048, 1528), "v7-2b9": (32, 2560, 2948),
    "v7-7b2": (32, 4096, 7199), "v7-13b3": (61, 4096, 13269), "v6-1b6": (24, 2048, 1600), "v6-3b": (32, 2560, 3100),
    "v6-7b": (32, 4096, 7636), "v5.2-1b5": (24, 2048, 1578), "v5.2-3b": (32, 2560, 3063), "v5.2-7b": (32, 4096, 7518),
}  # fmt: skip


def test_every_version_has_a_toy_that_can_be_made():
    assert {ARCHITECTURES[name].name for name in ARCHITECTURES} == {
        "v4" if "-" not in toy else toy.removesuffix("-toy") for toy in TOYS
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_are_those_of_published_models(name):
    n_layer, n_embd, millions = PUBLISHED[name]
    found = sizes(name)
    assert (found.n_layer, found.n_embd, found.head_size, found.vocab_size) == (n_layer, n_embd, 64, 65536)
    version = name.partition("-")[0]
    weights = sum(math.prod(shape) for shape in ARCHITECTURES[version].parameter_shapes(found).values())
    assert weights / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("type_name", ["FP16", "Q4_1"])
@pytest.mark.parametrize("name", TOYS)
def test_toys_run_and_stay_finite(tmp_path, name, type_name):
    model = load(write_synthetic(tmp_path / "toy.bin", name, type_name))
    logits, _ = model.forward(list(range(1, 100)), full_output=True)
    assert model.config.data_type == type_name and np.isfinite(logits).all() and logits.std() > 0


@pytest.mark.parametrize("type_name", GGUF_FORMATS)
def test_models_of_ggufs_types_run_as_their_numpy_graph_does(type_name):
    """Rows of 256 and 512; the graph multiplies with the decoded weights and does not round activations."""
    config, parameters = synthetic_model("v7-super-toy", type_name)
    tokens = list(range(1, 20))
    engine, graph = Engine(config, parameters), config.record.graph(config, parameters)
    found, expected = (model.forward(tokens, full_output=True)[0] for model in (engine, graph))
    assert np.isfinite(found).all() and expected.std() > 0.1
    error = np.sqrt(np.square(found - expected).mean()) / expected.std()
    assert error < (1e-4 if type_name == "BF16" else 0.05)


@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0"])
def test_gguf_files_of_noise_have_the_types_of_llama_cpps_quantizer(tmp_path, type_name, monkeypatch):
    monkeypatch.setattr("synthetic.world_vocabulary", lambda source, config: {})  # a toy has another
    path = write_synthetic_gguf(tmp_path / "toy.gguf", "v7-super-toy", type_name)
    types = {name: tensor.data_type.name for name, tensor in GgufFile(path).tensors.items()}
    assert {types[name] for name in ("token_embd.weight", "blk.1.channel_mix_key.weight")} == {type_name}
    assert types["output.weight"] == "Q6_K" and types["blk.0.time_mix_w0.weight"] == "FP32"
    logits, _ = load(path).forward([1, 2, 3])
    assert np.isfinite(logits).all() and logits.std() > 0


@pytest.mark.parametrize("name", TOYS)
def test_checkpoints_of_noise_can_be_converted_and_run(tmp_path, name):
    pytest.importorskip("torch")
    from make_checkpoint import make_checkpoint
    from shapes import checkpoint_of

    from rwkv_np.conversion.convert import convert

    make_checkpoint(tmp_path / "toy.pth", checkpoint_of(name))
    convert(tmp_path / "toy.pth", tmp_path / "toy.bin")
    logits, _ = load(tmp_path / "toy.bin").forward([1, 2, 3])
    assert np.isfinite(logits).all() and logits.std() > 0


def test_operations_are_those_of_the_matrices_that_a_token_goes_through(tmp_path):
    c, f, layers = 128, 448, 2
    counts = {
        "v5.2-toy": 5 * c * c + 2 * c * f + c * c,
        "v6-toy": 5 * c * c + 2 * c * f + c * c + 2 * 5 * 16 * c + 2 * 32 * c,
    }
    for name, weights in counts.items():
        model = load(write_synthetic(tmp_path / f"{name}.bin", name, "FP16"))
        assert matrix_operations(model) == 2 * layers * weights
    # The first layer of RWKV-7 has no v1 and v2.
    model = load(write_synthetic(tmp_path / "7.bin", "v7-toy", "FP16"))
    thin = 2 * c * (16 + 16 + 32)
    assert matrix_operations(model) == 2 * (layers * (4 * c * c + 8 * c * c + thin) + 2 * c * 8)


def test_examine_uses_another_model_with_its_own_tokenizer(tmp_path):
    from examine import ask, tokenizer_of

    path = write_synthetic(tmp_path / "toy.bin", "v7-toy", "FP16")
    tokenizer = tokenizer_of(path, 256)
    assert tokenizer.name == "bytes"
    assert isinstance(ask(load(path), tokenizer, "What is tea?")[0], str)
    assert tokenizer_of(tmp_path / "demo-Q4_1.bin", load(demo.MODEL).config.vocab_size).n_ids == 4096
