"""Talk with a model: `python -m rwkv_np.chat MODEL.bin`.

templates     how each family of models is spoken to
conversation  turns and the state after them
repl          the terminal
"""
