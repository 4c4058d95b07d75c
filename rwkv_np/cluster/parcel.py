"""Pack what nodes need: the options, and the files that they name, since nodes need not share a file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwkv_np import __version__
from rwkv_np.cluster.work import Parcel, Work
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.models import model_config
from rwkv_np.models.containers import read_model
from rwkv_np.tokenizers import load_tokenizer

_FILES = ("opening", "state", "tokenizer")  # options that name files


def pack(path: str, options: Mapping[str, Any], opens: Callable[[str, Mapping[str, Any]], Work]) -> Parcel:
    """The parcel for the model at `path`. Raises what reading the files raises.

    The tokenizer is found here, so that no node finds another one: it is sent if it is a file.
    """
    path = os.path.abspath(path)
    config = model_config(read_model(path))
    tokenizer = load_tokenizer(options.get("tokenizer"), config.vocab_size, model_path=path)
    options = dict(options) | ({"tokenizer": tokenizer.file} if tokenizer.file else {})
    files = {
        name: (os.path.basename(options[name]), Path(options[name]).read_bytes())
        for name in _FILES
        if options.get(name) and os.path.isfile(options[name])
    }
    return Parcel(path, fingerprint(path), options, files, opens, __version__)
