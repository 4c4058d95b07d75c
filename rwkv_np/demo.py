"""Where the model in the box lies.

The model, its tokenizer and its held-out text are files of the package; rwkv_np/data/README.md
tells how they came about. Nothing is loaded here.
"""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
MODEL = DATA / "demo-FP16.bin"
TOKENIZER = DATA / "demo-FP16.tokenizer.json"
HELD_OUT = DATA / "demo-heldout.txt"
