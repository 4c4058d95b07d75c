"""One file made from another: a checkpoint becomes a model file, a model file a smaller one.

Both ask the architecture's record (`models/`) how to convert each parameter, and write with
`files/`. Neither loads a whole model into memory.
"""
