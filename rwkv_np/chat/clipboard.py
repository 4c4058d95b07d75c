"""Copy text to the user's clipboard: with a program of the desktop, or through the terminal.

Over ssh these programs would fill the clipboard of the remote machine, so there the terminal is asked (with the escape
sequence OSC 52). We cannot find out whether a terminal obeys: some ignore the request.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from rwkv_np.console import is_drawable
from rwkv_np.errors import InputError

PATIENCE = 5  # seconds: a program that waits for a display that does not answer


def copy(text: str) -> str:
    """Copy `text` to the clipboard; returns the program that did it, or "" if the terminal was asked.
    Raises InputError: there is neither.
    """
    for command in _programs():
        if _run(command, text):
            return command[0]
    stream = next((stream for stream in (sys.stdout, sys.stderr) if is_drawable(stream)), None)
    if stream is None:
        raise InputError("there is no terminal and no clipboard program; /export FILE.md writes the conversation")
    print(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07", end="", file=stream, flush=True)
    return ""


def _programs() -> Iterator[list[str]]:
    """The commands that can copy on this desktop, if they are installed."""
    if any(os.environ.get(name) for name in ("SSH_TTY", "SSH_CONNECTION")):
        return
    known = []
    if os.environ.get("WAYLAND_DISPLAY"):
        known.append(["wl-copy"])
    if os.environ.get("DISPLAY"):
        known += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    known += [["pbcopy"], ["clip.exe"]]  # macOS; Windows, also from its Linux
    yield from (command for command in known if shutil.which(command[0]))


def _run(command: list[str], text: str) -> bool:
    # clip.exe takes bytes for the old code page, unless they begin as UTF-16.
    data = text.encode("utf-16") if command[0] == "clip.exe" else text.encode()
    try:
        # No pipes except for the text: xclip and wl-copy stay in the background, and would keep them open.
        subprocess.run(
            command, input=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
