"""A model that gives the answers a test specifies, and a tokenizer for it.

A state is the list of all tokens read, so that it can be compared with "the state of a conversation in
which that was never said". Answers begin after a colon: a test's answers contain a colon only inside
pieces, never as a single byte.
"""

import itertools

import numpy as np

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.sampling import SamplingParams

GREEDY = dict(temperature=0, presence_penalty=0, frequency_penalty=0)
PIECE = 400  # the id of a text's first piece; ids below 256 are bytes
END = 0  # end of text, the second most likely token everywhere, and the first when the script is over


class PieceTokenizer:
    """Ids below 256 are bytes; piece i of a text is 400 + i."""

    name, n_ids = "pieces", 256

    def __init__(self, pieces=()):
        self.pieces = list(pieces)

    def token_bytes(self, token):
        return self.pieces[token - PIECE] if token >= PIECE else bytes([token]) if token < 256 else b""

    def decode(self, tokens):
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")

    def encode(self, text):
        return list(text.encode())

    encode_prompt = encode


class TokensRead:
    """The state of a scripted model: all tokens that it has read, compared as a tuple.

    n_bytes   the memory size that it claims
    n_copies  how many copies of any state were made
    """

    n_bytes = 1_000_000
    n_copies = 0

    def __init__(self, tokens=()):
        self.tokens = list(tokens)

    def copy(self):
        TokensRead.n_copies += 1
        return TokensRead(self.tokens)

    def __eq__(self, other):
        return tuple(self) == tuple(other)

    def __getitem__(self, i):
        return tuple(self.tokens)[i]

    def __len__(self):
        return len(self.tokens)


class ScriptedPool:
    """The states of a scripted model by their slots."""

    def __init__(self, n_slots):
        self.states, self.free = [None] * n_slots, list(range(n_slots))[::-1]

    def take(self, state=None):
        slot = self.free.pop()
        self.states[slot] = state.copy() if state else TokensRead()
        return slot

    def state(self, slot):
        return self.states[slot].copy()


class ScriptedModel:
    """Reads like a model; `logits` gives the logits after all tokens read.

    n_read   how many tokens it was given
    n_calls  in how many passes
    """

    n_read = n_calls = 0
    new_pool = ScriptedPool

    def read(self, runs, pool):
        (run,) = runs
        after = TokensRead(pool.states[run.slot].tokens)
        self.n_calls -= len(run.tokens) - 1  # one pass
        rows = [self.advance(token, after) for token in run.tokens]
        pool.states[run.slot if run.after is None else run.after] = after
        return np.array(rows)

    def cut(self, runs, lengths, pool):
        (run,), (length,) = runs, lengths
        pool.states[run.after] = TokensRead([*pool.states[run.slot].tokens, *run.tokens[:length]])

    def initial_state(self):
        return TokensRead()

    def forward(self, tokens, state=None):
        after = TokensRead(state or ())
        return self.advance(tokens, after), after

    def advance(self, tokens, state):
        new = np.atleast_1d(tokens).tolist()
        self.n_read += len(new)
        self.n_calls += 1
        state.tokens += new
        return self.logits(state.tokens)

    def logits(self, tokens):
        raise NotImplementedError


class Liking(ScriptedModel):
    """Gives the same logits, whatever it has read."""

    def __init__(self, logits):
        self.liked = np.asarray(logits, np.float32)

    def logits(self, tokens):
        return self.liked


class Echo(ScriptedModel):
    """Answers every prompt that ends in a colon (and a line break) with the same tokens."""

    def __init__(self, script):
        self.script = list(script)

    def logits(self, after):
        begin = max((i for i, token in enumerate(after) if token == ord(":")), default=-1) + 1
        said = len(after) - begin - (after[begin : begin + 1] == [ord("\n")])
        logits = np.zeros(max(1000, PIECE + len(self.script)), np.float32)
        logits[END] = 50
        if said < len(self.script):
            logits[self.script[said]] = 99
        return logits


def conversation(pieces=(b" Hello", b"!", b"\n", b"\n"), template="raven", *, opening="", **settings):
    """A conversation with a model that always answers `pieces`, one token each."""
    params = SamplingParams(**(GREEDY | {"max_tokens": 50} | settings))
    script = range(PIECE, PIECE + len(pieces))
    return Conversation(Echo(script), PieceTokenizer(pieces), TEMPLATES[template], params, opening)


def text_read(chat):
    """Everything the model has read, as text."""
    return chat.tokenizer.decode(chat.state())


def say(chat, message="x"):
    """The answer to `message`."""
    return "".join(chat.ask(message))


def splits(data):
    """All ways to split bytes into pieces."""
    places = range(1, len(data))
    for n in range(len(data)):
        for cuts in itertools.combinations(places, n):
            bounds = (0, *cuts, len(data))
            yield [data[a:b] for a, b in itertools.pairwise(bounds)]
