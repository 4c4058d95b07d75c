"""A long random conversation with the demo model that uses everything a user can do.

    python tests/soak.py --tokens 100000 --seed 1

Messages, edits, /regen, /continue, /undo, /fork, /switch, asides, answers stopped by Ctrl-C, /save and /load; every
choice depends on the seed. Two conditions must always be true:

- the model's state is that of the conversation: sometimes, and at the end in each branch, the state is compared, bit
  for bit, with that of reading all tokens from the start; at the end another process also does so and answers again;
- memory does not grow: the median of the process's own memory (RssAnon) over the last tenth of the tokens is at most
  3 % above that over the tenth after the first fifth, when kernels, caches and the stored states exist.

States get 4 MB here instead of the 128 MB of a chat. So the budget is full before the measurement begins, and
dropped states are recomputed from their tokens all the time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_np import demo
from rwkv_np.chat import conversation
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.templates import FREE, TEMPLATES
from rwkv_np.chat.turn import Branch
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.memory import resident_anonymous
from rwkv_np.models import Model, load
from rwkv_np.models.state import State
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

QUESTIONS = (
    "Hello!", "What is the capital of Peru?", "Tell me a story.", "秘鲁用什么货币？", "How do you say tea in Chinese?",
    "What is seven times eight?", "🦙?", "Tell me another story.", "法国的首都是哪里？", "And then?",
)  # fmt: skip
LAST = "Tell me a story."
OPENING = "Bob talks with Alice."
BRANCHES, TURNS = 6, 60  # maxima: at the limit, a fork becomes a switch, and an undo removes many turns
BUDGET = 4_000_000
GROWTH = 1.03


def params(seed: int | None) -> SamplingParams:
    """Settings for varied answers of at most 60 tokens."""
    return SamplingParams(temperature=1.0, top_p=0.7, max_tokens=60, seed=seed)


class Soak:
    """A conversation and the random actions on it; `n_tokens` counts all tokens written, including undone ones."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.model: Model = load(demo.MODEL)
        self.tokenizer: Tokenizer = load_tokenizer(vocab_size=self.model.config.vocab_size, model_path=demo.MODEL)
        self.identity = {"name": demo.MODEL.name, "fingerprint": fingerprint(demo.MODEL)}
        self.chat = Conversation(self.model, self.tokenizer, TEMPLATES["raven"], params(seed), OPENING)
        self.rng, self.file = random.Random(seed), folder / "soak.chat"
        self.n_tokens, self.done, self.n_compared = 0, Counter[str](), 0
        self.memory: list[tuple[int, int]] = []

    def run(self, n_tokens: int, show: Callable[[str], None] = lambda line: None) -> None:
        """Continue until that many tokens are written."""
        begin, shown = time.monotonic(), 0
        while self.n_tokens < n_tokens:
            self.step()
            if self.rng.random() < 0.02:
                self.compare(self.chat.current_branch)
            if not self.memory or self.n_tokens - self.memory[-1][0] >= n_tokens / 1000:
                self.memory.append((self.n_tokens, resident_anonymous() or 0))
            if self.n_tokens - shown >= n_tokens / 20:
                shown = self.n_tokens
                show(f"{shown:7} tokens, {time.monotonic() - begin:5.0f} s, RssAnon {self.memory[-1][1] / 1e6:.1f} MB, "
                     f"branches {len(self.chat.branches)}, turns {len(self.chat.turns)}")  # fmt: skip

    def step(self) -> None:
        """Do something."""
        acts = {
            self.say: 50, self.edit: 8, self.regenerate: 8, self.go_on: 8, self.undo: 8, self.fork: 2, self.switch: 4,
            self.aside: 4, self.interrupt: 4, self.save_and_load: 3,
        }  # fmt: skip
        (act,) = self.rng.choices(list(acts), list(acts.values()))
        if act in (self.edit, self.regenerate, self.go_on, self.undo) and not self.chat.turns:
            act = self.say
        act()
        self.done[act.__name__] += 1
        if len(self.chat.turns) > TURNS:
            self.chat.undo(self.rng.randrange(TURNS // 2, TURNS))

    def _read(self, answer: Any) -> None:
        for _ in answer:
            pass
        self.n_tokens += answer.n_new

    def _changes(self) -> dict[str, Any]:
        """Sometimes the limit cuts an answer short."""
        return {"max_tokens": self.rng.choice((1, 3, 12))} if self.rng.random() < 0.3 else {}

    def say(self) -> None:
        self._read(self.chat.ask(self.rng.choice(QUESTIONS), **self._changes()))

    def edit(self) -> None:
        self._read(self.chat.edit(self.rng.choice(QUESTIONS), **self._changes()))

    def regenerate(self) -> None:
        self._read(self.chat.answer_again(**self._changes()))

    def go_on(self) -> None:
        self._read(self.chat.continue_answer(**self._changes()))

    def aside(self) -> None:
        self._read(self.chat.ask_aside(self.rng.choice(QUESTIONS), FREE, max_tokens=10))

    def interrupt(self) -> None:
        answer = self.chat.ask(self.rng.choice(QUESTIONS))
        for i, _ in enumerate(answer):
            if i == self.rng.randrange(4):
                answer.interrupt()
        self.n_tokens += answer.n_new

    def undo(self) -> None:
        self.chat.undo(self.rng.randint(1, min(3, len(self.chat.turns))))

    def fork(self) -> None:
        if len(self.chat.branches) < BRANCHES:
            self.chat.fork(f"branch {len(self.chat.branches)}")
        else:
            self.switch()

    def switch(self) -> None:
        self.chat.switch(self.rng.choice(list(self.chat.branches)))

    def save_and_load(self) -> None:
        save_conversation(self.chat, self.file, self.identity, overwrite=True)
        self.chat = load_conversation(self.file, self.chat, self.identity)

    def compare(self, branch: Branch) -> None:
        """Raise AssertionError unless the state equals that of reading the branch from the start."""
        turns = [turn.ids for turn in branch.turns]
        expected = from_nothing(self.model, self.tokenizer, branch.opening, turns)
        found = self.chat.position(branch=branch).state
        np.testing.assert_array_equal(found.data, expected.data, err_msg=f"after {self.done}")
        self.n_compared += 1


def from_nothing(model: Model, tokenizer: Tokenizer, opening: str, turns: list[Any]) -> State:
    """The state after reading an opening and the ids of each turn."""
    _, state = model.forward([*tokenizer.encode(opening), *(token for ids in turns for token in ids)])
    return state


def growth(memory: list[tuple[int, int]]) -> tuple[float, float]:
    """Medians of RssAnon over the tenth of the tokens after the first fifth, and over the last tenth."""
    end = memory[-1][0]
    first = [n_bytes for at, n_bytes in memory if 0.2 * end <= at < 0.3 * end]
    last = [n_bytes for at, n_bytes in memory if at >= 0.9 * end]
    return statistics.median(first), statistics.median(last)


def last_answers(path: Path) -> list[str]:
    """For each branch of a saved chat, read from the start: a hash of the state, and the answer to one more message."""
    model = load(demo.MODEL)
    tokenizer = load_tokenizer(vocab_size=model.config.vocab_size, model_path=demo.MODEL)
    with zipfile.ZipFile(path) as archive:
        said = json.loads(archive.read("conversation.json"))
    return [_last_answer(model, tokenizer, branch) for branch in said["branches"].values()]


def _last_answer(model: Model, tokenizer: Tokenizer, branch: dict[str, Any]) -> str:
    turns = [[*turn["prompt"], *turn["tokens"]] for turn in branch["turns"]]
    state = from_nothing(model, tokenizer, branch["opening"], turns)
    chat = Conversation(model, tokenizer, TEMPLATES["raven"], params(0), OPENING, start=state)
    chat.current_branch.start = state
    return f"{hashlib.sha256(state.data.tobytes()).hexdigest()[:16]} {''.join(chat.ask(LAST))}"


def check_end(soak: Soak) -> int:
    """Compare all branches here and in a new process; raise AssertionError if they differ. Returns their number."""
    soak.save_and_load()
    here = []
    for name, branch in list(soak.chat.branches.items()):
        soak.compare(branch)
        state = soak.chat.position(branch=branch).state
        soak.chat.switch(name)
        soak.chat.params, soak.chat.n_asked = params(0), 0
        here.append(f"{hashlib.sha256(state.data.tobytes()).hexdigest()[:16]} {''.join(soak.chat.ask(LAST))}")
    command = [sys.executable, __file__, "--replay", str(soak.file)]
    there = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert here == there, (here, there)
    return len(here)


def main() -> None:
    """The long run, or the check of a saved chat in a new process."""
    parser = argparse.ArgumentParser(description="A long random conversation.")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        print(json.dumps(last_answers(options.replay)))
        return
    conversation.STATE_BUDGET = BUDGET
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(options.seed, Path(folder))
        soak.run(options.tokens, lambda line: print(line, file=sys.stderr, flush=True))
        n_branches = check_end(soak)
    first, last = growth(soak.memory)
    print(f"{soak.n_tokens} tokens written; {dict(soak.done)}")
    print(
        f"{soak.n_compared} times the state was that of reading from the start; "
        f"also in another process, for {n_branches} branches"
    )
    print(f"RssAnon: {first / 1e6:.2f} MB after the first fifth, {last / 1e6:.2f} at the end, {last / first - 1:+.2%}")
    sys.exit(last > GROWTH * first)


if __name__ == "__main__":
    main()
