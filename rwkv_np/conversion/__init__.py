"""Make one file from another: a model file from a checkpoint, or a smaller model file.

The architecture's record (`models/`) says how to convert each parameter, and files are written with
`files/`. Neither loads a whole model into memory.
"""
