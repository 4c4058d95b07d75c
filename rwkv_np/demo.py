"""Where the model in the box lies, and the one line that says what it is.

The model, its tokenizer and its held-out text are files of the package; rwkv_np/data/README.md
tells how they came about. Nothing is loaded here.
"""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
MODEL = DATA / "demo-FP16.bin"
TOKENIZER = DATA / "demo-FP16.tokenizer.json"
HELD_OUT = DATA / "demo-heldout.txt"

NOTICE = (
    "This is the demo model, of 4.5 million parameters: it shows that everything works, and knows some simple facts "
    "in English and Chinese by heart. For a real one (README, section The demo model): python tools/convert.py "
    "'hf://BlinkDL/rwkv-4-raven/RWKV-4-Raven-7B-v12-Eng49%-Chn49%-Jpn1%-Other1%-20230530-ctx8192.pth' raven.bin"
)
