"""Talk with a model: `python -m rwkv_np.chat MODEL.bin`.

templates, opening   how each family of models is spoken to, and what it reads first
turn, conversation   what was said, the states around it, and the ways back and on
saved, opening_cache conversations and states in files
session              one sitting: a conversation on a screen
line                 what a line of input does: a message, or one of commands (by actions)
screen, language     what is shown, and in which language
terminal, editor     keys; repl: where lines come from
"""
