"""Tokens of running answers that are guessed and read ahead, while a step has free columns.

A step reads every weight once, and up to eight columns cost little more than one (pace.py). With few answers and no
prompt to read, the free columns get guesses (rwkv_np/lookup.py). What the samplers choose is kept, as in
generation.py: so the bytes of an answer are the same with and without guesses.

A run with guesses leaves the state before it, and so needs a second slot. There are a few for all answers together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rwkv_np.drafts import Drafts
from rwkv_np.lookup import Lookup
from rwkv_np.models.base import Model, Run
from rwkv_np.serve.pace import GROUP
from rwkv_np.serve.sequences import Writing
from rwkv_np.serve.table import Table


class Guess:
    """The guesses of one answer in this step.

    place    which of the step's runs this is
    n_right  how many of the guesses were chosen so far
    rows     the logits after each token of the run
    """

    def __init__(self, run: Run, place: int) -> None:
        self.run, self.place, self.n_right = run, place, 0
        self.rows = np.empty((0, 0), np.float32)

    @property
    def tokens(self) -> Sequence[int]:
        return self.run.tokens  # type: ignore[return-value]

    def follow(self, token: int) -> bool:
        """Whether `token` is the next guess; then it counts as right."""
        is_right = self.n_right + 1 < len(self.tokens) and self.tokens[self.n_right + 1] == token
        self.n_right += is_right
        return is_right


class Guesses:
    """Guesses for the answers of a table.

    is_on      whether anything is guessed
    n_guesses  how many tokens of this step are guesses
    n_right    how many of them were chosen
    """

    def __init__(self, model: Model, table: Table, *, is_on: bool = True) -> None:
        self._model, self._table, self.is_on = model, table, is_on
        self._runs: list[Run] = []
        self._of: dict[Writing, Guess] = {}
        self._read: list[Writing] = []  # the answers of this step, if it has no prompts
        self.n_guesses = self.n_right = 0

    def runs(self, writing: Sequence[Writing], n_prompts: int) -> list[Run]:
        """A run for each answer, which reads its last token, and guesses where there is room."""
        self._read = [] if n_prompts else list(writing)
        room = GROUP - len(writing) if self.is_on and not n_prompts else 0
        for place, answer in enumerate(writing):
            guesses = self._guess(answer, room, len(writing)) if room > 0 else []
            room, self.n_guesses = room - len(guesses), self.n_guesses + len(guesses)
            if not guesses:
                self._runs.append(Run(answer.ids[-1], answer.slot))
                continue
            run = Run([answer.ids[-1], *guesses], answer.slot, "all", self._table.spare())
            self._of[answer] = Guess(run, place)
            self._runs.append(run)
        return self._runs

    def _guess(self, answer: Writing, room: int, n_sharing: int) -> list[int]:
        request = answer.ticket.request
        if answer.drafts is None:
            answer.drafts = Drafts([Lookup(request.prompt.tolist())])
            answer.drafts.extend(answer.ids)
        if not self._table.has_spare:
            return []
        left = request.max_tokens - len(answer.ids) - 1
        return answer.drafts.guess(min(room, left), request.params.stop_ids, n_sharing)

    def took(self, seconds: float) -> None:
        """The step's pass took so long. With prompts in it, that says nothing about guesses."""
        for answer in self._read:
            if answer.drafts is not None:
                guess = self._of.get(answer)
                answer.drafts.took(len(guess.tokens) - 1 if guess else 0, seconds)

    def rows(self, answer: Writing, logits: np.ndarray) -> np.ndarray:
        """The logits for the answer's next token, of its rows (T, V) of the step."""
        if guess := self._of.get(answer):
            guess.rows = logits
        return logits[0]

    def next_row(self, answer: Writing, token: int) -> np.ndarray | None:
        """The logits after `token`, which was just chosen, if it was guessed."""
        guess = self._of.get(answer)
        if guess is None or not guess.follow(token):
            return None
        self.n_right += 1
        return guess.rows[guess.n_right]

    def settle(self, answer: Writing) -> None:
        """Let the answer's slot have the state after the tokens that were chosen, and no guesses."""
        if guess := self._of.pop(answer, None):
            self._cut([guess])
            self._move(answer, guess)

    def finish(self, is_broken: bool = False) -> None:
        """Settle all answers that are left. After a step that was broken off, only the slots are given back."""
        if not is_broken:
            self._cut([guess for answer, guess in self._of.items() if answer in self._table.writing])
        for answer, guess in self._of.items():
            if answer in self._table.writing and not is_broken:
                self._move(answer, guess)
            else:
                self._table.give_back(guess.run.after)
        for answer in self._read:
            if answer.drafts is not None and answer not in self._of:
                answer.drafts.were_right(0)
        self._runs, self._of, self._read = [], {}, []
        self.n_guesses = self.n_right = 0

    def _cut(self, guesses: Sequence[Guess]) -> None:
        lengths = [0] * len(self._runs)
        for guess in guesses:
            n = guess.n_right + 1
            lengths[guess.place] = n if n < len(guess.tokens) else 0
        if any(lengths):
            self._model.cut(self._runs, lengths, self._table.pool)

    def _move(self, answer: Writing, guess: Guess) -> None:
        assert guess.run.after is not None and answer.drafts is not None
        answer.slot, spare = guess.run.after, answer.slot
        self._table.give_back(spare)
        answer.drafts.were_right(guess.n_right)
