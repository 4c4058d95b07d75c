"""The files that damage begins with: small, valid, and of every form and version.

Each function writes the seeds of a kind into a folder that is its own; what they belong with (the models of chats
and states) lies in the folder `with` beside it. Sizes are those of a few kilobytes, so that a file is made, damaged
and opened in a few milliseconds, and most of its bytes are headers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from conftest import random_parameters, write_model

from rwkv_np import demo
from rwkv_np.chat import opening
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.saved import save_conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.evaluation.base_file import Header, SavingReader
from rwkv_np.evaluation.walk import Passage
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.models import Model, load
from rwkv_np.models.architecture import Sizes
from rwkv_np.models.registry import ARCHITECTURES
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer
from rwkv_np.tokenizers.world import VOCABULARY

SIZES: dict[str, dict[str, Any]] = {
    "v4": {}, "v5.1": {"head_size": 16}, "v5.2": {"head_size": 16}, "v6": {"head_size": 16, "ranks": (32, 32)},
    "v7": {"head_size": 16, "ranks": (32, 32, 32, 32)},
}  # fmt: skip
# (architecture, type, version of the file): each architecture, each type, and not each pair of them.
MODELS = (
    ("v4", "FP32", 101), ("v4", "Q4_1_O", 100), ("v4", "Q4_0", 100), ("v4", "Q4_1", 100), ("v5.1", "Q5_0", 101),
    ("v5.2", "Q8_0", 101), ("v5.2", "FP16", 101), ("v6", "Q4_0", 101), ("v6", "FP32", 101), ("v7", "Q5_1", 101),
    ("v7", "FP16", 101), ("v4", "Q4_1", 101),
)  # fmt: skip
TEXT = "The time has come, the walrus said, to talk of many things. " * 3
TOKENS = tuple(TEXT.encode())


def with_folder(folder: Path) -> Path:
    """Where the models lie that seeds belong with."""
    found = folder.parent / "with"
    found.mkdir(exist_ok=True)
    return found


def write(path: Path, architecture: str, data_type: str = "FP32", version: int = 101) -> Path:
    """A random model file of one or two layers: two where a layer differs from the first."""
    n_layer = 2 if architecture == "v7" else 1
    arrays = random_parameters(np.random.default_rng(0), n_layer, architecture=architecture, **SIZES[architecture])
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
    """Those that a quantizer takes."""
    for architecture, data_type in (("v4", "FP16"), ("v5.2", "FP32"), ("v6", "FP16"), ("v7", "FP32")):
        write(folder / f"{architecture}-{data_type}.bin", architecture, data_type)


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
    """What State.save writes."""
    for architecture in SIZES:
        companion(folder, architecture).forward(TOKENS)[1].save(folder / f"{architecture}.state", overwrite=True)


def conversation(model: Model, template: str, **settings: Any) -> Conversation:
    """A new one of three tokens an answer."""
    params = SamplingParams(seed=1, max_tokens=3, **settings)
    return Conversation(model, load_tokenizer("bytes"), TEMPLATES[template], params, "An opening.")


def identity(path: Path) -> dict[str, str]:
    """How a saved chat names its model."""
    return {"name": path.name, "fingerprint": fingerprint(path)}


def chats(folder: Path) -> None:
    """Saved chats: of several branches, of thoughts, and an empty one."""
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
    """Tokenizer files: byte-level and SentencePiece, with all that such files carry, and the demo's."""
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
    """A settings file that has nearly all of them, one of few, and none."""
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
    """What predicts, with no model."""

    name = "noise"

    def restart(self) -> None:
        """It remembers nothing."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Logits of nothing."""
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
    """Texts to evaluate on, or to send as a message."""
    (folder / "text.txt").write_text(TEXT + "今日は\r\n🦙", encoding="utf-8")
    (folder / "bom.txt").write_text("\ufeff" + TEXT, encoding="utf-8")


def token_ids(folder: Path) -> None:
    """The ids of a text, as the evaluation keeps them: it is asked to, in a folder of its own."""
    script = (
        "import sys; from rwkv_np.evaluation.text import tokenize; from rwkv_np.tokenizers import load_tokenizer;"
        "tokenize(sys.argv[1], load_tokenizer('bytes'))"
    )
    _run_with_cache(folder / "made", "-c", script, TEXT)
    shutil.copy(next((folder / "made" / "tokens").iterdir()), folder / "ids.npy")
    shutil.rmtree(folder / "made")


def kernels(folder: Path) -> None:
    """A compiled function as it is kept: each of its files is a seed; all together lie beside them."""
    kept = with_folder(folder) / "kernels"
    _run_with_cache(kept, str(Path(__file__).parent / "kernel.py"))
    for path in (path for path in kept.rglob("*") if path.is_file()):
        shutil.copy(path, folder / str(path.relative_to(kept)).replace("/", "+"))


def _run_with_cache(cache: Path, *arguments: str) -> None:
    import os

    subprocess.run([sys.executable, *arguments], env=os.environ | {"RWKV_NP_CACHE": str(cache)}, check=True)
