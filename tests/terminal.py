"""The chat as shown on a screen: the real program in a pseudo-terminal, and an emulator to read it.

Tests look at what a user would see, rows of characters, not at the bytes that paint them: a prompt
drawn over an answer, or half of a wide character, is an error here too. The models are constructed to
say a given text, or to say something that depends on everything they have read.
"""

import signal
import sys
import time

import numpy as np
import pytest
import torch
from conftest import random_parameters, write_model
from newcomer import environment
from versions import as_checkpoint
from waiting import PATIENCE

pexpect = pytest.importorskip("pexpect", reason="pexpect provides pseudo-terminals (not on Windows)")
pyte = pytest.importorskip("pyte", reason="pyte emulates the screen")

ENTER, ESCAPE, TAB, UP = "\r", "\x1b", "\t", "\x1b[A"


class Screen(pyte.Screen):
    """A screen that keeps the rows that scroll away, and answers the program's questions."""

    def __init__(self, columns, lines, answer):
        self.past, self._answer = [], answer
        super().__init__(columns, lines)

    def row(self, y):
        return "".join(self.buffer[y][x].data for x in range(self.columns)).rstrip()

    def index(self):
        if self.cursor.y == (self.margins.bottom if self.margins else self.lines - 1):
            self.past.append(self.row(0))
        super().index()

    def narrow(self, columns):
        """Become narrower like most terminals, unlike pyte: every row is wrapped again."""
        rows, at, lines = [], (0, 0), self.lines
        for y in range(lines):
            cells = [self.buffer[y][x] for x in range(max(self.buffer[y], default=-1) + 1)]
            while cells and not cells[-1].data.strip() and (y, len(cells)) != (self.cursor.y, self.cursor.x):
                cells.pop()
            begin, starts = 0, [0]
            for x, cell in enumerate(cells):
                is_wide = x + 1 < len(cells) and not cells[x + 1].data
                if cell.data and x + 1 + is_wide - begin > columns:
                    starts.append(begin := x)
            if y == self.cursor.y:
                row = sum(self.cursor.x > start for start in starts[1:])
                at = (len(rows) + row, min(self.cursor.x - starts[row], columns - 1))
            rows += [cells[a:b] for a, b in zip(starts, [*starts[1:], len(cells)])]
        first = max(0, at[0] + 1 - lines)
        self.past += ["".join(cell.data for cell in row).rstrip() for row in rows[:first]]
        super().resize(lines, columns)
        self.buffer.clear()
        for y, row in enumerate(rows[first : first + lines]):
            self.buffer[y].update(enumerate(row))
        self.cursor.y, self.cursor.x = at[0] - first, at[1]

    def write_process_input(self, data):
        self._answer(data)

    @property
    def rows(self):
        """Everything that was shown and not overwritten, from the first row to the cursor's row."""
        return [*self.past, *(self.row(y) for y in range(self.cursor.y + 1))]


def holds(shown, *texts):
    """Whether all `texts` were shown, wherever lines were broken.

    Where a line ends depends on the length of a path in it: the screen breaks it anywhere, even in a word, and
    a space at the end of a row is lost. So white space does not count.
    """
    return all("".join(text.split()) in "".join(shown.split()) for text in texts)


class Terminal:
    """A program on a screen of 24 rows of 80 columns; `name` starts the line that the user types on."""

    def __init__(self, command, env, cwd, name="Bob:"):
        self.name, self.raw, self._begin = name, "", 0
        self.child = pexpect.spawn(
            command[0], command[1:], env=env, cwd=str(cwd), dimensions=(24, 80), encoding="utf-8", timeout=PATIENCE
        )
        self.child.delaybeforesend = None
        self.screen = Screen(80, 24, self.child.send)
        self._stream = pyte.Stream(self.screen)

    @property
    def shown(self):
        """What was shown since the last line was sent, without the prompt below it."""
        return "\n".join(self.screen.rows[self._begin :])

    def look(self):
        """Update the screen with the program's new output; False if the program has ended."""
        try:
            data = self.child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def until(self, is_there, what):
        end = time.monotonic() + PATIENCE
        while not is_there():
            if not self.look() and not is_there() or time.monotonic() > end:
                pytest.fail(f"not shown in time: {what}; the screen shows:\n" + "\n".join(self.screen.rows))

    def see(self, *texts):
        """Wait until all `texts` were shown since the last line was sent."""
        for text in texts:
            self.until(lambda text=text: text in self.shown, repr(text))

    def ready(self, draft=""):
        """Wait for a new line to type on; returns what was shown above it, without the empty line between turns."""
        line = f"{self.name} {draft}".rstrip()
        rows = self.screen.rows

        def is_there():
            nonlocal rows
            rows = self.screen.rows
            return len(rows) > self._begin and rows[-1] == line

        self.until(is_there, f"the prompt {line!r}")
        return "\n".join(rows[self._begin : -1]).rstrip("\n")

    def press(self, keys, shown=None):
        """Send keys, and wait until the line ends in `shown`."""
        self.child.send(keys)
        if shown is not None:
            self.until(lambda: self.screen.rows[-1].endswith(shown), f"the line {shown!r}")

    def begin(self):
        """From now on only rows below the cursor count."""
        self._begin = len(self.screen.rows)

    def enter(self):
        self.begin()
        self.child.send(ENTER)

    def start(self, line):
        """Type a line and send it."""
        self.press(line, shown=line[-60:])
        self.enter()

    def say(self, line):
        """Type a line, send it, and wait for the next prompt; returns what was shown in between."""
        self.start(line)
        return self.ready()

    def interrupt(self):
        self.child.send("\x03")

    def leave(self):
        """Ctrl-D; returns the exit status."""
        self.child.send("\x04")
        return self.wait()

    def wait(self):
        end = time.monotonic() + PATIENCE
        while self.look() and time.monotonic() < end:
            pass
        self.child.close()
        return self.child.exitstatus

    def end(self):
        """Kill it if it still runs. (pexpect waits 0.1 s for that, too short on a busy machine.)"""
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
            self.child.wait()
        self.child.close()

    def resize(self, columns):
        if columns < self.screen.columns:
            self.screen.narrow(columns)
        else:
            self.screen.resize(24, columns)
        self.child.setwinsize(24, columns)


@pytest.fixture(name="sit_down")
def chat_starter(tmp_path):
    """Start the chat: sit_down(model, option, ...); its files are in tmp_path, used as the home folder."""
    open_terminals = []

    def start(model, *options, name="Bob:", prefix=(), waits=True, **env):
        command = [sys.executable, "-m", "rwkv_np.chat", str(model), *map(str, options)]
        terminal = Terminal([*prefix, *command], {**environment(tmp_path), **env}, tmp_path, name)
        open_terminals.append(terminal)
        if waits and not prefix:
            terminal.ready()
        return terminal

    yield start
    for terminal in open_terminals:
        terminal.end()


# --- models ----------------------------------------------------------------------------------------------


def speaker(path, text, ends=True):
    """A model that answers " `text`" to everything: the next byte depends only on the last two.

    In `text`, a pair of bytes must always have the same successor.
    """
    data = b": " + text.encode() + (b"\n\n\0" if ends else b"")
    after = {}
    for *pair, successor in zip(data, data[1:], data[2:]):
        if after.setdefault(tuple(pair), successor) != successor:
            raise ValueError(f"{bytes(pair)!r} has two successors in {text!r}")
    # A weaker rule for the start of an answer, also after a heading's line end; the weakest for everything else.
    alone = {ord(":"): ord(" "), ord(" "): data[2]}
    after[ord(":"), ord("\n")] = data[2]
    return write_model(path, _by_rules(after, alone, ord(" ") if ends else data[-1]))


def _by_rules(after, alone, otherwise):
    """A layer whose attention fetches the byte before, and whose feed-forward units are the rules.

    Channels 0-255 are this byte, then the next; 256-511 the byte before; 512 is always 1.
    """
    c, rules = 513, len(after) + len(alone) + 1
    arrays = {name: np.zeros_like(x) for name, x in random_parameters(np.random.default_rng(0), 1, c, rules).items()}
    b, hot, byte = "blocks.0", np.float32(c**0.5), np.arange(256)
    for norm in ("blocks.0.ln0", "blocks.0.ln1", "ln_out"):
        arrays[f"{norm}.weight"][:] = 1
    arrays[f"{b}.ln2.weight"][:512], arrays[f"{b}.ln2.bias"][512] = 1.4 / hot, 1
    arrays["emb.weight"][byte, byte] = arrays["head.weight"][byte, byte] = 1
    arrays[f"{b}.att.time_first"][:], arrays[f"{b}.att.time_decay"][:] = 30, -1
    arrays[f"{b}.att.value.weight"][256 + byte, byte] = 2
    arrays[f"{b}.att.output.weight"][256 + byte, 256 + byte] = 1
    arrays[f"{b}.ffn.time_mix_k"][:] = 1
    key, value = arrays[f"{b}.ffn.key.weight"], arrays[f"{b}.ffn.value.weight"]
    for i, ((before, this), successor) in enumerate(after.items()):
        key[i, [this, 256 + before, 512]], value[successor, i] = (1, 1, -1.5), 1e6
    for i, (this, successor) in enumerate(alone.items(), len(after)):
        key[i, this], value[successor, i] = 1, 1e4
    key[-1, 512], value[otherwise, -1] = 1, 1e3
    return arrays


def rambler(path, seed=0):
    """A random model that says letters without end; which ones depends on everything it has read."""
    arrays = random_parameters(np.random.default_rng(seed))
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    arrays["ln_out.weight"][0], arrays["ln_out.bias"][0] = 0, 1
    arrays["head.weight"][:, 0] = -1000
    arrays["head.weight"][letters, 0] = 0
    return write_model(path, arrays)


def thinker(path):
    """A random checkpoint (.pth) of RWKV-7 over bytes: it completes "<think" to a mark, and otherwise says letters.

    Which letters depends on everything it has read. Its first feed-forward unit detects the bytes "nk": v7 mixes
    each channel with that of the token before, so one channel can be for this token and one for the last.
    """
    sizes = dict(n_layer=2, n_embd=64, dim_ffn=64, architecture="v7", head_size=32, ranks=(8, 8, 8, 8))
    arrays = random_parameters(np.random.default_rng(5), **sizes)
    this, before, always, seen = range(4)
    emb, key, value = (arrays[name] for name in ("emb.weight", *(f"blocks.0.ffn.{m}.weight" for m in ("key", "value"))))
    for layer in range(2):  # these channels are reserved
        for name in ("att.output", "ffn.value"):
            arrays[f"blocks.{layer}.{name}.weight"][: seen + 1] = 0
    emb[:, : seen + 1] = 0
    emb[ord("k"), this] = emb[ord("n"), before] = 20
    for part, x in (("weight", 1), ("bias", 0)):
        arrays[f"blocks.0.ln0.{part}"][:] = arrays[f"blocks.0.ln2.{part}"][:] = x
    arrays["blocks.0.ln2.weight"][always], arrays["blocks.0.ln2.bias"][always] = 0, 1
    arrays["blocks.0.att.output.weight"] *= np.float32(0.003)  # the detected bytes must dominate
    mix = arrays["blocks.0.ffn.x_k"].reshape(-1)
    mix[[this, before, always]] = 0, 1, 0
    key[0], value[:, 0] = 0, 0
    key[0, [this, before, always]], value[seen, 0] = (1, 1, -11), 1e4
    head, letters = arrays["head.weight"], np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    arrays["ln_out.weight"][:], arrays["ln_out.bias"][:] = 1, 0
    arrays["ln_out.weight"][always], arrays["ln_out.bias"][always] = 0, 1
    head[:, [always, seen]] = -1000, 0
    head[letters, always] = 0
    head[ord(">"), seen] = 1000
    torch.save(as_checkpoint(arrays), path)
    return path
