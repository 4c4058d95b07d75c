"""The paths of the demo model that comes with the package.

The model, its tokenizer and its held-out text are files of the package; rwkv_np/data/README.md
describes how they were made. Nothing is loaded here.
"""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
MODEL = DATA / "demo-FP16.bin"
TOKENIZER = DATA / "demo-FP16.tokenizer.json"
HELD_OUT = DATA / "demo-heldout.txt"
