"""Folders of the transformers library give the same model file, to the byte, as BlinkDL's checkpoint.

The folders are written here from the checkpoints of the golden data, and by other programs in the reference data.
"""

import json
import lzma
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import shared_file
from safetensors.torch import save_file

from rwkv_np.conversion.convert import convert
from rwkv_np.errors import CheckpointError

DATA = Path(__file__).parent / "data"
NAMES = {"v5.2": "Rwkv5ForCausalLM", "v6": "Rwkv6ForCausalLM", "v7": "RWKV7ForCausalLM", "v7-own": "Rwkv7ForCausalLM"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """version -> (path, tensors) of a golden checkpoint, and the model file that it gives."""
    found = {}
    for version in ("v5.2", "v6", "v7"):
        path = tmp_path_factory.mktemp("golden") / f"{version}.pth"
        path.write_bytes(lzma.decompress((DATA / f"golden-{version}" / "model.pth.xz").read_bytes()))
        convert(path, path.with_suffix(".bin"))
        found[version] = torch.load(path), path.with_suffix(".bin").read_bytes()
    return found


def fla(tensors):
    """Under the names of flash-linear-attention, and in its shapes."""
    outer = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}
    blocks = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm",
              "att.receptance": "attn.r_proj", "att.key": "attn.k_proj", "att.value": "attn.v_proj",
              "att.output": "attn.o_proj"}  # fmt: skip
    found = {}
    for name, x in tensors.items():
        if not name.startswith("blocks."):
            found[outer.get(name) or name.replace("ln_out", "model.norm")] = x
            continue
        _, layer, rest = name.split(".", 2)
        stem, _, last = rest.rpartition(".")
        if layer == "0" and stem == "att" and last in ("v0", "v1", "v2"):
            continue
        if stem == "att" and last[0] in "wavg" and last[1:] in ("0", "1", "2"):
            part = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[last[1:]]
            stem, last, x = f"attn.{last[0]}_lora.lora", part, x.reshape(-1) if last[1:] == "0" else x.T
        elif last in ("k_k", "k_a") or rest == "ffn.x_k":
            x = x.reshape(-1)
        found[f"model.layers.{layer}.{blocks.get(stem, 'attn' if stem == 'att' else stem)}.{last}"] = x.contiguous()
    return found


def own(tensors, root="rwkv"):
    """Under the names of the other classes, whose shapes are the checkpoint's."""
    mixes = {"time_mix_k": "time_mix_key", "time_mix_v": "time_mix_value", "time_mix_r": "time_mix_receptance",
             "time_mix_g": "time_mix_gate"}  # fmt: skip
    found = {}
    for name, x in tensors.items():
        head, _, last = name.rpartition(".")
        name = f"{head}.{mixes.get(last, last)}".replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
        name = name.replace(".ln0.", ".pre_ln.").replace("emb.", "embeddings.")
        found[name if name.startswith("head.") else f"{root}.{name}"] = x.contiguous()
    return found


def folder_of(folder, tensors, architecture, n_parts=1, **config):
    """A folder with these weights, in some parts."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]} | config))
    if n_parts == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {name: f"model-{i % n_parts}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: x for name, x in tensors.items() if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def theirs(checkpoints, naming):
    tensors, expected = checkpoints[naming.removesuffix("-own")]
    return (fla(tensors) if naming == "v7" else own(tensors, "model" if naming == "v7-own" else "rwkv")), expected


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("naming", NAMES)
def test_a_folder_gives_the_bytes_that_the_checkpoint_gives(checkpoints, tmp_path, naming, n_parts):
    tensors, expected = theirs(checkpoints, naming)
    convert(folder_of(tmp_path / "hf", tensors, NAMES[naming], n_parts), tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == expected


@pytest.mark.parametrize("naming", ["v7", "v7-own"])
def test_the_shares_of_the_mixes_may_be_one_tensor(checkpoints, tmp_path, naming):
    tensors, expected = theirs(checkpoints, naming)
    for name in [name for name in tensors if name.endswith("x_r")]:
        rows = [tensors.pop(name[:-1] + letter) for letter in "rwkvag"]
        tensors[name[:-1] + "x"] = torch.cat(rows).contiguous()
    convert(folder_of(tmp_path / "hf", tensors, NAMES[naming]), tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == expected


def test_weights_may_be_pytorch_files(checkpoints, tmp_path):
    tensors, expected = theirs(checkpoints, "v6")
    folder = folder_of(tmp_path / "hf", tensors, NAMES["v6"])
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == expected


@pytest.mark.parametrize("version", ["v6", "v7"])
def test_folders_of_other_programs(tmp_path, version):
    with tarfile.open(shared_file(f"gguf/{version}/files.tar.xz"), "r:xz") as packed:
        names = [member for member in packed if member.name.startswith("hf/") or member.name.endswith(".pth")]
        packed.extractall(tmp_path, names, filter="data")
    convert(tmp_path / "model.pth", tmp_path / "expected.bin")
    convert(tmp_path / "hf", tmp_path / "found.bin")
    assert (tmp_path / "found.bin").read_bytes() == (tmp_path / "expected.bin").read_bytes()


REFUSED = {
    "ARWKV": ({"architecture": "RwkvHybridForCausalLM"}, "is ARWKV, a model with parts of Qwen2 in it; supp"),
    "QRWKV6": ({"architecture": "RWKV6Qwen2ForCausalLM"}, "is QRWKV6"),
    "the other RWKV-6": ({"architecture": "RWKV6ForCausalLM"}, "flash-linear-attention's own RWKV-6"),
    "llama": ({"architecture": "LlamaForCausalLM"}, "is a model of the architecture 'LlamaForCausalLM'"),
    "a number": ({"architecture": 7}, "is unknown; supported"),
    "attention": ({"attn": {"layers": [0]}}, "its config says attn = {'layers': [0]}; supported: None"),
    "another order": ({"norm_first": False}, "norm_first = False; supported: True"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
    "tied embeddings": ({"tie_word_embeddings": True}, "tie_word_embeddings = True"),
    "no ln0": ({"embedding_layer_norm_fused": True}, "embedding_layer_norm_fused = True"),
    "wider values": ({"hidden_size": 128, "value_dim": [128, 256]}, "another value_dim than hidden_size"),
    "another head size": ({"head_dim": 128}, "its config says head_dim 128 and norm_eps 1e-05"),
    "another epsilon": ({"head_dim": 64, "norm_eps": 1e-6}, "head_dim 64 and norm_eps 1e-06"),
    "words": ({"head_dim": "x", "norm_eps": "y"}, "head_dim 'x' and norm_eps 'y'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_by_their_config(checkpoints, tmp_path, name):
    config, expected = REFUSED[name]
    folder = folder_of(tmp_path / "hf", fla(checkpoints["v7"][0]), **({"architecture": "RWKV7ForCausalLM"} | config))
    with pytest.raises(CheckpointError) as caught:
        convert(folder, tmp_path / "m.bin")
    assert expected in caught.value.problem


def index(**files):
    return json.dumps({"weight_map": files})


INDEXES = {
    "another folder": (index(x="../model.safetensors"), "names the file '../model.safetensors'"),
    "an absolute path": (index(x="/etc/passwd"), "names the file '/etc/passwd'"),
    "a hidden file": (index(x=".model"), "names the file '.model'"),
    "a number": (index(x=7), "names the file '7'"),
    "a missing part": (index(x="other.safetensors"), "has no file other.safetensors"),
    "a tensor too many": (index(walrus="model.safetensors"), "lacks walrus, which the index says it has"),
    "no parts": (index(), "names 0 files; expected 1 to 1000"),
    "no map": ("{}", "names 0 files"),
    "no object": ("[]", "contains no JSON object"),
    "no JSON": ("{", "is not JSON"),
    "nested too deep": ("[" * 10**5, "is not JSON"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_wrong_index_is_refused(checkpoints, tmp_path, name):
    content, expected = INDEXES[name]
    folder = folder_of(tmp_path / "hf", fla(checkpoints["v7"][0]), "RWKV7ForCausalLM")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        convert(folder, tmp_path / "m.bin")
    assert expected in caught.value.problem


def test_a_tensor_in_two_parts_is_refused(checkpoints, tmp_path):
    tensors = fla(checkpoints["v7"][0])
    folder = folder_of(tmp_path / "hf", tensors, "RWKV7ForCausalLM", 2)
    save_file(tensors, folder / "model-0.safetensors")
    with pytest.raises(CheckpointError, match="and another file of the folder does too"):
        convert(folder, tmp_path / "m.bin")


def test_unknown_names_and_missing_files_are_named(checkpoints, tmp_path):
    tensors = fla(checkpoints["v7"][0])
    folder = folder_of(
        tmp_path / "hf", tensors | {"model.walrus": tensors["lm_head.weight"].clone()}, "RWKV7ForCausalLM"
    )
    with pytest.raises(CheckpointError, match="contains the parameter model.walrus, which RWKV-7 does not have"):
        convert(folder, tmp_path / "m.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has neither model.safetensors nor pytorch_model.bin"):
        convert(folder, tmp_path / "m.bin")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="is a folder without a config.json"):
        convert(folder, tmp_path / "m.bin")


def test_a_repository_on_the_hub_is_fetched_file_by_file(checkpoints, tmp_path, monkeypatch, run_cli):
    from rwkv_np.errors import DownloadError

    tensors, expected = theirs(checkpoints, "v7")
    folder, fetched = folder_of(tmp_path / "hf", tensors, "RWKV7ForCausalLM", 2), []

    def fetch(source, progress=None):
        fetched.append(name := source.removeprefix("hf://o/r/"))
        if not (folder / name).exists():
            raise DownloadError(f"{source}: download failed: 404 Entry not found")
        return str(folder / name)

    monkeypatch.setattr("rwkv_np.conversion.folder.fetch", fetch)
    run_cli("convert", "hf://o/r", tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == expected
    parts = [f"model-{i}.safetensors" for i in range(2)]
    assert fetched[:2] == ["config.json", "model.safetensors.index.json"] and sorted(fetched[2:4]) == parts
    assert fetched[4:] == fetched[:4], "first to download them, then to convert what is there"
    run_cli("convert", "hf://o/r", tmp_path / "m.bin", "--overwrite")
