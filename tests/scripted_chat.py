"""The chat with a scripted model, as a program: python scripted_chat.py TEXT.md [--pause S] [--wait S] [--no-color]

Everything but the model is real: the screen, the line editor, the commands. The model answers every message
with the text of the file, a few characters a token, so that a test can have any Markdown said.
"""

import argparse
import time
from pathlib import Path

from scripted import Echo, conversation

from rwkv_np.chat import repl
from rwkv_np.chat.editor import Editor
from rwkv_np.chat.language import Language, guess_language
from rwkv_np.chat.screen import Screen
from rwkv_np.chat.session import Session


class Slow(Echo):
    """Takes its time for the first token, and for each other one."""

    def __init__(self, script, wait, pause):
        super().__init__(script)
        self.wait, self.pause = wait, pause

    def logits(self, after):
        n_said = sum(token >= 400 for token in after[-1:])
        time.sleep(self.pause if n_said else self.wait)
        return super().logits(after)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--piece", type=int, default=5)
    parser.add_argument("--no-color", action="store_const", const=False, dest="color")
    parser.add_argument("--figures", action="store_true")
    args = parser.parse_args()
    data = args.text.read_text(encoding="utf-8")
    pieces = [data[i : i + args.piece].encode() for i in range(0, len(data), args.piece)]
    chat = conversation(pieces, "g1", max_tokens=4000)
    chat.model = Slow(chat.model.script, args.wait, args.pause)
    screen = Screen(Language(guess_language()), color=args.color, figures=args.figures)
    session = Session(chat, screen, {"name": args.text.name, "fingerprint": "f"})
    repl.run(session, Editor(session, None))


if __name__ == "__main__":
    main()
