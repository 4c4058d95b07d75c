"""Chat with a model: `python -m rwkv_np.chat MODEL.bin`.

templates, opening   the chat format of each model family, and what it reads first
turn, conversation   messages and answers, their states, undo and continue
saved, opening_cache conversations and states in files
session              one run of the chat: a conversation on a screen
line                 what a line of input does: a message, or one of commands (by actions)
screen, language     what is shown, and in which language
speech, page         an answer on a terminal: markdown and highlight say how its text looks, table draws
spinner, styles      until the first token; the escape sequences
export, clipboard    the conversation, or the last answer, for other programs
terminal, editor     keys; repl: where lines come from
"""
