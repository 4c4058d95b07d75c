"""A file that is not an RWKV checkpoint is refused with a description, runs no code and leaves no files."""

import argparse
import io
import os
import pickle
import shlex
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapes import checkpoint_shapes

from rwkv_np.cli.convert import command
from rwkv_np.conversion.checkpoint import open_checkpoint
from rwkv_np.conversion.convert import convert
from rwkv_np.errors import CheckpointError, FormatError, RwkvError
from rwkv_np.models import load
from rwkv_np.models.registry import titles

GOLDEN = Path(__file__).parent / "data" / "golden-4v0"
CHECKPOINT = GOLDEN / "golden-4v0.pth"


def tensors(n_layer=1, n_embd=8, n_vocab=5):
    generator = torch.Generator().manual_seed(0)
    shapes = checkpoint_shapes(n_layer, n_embd, n_vocab)
    return {name: torch.randn(s, generator=generator).bfloat16() for name, s in shapes.items()}


def refusal(path):
    """The one error line of the command for `path`; it must leave no files."""
    folder = path.parent
    before = sorted(os.listdir(folder)) if folder.is_dir() else None
    result = CliRunner().invoke(command, [str(path), str(folder / "model.bin")])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert str(path) in line
    assert before is None or sorted(os.listdir(folder)) == before
    return line


def refusal_of(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    return refusal(tmp_path / "model.pth")


MORE = {
    "x060a (RWKV-6 with a low-rank gate)": ["att.time_maa_x", "att.gate_w1", "att.gate_w2"],
    "x060b (RWKV-6 with other mixes)": ["att.time_maa_x", "att.time_maa_rkvw_w1"],
    "RWKV-7a (RWKV-7 with DeepEmbed)": ["att.r_k", "ffn.s_emb.weight"],
    "RWKV-7b (RWKV-7 with DeepEmbed and DeepEmbed attention)": ["att.r_k", "ffn.s_emb.weight", "qkv.k1"],
    "RWKV-8": ["att.r_k", "ffn.enn.weight", "qkv.k1"],
    "a model with a tuned state (time_state) inside": ["att.time_state"],
    "a LoRA adapter": ["att.key.lora_A", "att.key.lora_B"],
}
OTHER_NAMES = {
    "a LoRA adapter": ["blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B"],
    "something other than an RWKV model": [
        "transformer.wte.weight",
        "transformer.h.0.attn.c_attn.weight",
        "lm_head.weight",
    ],
    "a model with the parameter names of the": ["rwkv.blocks.0.attention.key.weight", "rwkv.embeddings.weight"],
    "a model with the parameter names of the transformers": ["model.layers.0.attn.r_proj.weight", "lm_head.weight"],
}
STATE = {f"blocks.{i}.att.time_state": torch.zeros(2, 8, 8) for i in range(2)}


@pytest.mark.parametrize("what", MORE)
def test_another_architecture_is_named(tmp_path, what):
    content = tensors() | {f"blocks.0.{name}": torch.zeros(8) for name in MORE[what]}
    line = refusal_of(tmp_path, content)
    assert f"contains {what}" in line
    assert f"; supported: {titles()}" in line


@pytest.mark.parametrize("what", OTHER_NAMES)
def test_a_checkpoint_that_is_not_a_blinkdl_model_is_named(tmp_path, what):
    assert f"contains {what}" in refusal_of(tmp_path, {name: torch.zeros(4, 4) for name in OTHER_NAMES[what]})


@pytest.mark.parametrize("ending", ["pth", "old.pth", "safetensors"])
@pytest.mark.parametrize("use", ["convert", "inspect", "chat", "load"])
def test_a_tuned_state_is_refused_as_a_model_with_what_to_do_with_it(tmp_path, run_cli, ending, use):
    path = tmp_path / f"it's a state.{ending}"
    path.write_bytes(saved_as(ending, STATE))
    if use == "load":
        with pytest.raises(FormatError) as error:
            load(path)
        line = str(error.value)
    elif use == "convert":
        line = refusal(path)
    else:
        (line,) = run_cli(use, path, code=1).stderr.splitlines()
    assert "contains the state of a state-tuned RWKV (time_state), not a model" in line
    assert f"rwkv-np chat MODEL.bin --state {shlex.quote(str(path))}" in line


def test_saved_states_and_chats_are_not_models(tmp_path, run_cli, tiny_model):
    load(tiny_model).initial_state().save(tmp_path / "x.state")
    line = run_cli("inspect", tmp_path / "x.state", code=1).stderr
    assert "is a saved state, not a model" in line and f"--state {tmp_path}/x.state" in line
    run_cli("chat", tiny_model, "-p", "a", "--max-tokens", "1", "--save", tmp_path / "x.chat")
    line = refusal(tmp_path / "x.chat")
    assert "is a saved chat, not a model" in line and f"--load {tmp_path}/x.chat" in line


@pytest.mark.parametrize("use", ["chat", "inspect"])
def test_a_folder_of_the_transformers_library_is_named(tmp_path, run_cli, use):
    folder = tmp_path / "rwkv7-1.5B-world"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    line = run_cli(use, folder, code=1).stderr
    assert "is a folder of the transformers library" in line and f"rwkv-np convert {folder} MODEL-FP16.bin" in line


@pytest.mark.parametrize("name", checkpoint_shapes(1, 8, 5))
def test_a_missing_parameter_is_named(tmp_path, name):
    content = tensors(n_layer=2)
    del content[name]
    assert f"lacks the parameter {name}" in refusal_of(tmp_path, content)


def test_an_extra_parameter_is_named(tmp_path):
    line = refusal_of(tmp_path, tensors() | {"blocks.0.att.extra": torch.zeros(8)})
    assert "contains the parameter blocks.0.att.extra, which RWKV-4 does not have" in line


@pytest.mark.parametrize(
    "name, shape",
    [
        ("blocks.0.att.key.weight", (8, 7)),
        ("blocks.0.ffn.value.weight", (32, 8)),
        ("blocks.0.att.time_mix_k", (1, 1, 9)),
        ("blocks.0.ln1.bias", (8, 1)),
        ("head.weight", (6, 8)),
        ("ln_out.weight", ()),
    ],
)
def test_a_wrong_shape_is_named_beside_the_right_one(tmp_path, name, shape):
    content = tensors() | {name: torch.zeros(shape)}
    expected = tuple(n for n in tensors()[name].shape if n > 1)
    squeezed = tuple(n for n in shape if n > 1) if "time" in name else shape
    assert f"{name} has the shape {squeezed}; expected {expected}" in refusal_of(tmp_path, content)


@pytest.mark.parametrize("name", ["emb.weight", "blocks.0.ffn.key.weight"])
@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3), (0, 8)], ids=str)
def test_a_wrong_shape_of_a_parameter_that_gives_the_sizes_is_refused(tmp_path, name, shape):
    assert "expected" in refusal_of(tmp_path, tensors() | {name: torch.zeros(shape)})


def test_a_gap_in_the_layers_is_named(tmp_path):
    content = {n: t for n, t in tensors(n_layer=3).items() if not n.startswith("blocks.1.")}
    assert "lacks the parameter blocks.1.ln1.weight" in refusal_of(tmp_path, content)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.int64, torch.bool, torch.float8_e5m2], ids=str)
def test_an_unpublished_type_is_named(tmp_path, dtype):
    line = refusal_of(tmp_path, tensors() | {"head.weight": torch.zeros(5, 8).to(dtype)})
    assert f"head.weight is {dtype}; expected one of torch.bfloat16, torch.float16, torch.float32" in line


@pytest.mark.parametrize(
    "values", [torch.zeros(5, 8).to_sparse(), torch.zeros(5, 8, device="meta")], ids=["sparse", "meta"]
)
def test_a_tensor_without_its_values_is_refused(tmp_path, values):
    line = refusal_of(tmp_path, tensors() | {"head.weight": values})
    assert "head.weight is a sparse or empty tensor" in line


@pytest.mark.parametrize(
    "content, found",
    [
        ([1, 2], "contains a list"),
        ({}, "contains nothing"),
        ({"epoch": 3}, "'epoch' is of type int"),
        ({3: torch.zeros(2)}, "'3' is of type tensor"),
        ({"state_dict": {}}, "contains nothing"),
        (torch.zeros(3), "contains a tensor"),
    ],
    ids=str,
)
def test_content_other_than_named_tensors_is_named(tmp_path, content, found):
    assert f"{found}; expected named tensors" in refusal_of(tmp_path, content)


class Hostile:
    """When unpickled, it would create a folder named "ran" in the current folder."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content", [{"a": Hostile()}, {"args": argparse.Namespace(), "model": tensors()}], ids=["call", "class"]
)
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    line = refusal_of(tmp_path, content)
    assert "could run code" in line
    assert "weights_only" not in line  # torch's own message suggests running it
    assert not (tmp_path / "ran").exists()


def test_a_pickle_outside_a_zip_is_not_opened_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Hostile()))
    assert "is a Python pickle but not a PyTorch checkpoint" in refusal(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [4, 30, 1000, 10_000, 128_000, -1000, -22, -1])
def test_a_truncated_pth_is_refused(tmp_path, keep):
    (tmp_path / "model.pth").write_bytes(CHECKPOINT.read_bytes()[:keep])
    line = refusal(tmp_path / "model.pth")
    assert "is damaged or incomplete" in line
    assert "Download it again" in line


@pytest.mark.parametrize("keep", [14, 100, 600, 1000, 5000, -1000, -1])
def test_a_truncated_checkpoint_of_before_1_6_is_refused(tmp_path, keep):
    (tmp_path / "model.pth").write_bytes(saved_as("old.pth")[:keep])
    line = refusal(tmp_path / "model.pth")
    assert "is damaged" in line
    assert "Download it again" in line


def test_a_checkpoint_of_before_1_6_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Hostile()}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert "could run code" in refusal(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("member", ["sys_info", "notes.txt"])
def test_a_tar_archive_is_refused_by_name(tmp_path, member):
    with tarfile.open(tmp_path / "model.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo(member))
    assert "is a tar archive; PyTorch before 0.1.10 (2017) wrote such checkpoints" in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize("keep", [9, 100, 3000, -1])
def test_a_truncated_safetensors_file_is_refused(tmp_path, keep):
    data = safetensors.torch.save(tensors())
    (tmp_path / "model.safetensors").write_bytes(data[:keep])
    line = refusal(tmp_path / "model.safetensors")
    assert "safetensors cannot read it" in line
    assert "Download it again" in line


def test_noise_in_the_names_of_a_pth_is_refused(tmp_path):
    data = bytearray(CHECKPOINT.read_bytes())
    start = data.index(b"blocks.0.ln1") - 20
    data[start : start + 200] = bytes((i * 89 + 7) % 256 for i in range(200))
    (tmp_path / "model.pth").write_bytes(data)
    assert "Download it again" in refusal(tmp_path / "model.pth")


OTHERS = {
    "a text file": (b"# RWKV\nHello, model.\n", "Give the file with the weights"),
    "empty": (b"", "Copy or download it again"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a model file": ((GOLDEN / "golden-4v0.FP16.bin").read_bytes(), "It is already converted"),
    "a file of an unknown kind": (bytes(range(128, 256)), "Give the file"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path, what):
    content, advice = OTHERS[what]
    (tmp_path / "model.pth").write_bytes(content)
    line = refusal(tmp_path / "model.pth")
    assert f"is {what}" in line
    assert "expected an RWKV checkpoint (.pth or .safetensors)" in line
    assert advice in line


def test_a_zip_whose_list_of_names_cannot_be_decompressed_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"names " * 100)
    data = bytearray(path.read_bytes())
    start = 30 + len("model/data.pkl")
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert "is damaged" in refusal(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as file:
        file.writestr("word/document.xml", "<xml/>")
    assert "is a zip archive without a checkpoint's data.pkl in it" in refusal(tmp_path / "model.pth")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    assert "No such file" in refusal(tmp_path / "model.pth")


def test_a_folder_is_named_as_such(tmp_path):
    (tmp_path / "model").mkdir()
    assert "is a folder without a config.json; give the file with the weights" in refusal(tmp_path / "model")


@pytest.mark.parametrize(
    "package, ending", [("torch", "pth"), ("torch", "safetensors"), ("safetensors", "safetensors")]
)
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path, monkeypatch, package, ending
):
    source = tmp_path / f"model.{ending}"
    (torch.save if ending == "pth" else safetensors.torch.save_file)(tensors(), source)
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(command, [str(source), str(tmp_path / "model.bin")])
    assert result.exit_code == 1
    assert f"needs {package}, which is not installed" in result.stderr
    assert "pip install 'rwkv-np[convert]'" in result.stderr
    assert not (tmp_path / "model.bin").exists()


def test_the_order_is_the_checkpoint_s_own(tmp_path):
    content = dict(reversed(tensors().items()))
    torch.save(content, tmp_path / "model.pth")
    assert list(open_checkpoint(tmp_path / "model.pth").tensors) == list(content)


def saved_as(ending, content=None):
    content = content or tensors()
    if ending == "safetensors":
        return safetensors.torch.save(content)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=ending == "pth")
    return buffer.getvalue()


# An edit: the position (from the start or the end), how many bytes to remove, and the bytes to insert.
edits = st.lists(
    st.tuples(st.integers(-9000, 9000), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=5
)


@pytest.mark.parametrize("ending", ["pth", "old.pth", "safetensors"])
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(edits=edits)
@pytest.mark.filterwarnings("ignore")  # torch warns about files that it then fails to read
def test_any_bytes_raise_only_our_own_error(tmp_path, ending, edits):
    data = bytearray(saved_as(ending))
    for where, n_removed, added in edits:
        start = where % (len(data) + 1)
        data[start : start + n_removed] = added
    source = tmp_path / f"model.{ending}"
    source.write_bytes(data)
    try:
        convert(source, tmp_path / "model.bin", overwrite=True)
    except (RwkvError, OSError) as error:
        assert isinstance(error, CheckpointError)
        (tmp_path / "model.bin").unlink(missing_ok=True)
        assert os.listdir(tmp_path) == [source.name]
