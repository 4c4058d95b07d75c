"""The valid files that are damaged: small, and of every format and version.

Each function writes the seeds of a kind to its own folder. The files that belong to them (the models of chats and
states) are in the folder `with` beside it. A seed has a few kilobytes, so that a file is made, damaged and opened in
a few milliseconds, and most of its bytes are headers. (A model with superblocks needs half a megabyte.)
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import random_parameters, write_model

from rwkv_np import demo
from rwkv_np.chat import opening
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.saved import save_conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.conversion.to_gguf import to_gguf, write_gguf
from rwkv_np.evaluation.base_file import Header, SavingReader
from rwkv_np.evaluation.walk import Passage
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.format import read_model_file
from rwkv_np.files.ggml_types import GGML_TYPES
from rwkv_np.files.gguf_output import Strings
from rwkv_np.files.opened import InMemory
from rwkv_np.files.parameter import Parameter
from rwkv_np.models import Model, load, model_config
from rwkv_np.models.architecture import Sizes
from rwkv_np.models.registry import ARCHITECTURES
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer
from rwkv_np.tokenizers.gguf import escape
from rwkv_np.tokenizers.world import VOCABULARY

SIZES: dict[str, dict[str, Any]] = {
    "v4": {}, "v5.1": {"head_size": 16}, "v5.2": {"head_size": 16}, "v6": {"head_size": 16, "ranks": (32, 32)},
    "v7": {"head_size": 16, "ranks": (32, 32, 32, 32)},
}  # fmt: skip
# (architecture, type, version of the file): each architecture and each type, but not each combination.
MODELS = (
    ("v4", "FP32", 101), ("v4", "Q4_1_O", 100), ("v4", "Q4_0", 100), ("v4", "Q4_1", 100), ("v5.1", "Q5_0", 101),
    ("v5.2", "Q8_0", 101), ("v5.2", "FP16", 101), ("v6", "Q4_0", 101), ("v6", "FP32", 101), ("v7", "Q5_1", 101),
    ("v7", "FP16", 101), ("v4", "Q4_1", 101),
)  # fmt: skip
SUPERBLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL")  # and the other one with a table
TEXT = "The time has come, the walrus said, to talk of many things. " * 3
TOKENS = tuple(TEXT.encode())


def with_folder(folder: Path) -> Path:
    """The folder of the models that seeds belong to."""
    found = folder.parent / "with"
    found.mkdir(exist_ok=True)
    return found


def write(path: Path, architecture: str, data_type: str = "FP32", version: int = 101, **sizes: int) -> Path:
    """A random model file of one or two layers: two if later layers differ from the first."""
    n_layer = 2 if architecture == "v7" else 1
    arrays = random_parameters(
        np.random.default_rng(0), n_layer, architecture=architecture, **SIZES[architecture] | sizes
    )
    return write_model(path, arrays, data_type, version)


def companion(folder: Path, architecture: str) -> Model:
    """The model of that architecture beside the seeds."""
    path = with_folder(folder) / f"{architecture}.bin"
    return load(path if path.exists() else write(path, architecture))


def models(folder: Path) -> None:
    """Model files."""
    for architecture, data_type, version in MODELS:
        write(folder / f"{architecture}-{data_type}-{version}.bin", architecture, data_type, version)


def models_to_quantize(folder: Path) -> None:
    """Model files that can be quantized."""
    for architecture, data_type in (("v4", "FP16"), ("v5.2", "FP32"), ("v6", "FP16"), ("v7", "FP32")):
        write(folder / f"{architecture}-{data_type}.bin", architecture, data_type)


def gguf_files(folder: Path) -> None:
    """GGUF files with a vocabulary of their own, and one whose matrices are divided."""
    tokens = [b"<s>", *(escape(bytes([value])) for value in range(256)), escape(b"the")]
    types = np.array([3, *[1] * 257])
    pairs = {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": Strings(tokens),
        "tokenizer.ggml.token_type": types,
    }
    pairs |= {"tokenizer.chat_template": "{{ messages[0]['content'] }}"}
    for architecture, data_type in (("v6", "FP32"), ("v6", "Q4_0"), ("v7", "FP16"), ("v7", "Q8_0")):
        source = write(with_folder(folder) / "source.bin", architecture, data_type, vocab_size=len(tokens))
        path = folder / f"{architecture}-{data_type}.gguf"
        to_gguf(source, path, vocabulary=pairs, overwrite=True)
        key = b"rwkv6.rescale_every_n_layers" + struct.pack("<I", 4)
        if architecture == "v6":  # of a single layer, whose exponent is 0
            path.write_bytes(path.read_bytes().replace(key + bytes(4), key + struct.pack("<I", 1)))
    for architecture, first in (("v6", 0), ("v7", len(SUPERBLOCKS) // 2)):
        source = write(with_folder(folder) / "wide.bin", architecture, vocab_size=len(tokens), n_embd=256, dim_ffn=256)
        _with_superblocks(source, folder / f"{architecture}-K.gguf", pairs, first)


def _with_superblocks(source: Path, destination: Path, pairs: dict[str, Any], first: int) -> None:
    """The same model with random matrices in the types that only GGUF has, one after another from `first` on."""
    file, rng = read_model_file(source), np.random.default_rng(0)
    config = model_config(file)
    types = [next(t for t in GGML_TYPES.values() if t.name == name) for name in SUPERBLOCKS]
    parameters = dict(file.parameters)
    for name, p in file.parameters.items():
        is_matrix = config.record.is_quantizable(name, p.shape) or name in ("emb.weight", "head.weight")
        if is_matrix and p.shape[-1] % 256 == 0:
            chosen = types[first % len(types)]
            first += 1
            blocks = rng.integers(0, 256, chosen.format.n_bytes(p.n_weights), np.uint8).view(chosen.format.block)
            for scale in {"d", "m"} & set(blocks.dtype.names):
                blocks[scale] = 2**-12
            parameters[name] = Parameter(name, p.shape, chosen, InMemory(blocks.view(np.uint8)))
    write_gguf(parameters, replace(config, data_type="Q4_K"), str(destination), str(source), pairs, overwrite=True)


def _hf(folder: Path, n_parts: int) -> None:
    """A folder of the transformers library in `with`: RWKV-6, whose names are nearly the checkpoint's."""
    from safetensors.torch import save_file

    place = with_folder(folder) / f"hf-{n_parts}"
    place.mkdir(exist_ok=True)
    renamed = {name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.").replace(".ln0.", ".pre_ln."): x
               for name, x in _tensors("v6", "bfloat16").items()}  # fmt: skip
    found = {name if name == "head.weight" else f"rwkv.{name}": x for name, x in renamed.items()}
    weight_map = {name: f"part-{i % n_parts}.safetensors" for i, name in enumerate(found)}
    for file in set(weight_map.values()):
        save_file({name: x for name, x in found.items() if weight_map[name] == file}, place / file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {"architectures": ["Rwkv6ForCausalLM"], "hidden_size": 32, "attn": None, "norm_first": True,
              "head_dim": 64, "norm_eps": 1e-5, "value_dim": [32], "vocab_size": 64}  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))


def configs(folder: Path) -> None:
    """The config.json of a folder of the transformers library."""
    _hf(folder, 1)
    shutil.copy(with_folder(folder) / "hf-1" / "config.json", folder)


def indexes(folder: Path) -> None:
    """The index of such a folder in two parts."""
    _hf(folder, 2)
    shutil.copy(with_folder(folder) / "hf-2" / "model.safetensors.index.json", folder)


def _tensors(architecture: str, dtype: str) -> dict[str, Any]:
    import torch

    sizes = Sizes(n_layer=2 if architecture == "v7" else 1, n_embd=32, dim_ffn=64, vocab_size=64, **SIZES[architecture])
    generator = torch.Generator().manual_seed(0)
    shapes = ARCHITECTURES[architecture].checkpoint_shapes(sizes)
    return {
        name: (torch.randn(shape, generator=generator) / 4).to(getattr(torch, dtype)) for name, shape in shapes.items()
    }


CHECKPOINTS = (("v4", "bfloat16"), ("v5.2", "float32"), ("v6", "bfloat16"), ("v7", "float16"))


def checkpoints(folder: Path) -> None:
    """Checkpoints as torch writes them."""
    import torch

    for architecture, dtype in CHECKPOINTS:
        torch.save(_tensors(architecture, dtype), folder / f"{architecture}-{dtype}.pth")


def safetensors(folder: Path) -> None:
    """The same as .safetensors."""
    from safetensors.torch import save_file

    for architecture, dtype in CHECKPOINTS:
        save_file(_tensors(architecture, dtype), folder / f"{architecture}-{dtype}.safetensors")


def _tuned(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import torch

    for architecture in ("v5.2", "v7"):
        shape = companion(folder, architecture).initial_state().wkv.shape
        names = [f"blocks.{i}.att.time_state" for i in range(shape[0])]
        yield architecture, {name: torch.arange(float(np.prod(shape[1:]))).reshape(shape[1:]) / 99 for name in names}


def tuned_states(folder: Path) -> None:
    """State-tuned checkpoints."""
    import torch

    for architecture, tensors in _tuned(folder):
        torch.save(tensors, folder / f"{architecture}.pth")


def tuned_states_safetensors(folder: Path) -> None:
    """The same as .safetensors."""
    from safetensors.torch import save_file

    for architecture, tensors in _tuned(folder):
        save_file(tensors, folder / f"{architecture}.safetensors")


def states(folder: Path) -> None:
    """Files written by State.save."""
    for architecture in SIZES:
        companion(folder, architecture).forward(TOKENS)[1].save(folder / f"{architecture}.state", overwrite=True)


def conversation(model: Model, template: str, **settings: Any) -> Conversation:
    """A new conversation with three tokens per answer."""
    params = SamplingParams(seed=1, max_tokens=3, **settings)
    return Conversation(model, load_tokenizer("bytes"), TEMPLATES[template], params, "An opening.")


def identity(path: Path) -> dict[str, str]:
    """How a saved chat names its model."""
    return {"name": path.name, "fingerprint": fingerprint(path)}


def chats(folder: Path) -> None:
    """Saved chats: with several branches, with thoughts, and an empty one."""
    for architecture, template in (("v4", "raven"), ("v7", "g1"), ("v5.2", "world")):
        chat = conversation(companion(folder, architecture), template)
        model = identity(with_folder(folder) / f"{architecture}.bin")
        save_conversation(chat, folder / f"{architecture}-empty.chat", model)
        for message in ("one", "二"):
            list(chat.ask(message))
        chat.fork("side")
        list(chat.ask("three"))
        save_conversation(chat, folder / f"{architecture}.chat", model)


def tokenizers(folder: Path) -> None:
    """Tokenizer files: byte-level and SentencePiece, with everything that such files may contain, and the demo's."""
    import tokenizers as library

    from rwkv_np.tokenizers.bpe import byte_alphabet

    made = library.Tokenizer(library.models.BPE(
        vocab={character: value for character, value in byte_alphabet().items()} | {"th": 256, "the": 257},
        merges=[("t", "h"), ("th", "e")],
    ))  # fmt: skip
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder, made.normalizer = library.decoders.ByteLevel(), library.normalizers.NFC()
    made.post_processor = library.processors.ByteLevel(trim_offsets=False)
    made.add_tokens(["    ", "<|end|>"])
    made.enable_truncation(5)
    made.enable_padding()
    made.save(str(folder / "byte-level.json"))
    pieces = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), "▁", "▁h", *"hexyo今"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    model = library.models.BPE(vocab=vocab, merges=[("▁", "h")], unk_token="<unk>", byte_fallback=True)
    made = library.Tokenizer(model)
    made.normalizer = library.normalizers.Replace(" ", "▁")
    steps = [library.decoders.Replace("▁", " "), library.decoders.ByteFallback(), library.decoders.Fuse()]
    made.decoder = library.decoders.Sequence(steps)
    made.save(str(folder / "sentencepiece.json"))
    shutil.copy(demo.MODEL.with_name("demo-FP16.tokenizer.json"), folder / "demo.json")


def vocabularies(folder: Path) -> None:
    """The World vocabulary of this package."""
    shutil.copy(VOCABULARY, folder / "world.zlib")


SETTINGS = """[chat]
temperature = 0.8
top_p = 0.5
top_k = 3
min_p = 0.1
presence_penalty = 0.2
frequency_penalty = 0.2
penalty_decay = 0.99
max_tokens = 2
seed = 1
threads = 1
language = "zh"
template = "raven"
think = "auto"
keep_thoughts = false
tokenizer = "bytes"
opening = "none"
head_q8_0 = true
quiet = true
history = "none"

[evaluate]
x = 1
"""


def settings(folder: Path) -> None:
    """A settings file with nearly all settings, one with a few, and an empty one."""
    companion(folder, "v4")
    (folder / "all.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "few.toml").write_text('[chat]\nseed = 3\nsystem = "A talk."\n', encoding="utf-8")
    (folder / "none.toml").write_text("", encoding="utf-8")


def openings(folder: Path) -> None:
    """Openings in TOML."""
    for name in ("raven-en", "raven-ja"):
        shutil.copy(Path(opening.__file__).parent / "openings" / f"{name}.toml", folder)
    own = 'text = "{user} talks with {bot}."\nturns = [["a", "b"], ["c", "d"]]\nuser = "A"\nbot = "B"\n'
    (folder / "own.toml").write_text(own, encoding="utf-8")


def json_openings(folder: Path) -> None:
    """Openings in JSON: ours, and rwkv.cpp's."""
    own = {"text": "{user} talks.", "turns": [["a", "b"], ["c", "d"]], "user": "A", "bot": "B"}
    theirs = {"prompt": "\nBob: Hi\n\nAlice: Hello\n\n", "user": "Bob", "assistant": "Alice", "separator": ":"}
    (folder / "own.json").write_text(json.dumps(own), encoding="utf-8")
    (folder / "theirs.json").write_text(json.dumps(theirs), encoding="utf-8")


class _Noise:
    """A source of predictions without a model."""

    name = "noise"

    def restart(self) -> None:
        """There is no state."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Random logits."""
        return np.random.default_rng(len(ids)).standard_normal((len(ids), 256)).astype(np.float32)


def base_files(folder: Path) -> None:
    """A base model's predictions of a short text."""
    passage = Passage(np.array(TOKENS, np.uint32))
    header = Header(1, "base.bin", "FP16", "FP16", 256, passage.n_positions, None)
    with open(folder / "base", "wb") as file:
        SavingReader(_Noise(), file, header, passage).read(passage.tokens[:-1])


def last_words(folder: Path) -> None:
    """Passages for LAMBADA."""
    companion(folder, "v4")
    lines = [{"text": "a b c"}, {"text": "The walrus said 今 日", "id": 3}, {"text": "to talk of many things"}]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def texts(folder: Path) -> None:
    """Texts for an evaluation or for a message."""
    (folder / "text.txt").write_text(TEXT + "今日は\r\n🦙", encoding="utf-8")
    (folder / "bom.txt").write_text("\ufeff" + TEXT, encoding="utf-8")


def token_ids(folder: Path) -> None:
    """The cached ids of a text, as the evaluation writes them to its cache folder."""
    script = (
        "import sys; from rwkv_np.evaluation.text import tokenize; from rwkv_np.tokenizers import load_tokenizer;"
        "tokenize(sys.argv[1], load_tokenizer('bytes'))"
    )
    _run_with_cache(folder / "made", "-c", script, TEXT)
    shutil.copy(next((folder / "made" / "tokens").iterdir()), folder / "ids.npy")
    shutil.rmtree(folder / "made")


def kernels(folder: Path) -> None:
    """The cache files of a compiled function: each file is a seed; the complete set is beside them."""
    kept = with_folder(folder) / "kernels"
    _run_with_cache(kept, str(Path(__file__).parent / "kernel.py"))
    for path in (path for path in kept.rglob("*") if path.is_file()):
        shutil.copy(path, folder / str(path.relative_to(kept)).replace("/", "+"))


def _run_with_cache(cache: Path, *arguments: str) -> None:
    import os

    subprocess.run([sys.executable, *arguments], env=os.environ | {"RWKV_NP_CACHE": str(cache)}, check=True)
