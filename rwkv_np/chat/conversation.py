"""A conversation: turns, the states between them, undo, regenerate and continue.

A state is all that the model remembers, so the latest ones are kept: undoing, asking again and
forking cost nothing. Older ones are dropped, and computed again from the tokens when they are
needed. It knows templates and states, not terminals.

An answer is recorded when it ends. Of an interrupted answer, the part that was shown is recorded. If reading its
prompt was cancelled or failed, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rwkv_np.chat.opening_cache import OpeningCache
from rwkv_np.chat.templates import FREE, Template
from rwkv_np.chat.thinking import Answer
from rwkv_np.chat.turn import Branch, Turn
from rwkv_np.completion import Completion
from rwkv_np.draft_model import DraftModel
from rwkv_np.drafts import Guesser
from rwkv_np.errors import InputError
from rwkv_np.generation import Progress, prefill
from rwkv_np.lookup import Lookup
from rwkv_np.models.base import Model
from rwkv_np.models.state import State
from rwkv_np.position import Position
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import Tokenizer

# Bytes of memory for the states after turns. A state has 0.2 to 2.6 MB in RWKV-4 and 13 to 66 MB in v7, so a fixed
# number of turns would be too few for one or a gigabyte for the other.
STATE_BUDGET = 128_000_000
MAIN = "main"


class Conversation:
    """The messages and answers of a user and a model.

    template   the prompt format
    params     the sampling settings; may be replaced at any time
    branches   the branches by name; `branch` is the name of the current one
    aside      the last free generation or independent question, which is not part of the conversation
    n_asked    how many answers were started: each has its own seed
    start      the state in which the opening (or the first message) is read; None for the empty state
    lookup     whether to guess tokens from earlier places with the same words; answers are the same with and without
    draft      a small model that guesses what lookup does not find; None: there is none
    keep_thoughts  whether later turns are read after the thoughts of earlier ones
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        template: Template,
        params: SamplingParams,
        opening: str = "",
        cache: OpeningCache | None = None,
        *,
        keep_thoughts: bool = False,
        start: State | None = None,
        lookup: bool = True,
        draft: DraftModel | None = None,
    ) -> None:
        self.model, self.tokenizer, self.template, self.params = model, tokenizer, template, params
        self.branches = {MAIN: Branch(opening)}
        self.branch = MAIN
        self.aside: Turn | None = None
        self._is_aside_last = False
        self.n_asked = 0
        self.cache, self.keep_thoughts, self.start = cache, keep_thoughts, start
        self.lookup, self.draft = lookup, draft
        self._n_made = 0

    # --- the current position

    @property
    def current_branch(self) -> Branch:
        """The current branch."""
        return self.branches[self.branch]

    @property
    def turns(self) -> list[Turn]:
        """The turns of the current branch."""
        return self.current_branch.turns

    @property
    def opening(self) -> str:
        """The text that the current branch began with."""
        return self.current_branch.opening

    @property
    def last(self) -> Turn | None:
        """The last answer: an aside or a turn."""
        return self.aside if self._is_aside_last else self.turns[-1] if self.turns else None

    def state(self, progress: Progress | None = None) -> State:
        """The state after the last turn."""
        return self._state_after(self.turns, progress)

    def begin(self, progress: Progress | None = None, branch: Branch | None = None) -> State:
        """Read the opening (of the current branch), or remember it; returns the state after it."""
        branch = branch or self.current_branch
        if branch.start is None:
            branch.start = self._read_opening(branch.opening, progress)
        return branch.start

    def position(self, progress: Progress | None = None, branch: Branch | None = None) -> Position:
        """The model's position after the last turn (of the current branch): with logits if there is one."""
        branch = branch or self.current_branch
        return self._position_after(branch, branch.turns, progress)

    def reset(self, opening: str | None = None, progress: Progress | None = None) -> None:
        """Go back to the opening, or start with another one; other branches stay."""
        begun = Branch(self.opening, self.begin(progress))
        if opening is not None and opening != self.opening:
            begun = Branch(opening, self._read_opening(opening, progress))
        self.branches[self.branch], self._is_aside_last = begun, False

    def leave_opening_out(self) -> bool:
        """Continue without the opening; False if there are turns after it, which need it."""
        if self.turns:
            return False
        self.branches[self.branch] = Branch()
        return True

    def undo(self, n: int = 1) -> list[Turn]:
        """Undo the last `n` turns, and return them."""
        if not 1 <= n <= len(self.turns):
            raise InputError(f"{n} {'turn' if n == 1 else 'turns'} cannot be undone; there are {len(self.turns)}")
        undone = self.turns[-n:]
        del self.turns[-n:]
        self._is_aside_last = False
        return undone

    def fork(self, name: str) -> None:
        """Continue in a new branch of that name; the current one stays as it is."""
        if name in self.branches:
            raise InputError(f"a branch {name!r} already exists; choose another name, or /switch {name}")
        self.branches[name] = self.current_branch.fork()
        self.switch(name)

    def switch(self, name: str) -> None:
        """Switch to another branch."""
        if name not in self.branches:
            raise InputError(f"there is no branch {name!r}; there are {', '.join(self.branches)}")
        self.branch, self._is_aside_last = name, False

    # --- asking the model; iterate over the answer that is returned

    def ask(self, message: str, progress: Progress | None = None, **changes: Any) -> Answer:
        """Send `message`; `changes` are settings for this answer only."""
        return self._ask(message, list(self.turns), progress, changes)

    def edit(self, message: str, progress: Progress | None = None, **changes: Any) -> Answer:
        """Send `message` in place of the last one."""
        self._require_turn()
        return self._ask(message, self.turns[:-1], progress, changes)

    def ask_aside(
        self,
        message: str,
        template: Template = FREE,
        progress: Progress | None = None,
        *,
        after_opening: bool = False,
        **changes: Any,
    ) -> Answer:
        """Answer a message outside the conversation, from the empty state or after the opening."""
        state = self.begin(progress) if after_opening else self.model.initial_state()
        turn = self._turn(message, template, is_first=not (after_opening and self.opening))
        return self._answer(turn, Position(None, state), self._put_aside, [], changes, progress)

    def answer_again(self, turn: Turn | None = None, progress: Progress | None = None, **changes: Any) -> Answer:
        """Another answer in place of the last one: of the last turn, or of the aside if that is given."""
        turn = turn or self._require_turn()
        if turn is not self.aside and turn.lead is not None:
            asked = self._next_turn(turn.message, self.turns[:-1])
            if asked.prompt != turn.prompt:  # the think setting has changed
                return self._ask(turn.message, self.turns[:-1], progress, changes)
        again = turn.again()
        base = [] if turn is self.aside else self.turns[:-1]
        put = self._put_aside if turn is self.aside else self._putter(base)
        if turn.after_prompt:
            return self._answer(again, turn.after_prompt, put, base, changes)
        state = self._state_after(base, progress)  # an aside always has its position
        return self._answer(again, Position(None, state), put, base, changes, progress)

    def continue_answer(self, progress: Progress | None = None, **changes: Any) -> Answer:
        """Continue the last answer, whether it was interrupted or had ended."""
        turn = self.last or self._require_turn()
        start = turn.after_answer or self._after_answer(progress)
        base = [] if turn is self.aside else self.turns[:-1]
        put = self._put_aside if turn is self.aside else self._putter(base)
        return self._answer(turn.again(), start, put, base, changes, earlier=turn)

    # --- how it is done

    def _require_turn(self) -> Turn:
        if not self.turns:
            raise InputError("there is no message yet; send one first")
        return self.turns[-1]

    def _ask(self, message: str, base: list[Turn], progress: Progress | None, changes: dict[str, Any]) -> Answer:
        state = self._state_after(base, progress)
        turn = self._next_turn(message, base)
        return self._answer(turn, Position(None, state), self._putter(base), base, changes, progress)

    def _next_turn(self, message: str, base: list[Turn]) -> Turn:
        has_begun = self.template.is_dialogue and (base or self.opening)
        return self._turn(message, self.template, is_first=not has_begun)

    def _after_answer(self, progress: Progress | None) -> Position:
        """The model's position after the last turn's answer and its thinking; read again."""
        turn = self.turns[-1]
        if not turn.remembered:
            return self.position(progress)
        state = self._state_after(self.turns[:-1], progress)
        return Position(*prefill(self.model, (*turn.prompt, *turn.tokens), state, progress=progress))

    def _turn(self, message: str, template: Template, is_first: bool) -> Turn:
        # The separator that ended the last answer was rolled back with its stop string.
        before = "" if is_first else template.separator
        texts = (before + text for text in (template.prompt(message), template.turn(message)))
        prompt, plain = (tuple(self.tokenizer.encode_prompt(text)) for text in texts)
        return Turn(message, prompt, template.stop, lead=template.lead, plain=plain)

    def _answer(
        self,
        turn: Turn,
        start: Position,
        put: Callable[[Turn], None],
        base: list[Turn],
        changes: dict[str, Any],
        progress: Progress | None = None,
        earlier: Turn | None = None,
    ) -> Answer:
        """The answer to `turn`, whose prompt is read first unless `start` is after it; `base` are the turns before."""
        prompt = turn.prompt if start.logits is None else ()

        def record(done: Completion) -> None:
            if prompt and not done.was_read:
                return
            turn.record(done, self.tokenizer, earlier)
            if not self.keep_thoughts:
                turn.leave_thought_out(self.tokenizer)
            put(turn)

        params = self._params(turn.stop, self._not_first(turn, earlier), changes)
        unfinished = earlier.unfinished if earlier else None
        answer = Answer(
            self.model, self.tokenizer, prompt, params, start, progress, unfinished=unfinished, on_end=record,
            guessers=self._guessers(base, () if prompt else turn.prompt),
        )  # fmt: skip
        if turn.lead is not None:
            answer.before = turn.lead + (earlier.text if earlier else "")
        return answer

    def _guessers(self, base: list[Turn], prompt: Sequence[int]) -> list[Guesser]:
        """What guesses the tokens of an answer after these turns and a prompt that was read before."""
        before = [*(token for turn in base for token in turn.ids), *prompt]
        guessers: list[Guesser] = [Lookup(before)] if self.lookup else []
        if self.draft:
            self.draft.begin(before)
            guessers.append(self.draft)
        return guessers

    def _not_first(self, turn: Turn, earlier: Turn | None) -> frozenset[int]:
        """An interrupted answer may continue with any token; one that ended by itself would only end again."""
        would_end = earlier.is_finished if earlier else bool(turn.stop)  # free text may be at its end
        return self._endings if would_end else frozenset()

    def _params(self, stop: tuple[str, ...], not_first: frozenset[int], changes: dict[str, Any]) -> SamplingParams:
        params = replace(self.params, **changes)
        params = replace(params, stop=(*params.stop, *stop), not_first=params.not_first | not_first)
        if params.seed is not None:
            # With the same seed for every turn, a model with short answers would give the same answer each time.
            params = replace(params, seed=params.seed + self.n_asked)
        self.n_asked += 1
        return params

    def _putter(self, base: list[Turn]) -> Callable[[Turn], None]:
        branch = self.current_branch

        def put(turn: Turn) -> None:
            branch.turns = [*base, turn]
            self._is_aside_last = False
            for earlier in base:
                earlier.forget(also_end=False)
            # Without the thought, the turn is read again after the one before it.
            self.keep_states(turn, base[-1] if base and turn.remembered else None)

        return put

    def keep_states(self, turn: Turn, before: Turn | None = None) -> None:
        """Keep the states of `turn`, which were just made, and of the one that is needed `before` it.

        Others are kept within the budget, the latest first.
        """
        turn.made = self._n_made = self._n_made + 1
        n_bytes = 0
        for kept in sorted(self._all_turns(), key=lambda each: each.made, reverse=True):
            n_bytes += kept.n_bytes
            if n_bytes > STATE_BUDGET and kept not in (turn, before):
                kept.forget(also_end=True)

    def _all_turns(self) -> list[Turn]:
        """The turns of all branches, each once."""
        return list({id(turn): turn for branch in self.branches.values() for turn in branch.turns}.values())

    def _put_aside(self, turn: Turn) -> None:
        self.aside, self._is_aside_last = turn, True

    @cached_property
    def _endings(self) -> frozenset[int]:
        """Ids that would end an answer before it starts: line breaks, and the stop ids."""
        pieces = ((token, self.tokenizer.token_bytes(token)) for token in range(self.tokenizer.n_ids))
        blank = {token for token, piece in pieces if b"\n" in piece and not piece.strip()}
        return frozenset(blank | {token for token in self.params.stop_ids if token < self.tokenizer.n_ids})

    def _read_opening(self, text: str, progress: Progress | None) -> State:
        if not text:
            return self.start or self.model.initial_state()
        tokens = self.tokenizer.encode(text)
        cached = self.cache.get(tokens) if self.cache else None
        if cached is not None:
            return cached
        _, state = prefill(self.model, tokens, self.start, progress=progress)
        if self.cache:
            self.cache.put(tokens, state)
        return state

    def _position_after(self, branch: Branch, turns: list[Turn], progress: Progress | None) -> Position:
        """The position after the branch's first turns: the kept one, or computed again from the last kept one."""
        first = 0 if self.template.is_dialogue else len(turns) - 1
        last_kept = max((n for n in range(first, len(turns)) if turns[n].end), default=first - 1)
        position = turns[last_kept].end if last_kept >= first else None
        position = position or Position(None, self.begin(progress, branch))
        for turn in turns[last_kept + 1 :]:
            turn.end = position = Position(*prefill(self.model, turn.ids, position.state, progress=progress))
            self.keep_states(turn)
        return position

    def _state_after(self, turns: list[Turn], progress: Progress | None) -> State:
        """The state before the next message; a single round always starts from the opening."""
        if self.template.is_dialogue and turns:
            return self._position_after(self.current_branch, turns, progress).state
        return self.begin(progress)
