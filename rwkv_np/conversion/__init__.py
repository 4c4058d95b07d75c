"""One file made from another: a checkpoint becomes a model file, a model file a smaller one.

Both ask the architecture's record (`models/`) what becomes of each parameter, and write with
`files/`. Neither reads a model into memory.
"""
