"""`rwkv-np inspect` shows, for every version, what a user wants to know before running a model."""

import json

import numpy as np
import pytest
from conftest import random_parameters, write_model

from rwkv_np.models import load

# version -> (sizes of a small model, what is shown)
VERSIONS = {
    "v4": ({}, ["RWKV-4, FP32", "chat template: raven", "state of a conversation: 0.00 MB"]),
    "v5.1": (dict(head_size=8), ["RWKV-5.1 (5.0 in the official package)", "heads: 4 of 8 channels"]),
    "v5.2": (dict(head_size=16), ["RWKV-5.2 (5.1 or 5.2 in the official package)", "heads: 2 of 16 channels"]),
    "v6": (dict(head_size=32, ranks=(3, 5)), ["RWKV-6 (x060)", "(LoRA): mix 3, decay 5", "heads: 1 of 32 channels"]),
    "v7": (dict(head_size=8, ranks=(3, 4, 5, 6)), ["RWKV-7 (x070)", "(LoRA): w 3, a 4, v 5, g 6"]),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_version_heads_ranks_and_state_are_shown(tmp_path, run_cli, version):
    sizes, shown = VERSIONS[version]
    path = write_model(tmp_path / "m.bin", random_parameters(np.random.default_rng(0), architecture=version, **sizes))
    out = run_cli("inspect", path).stdout
    assert [words for words in shown if words not in out] == []
    assert ("\nheads: " in out, "(LoRA)" in out) == ("head_size" in sizes, "ranks" in sizes)
    report = json.loads(run_cli("inspect", path, "--json").stdout)
    assert report["sizes"]["state_bytes"] == load(path).initial_state().n_bytes


@pytest.mark.parametrize(
    ("version", "name", "template"),
    [("v6", "m", "world"), ("v7", "m", "g1"), ("v7", "RWKV-x070-World-0.1B", "world"), ("v7", "rwkv7-g1d-0.1b", "g1")],
)
def test_a_model_with_the_world_vocabulary_names_its_tokenizer_and_template(tmp_path, run_cli, version, name, template):
    """The template that the chat would use, which also depends on the file's name, but not on the folder's."""
    sizes = VERSIONS[version][0] | {"vocab_size": 65536}
    folder = tmp_path / "World"
    folder.mkdir()
    parameters = random_parameters(np.random.default_rng(0), architecture=version, **sizes)
    path = write_model(folder / f"{name}.bin", parameters)
    out = run_cli("inspect", path).stdout
    assert "tokenizer: World\n" in out and f"chat template: {template}\n" in out
