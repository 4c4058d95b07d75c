"""RWKV language models on an ordinary computer, in Python alone."""

__version__ = "0.1.0"
