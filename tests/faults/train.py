"""Train the demo model at a size that is small enough to be killed often: python tests/faults/train.py OUT.pth"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import train_demo  # noqa: E402
from demo_graph import Shape  # noqa: E402
from demo_tokens import train_tokenizer  # noqa: E402

if __name__ == "__main__":
    train_demo.train_tokenizer = lambda seed, size: train_tokenizer(seed, size, n_documents=100)
    train_demo.SHAPE = Shape(n_layer=1, n_embd=32, dim_ffn=64, vocab_size=400)
    options = "--steps 40 --rows 1 --tokens 32 --log-every 2 --threads 1".split()
    train_demo.command([sys.argv[1], *options])
