"""Make one file from another: a model file from a checkpoint, or a smaller model file.

The architecture's record (`models/`) says how to convert each parameter; `files/` reads and writes the
files. Neither conversion nor quantization loads a whole model into memory.
"""
