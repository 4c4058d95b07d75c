"""Every kind of file that the program opens, one row each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import planted
from archives import edit_archive, edit_packed
from documents import edit_json, edit_lines, edit_toml
from gguf_files import edit_gguf
from headed import edit_base, edit_safetensors
from model_files import edit_model_file
from mutations import blind
from npy import edit_array

Edit = Callable[[bytes, Random], bytes]
MB = 2**20


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    name     name of the kind, and of the folder of its seeds
    seeds    the function in seeds.py that writes them
    edit     (bytes of a seed, random generator) -> bytes of a file
    opens    the method of Opener that opens it: "model" is open_model
    uses     the method that uses it, if it has another name
    share    its share of all files: kinds whose files take long get fewer
    needs    a package without which the kind is left out
    module   the module with these functions, if not seeds.py and openers.py
    allowed  bytes of memory allowed in addition to twice the size of the file
    """

    name: str
    seeds: str
    edit: Edit
    opens: str
    share: float = 1.0
    needs: str = ""
    allowed: int = 16 * MB
    uses: str = ""
    module: str = ""

    def make_seeds(self, folder: Path) -> None:
        """Write them."""
        getattr(importlib.import_module(self.module or "seeds"), self.seeds)(folder)

    def opener(self, folder: Path, work: Path) -> Any:
        """The opener of this kind; `folder` contains the seeds' companions, `work` is for output files."""
        return importlib.import_module(self.module or "openers").Opener(folder, work)

    @property
    def is_available(self) -> bool:
        """Whether the package it needs is installed."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None

    def open(self, opener: Any, path: Path) -> Any:
        """Open the file as the program does. Raises our errors if the program refuses it."""
        return getattr(opener, f"open_{self.opens}")(path)

    def use(self, opener: Any, opened: Any) -> None:
        """Use the opened object as the program would."""
        use = getattr(opener, f"use_{self.uses or self.opens}", None)
        if use is not None:
            use(opened)


def _blind(data: bytes, rng: Random) -> bytes:
    return blind(data, rng)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("model", "models", edit_model_file, "model", 4),
        Kind("inspection", "models", edit_model_file, "inspection"),
        Kind("quantize", "models_to_quantize", edit_model_file, "to_quantize"),
        Kind("gguf", "gguf_files", edit_gguf, "gguf", 3),
        Kind("gguf-inspection", "gguf_files", edit_gguf, "inspection"),
        Kind("gguf-convert", "gguf_files", edit_gguf, "gguf_to_convert"),
        Kind("hf-config", "configs", edit_json, "config", 0.5, "safetensors", 64 * MB),
        Kind("hf-index", "indexes", edit_json, "index", 0.5, "safetensors", 64 * MB),
        Kind("checkpoint", "checkpoints", edit_archive, "checkpoint", 2, "torch", 64 * MB),
        Kind("safetensors", "safetensors", edit_safetensors, "checkpoint", 2, "safetensors", 64 * MB),
        Kind("state", "states", edit_archive, "state", 2, uses="state"),
        Kind("tuned-state", "tuned_states", edit_archive, "tuned", 1, "torch", 64 * MB, "state"),
        Kind("tuned-safetensors", "tuned_states_safetensors", edit_safetensors, "tuned", 1, "safetensors", 64 * MB,
             "state"),
        Kind("chat", "chats", edit_archive, "chat", 3),
        Kind("kept-opening", "states", edit_archive, "kept_opening", 0.5, uses="state"),
        Kind("tokenizer", "tokenizers", edit_json, "tokenizer", 1),
        Kind("vocabulary", "vocabularies", edit_packed, "vocabulary", 0.05),
        Kind("settings", "settings", edit_toml, "settings", 1),
        Kind("opening", "openings", edit_toml, "opening", 1),
        Kind("opening-json", "json_openings", edit_json, "opening", 1),
        Kind("base", "base_files", edit_base, "base", 1),
        Kind("lambada", "last_words", edit_lines, "last_words", 1),
        Kind("text", "texts", _blind, "text", 0.5),
        Kind("token-ids", "token_ids", edit_array, "token_ids", 0.5),
        Kind("kernel", "kernels", _blind, "kernel", 0.1),
        Kind("planted", "seed", planted.edit, "planted", module="planted"),
    )
}  # fmt: skip
ALL = [name for name in KINDS if name != "planted"]
