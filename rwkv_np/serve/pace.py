"""How many tokens of waiting prompts a step processes next to the answers that are being generated.

A step reads every weight once, so up to eight columns cost little more than one; beyond that, each column costs time.
The cost differs from machine to machine and from model to model, so it is measured while the server runs. The bits of
an answer do not depend on it: a wrong estimate only costs time.
"""

from __future__ import annotations

import math

GROUP = 8  # columns that the kernels process together
MOST = 128  # columns of a forward pass
FORGET = 200  # steps after which a size is tried again: its one measurement may have been disturbed


class Pace:
    """Chooses the columns of a step from the time that earlier steps took.

    stall  how much longer a step with prompt tokens may take than one without: 2 is twice as long. Infinity: every step
           is as large as possible, and nothing is measured for it
    """

    def __init__(self, stall: float = 2.0) -> None:
        self._stall = stall
        self._seconds: dict[int, float] = {}  # smoothed time of a step, by its number of groups
        self._seen: dict[int, int] = {}  # the step at which each was last measured
        self._n_steps = 0
        self.tokens_per_second = 0.0  # speed of reading prompts while no answer is generated

    def took(self, columns: int, seconds: float) -> None:
        """Record that a step of `columns` columns took `seconds`."""
        self._n_steps += 1
        group = -(-columns // GROUP)
        known = self._known(group)
        before = seconds if known is None else known
        # A slow step among fast ones is caused by another program: it has a low weight.
        self._seconds[group] = before + (0.5 if seconds < before else 0.1) * (min(seconds, 2 * before) - before)
        self._seen[group] = self._n_steps
        if columns > MOST // 2:
            rate = columns / seconds
            self.tokens_per_second += (0.3 if self.tokens_per_second else 1.0) * (rate - self.tokens_per_second)

    def room(self, n_writing: int) -> int:
        """How many prompt tokens the next step processes, at least one."""
        if not n_writing:
            return MOST
        first = -(-n_writing // GROUP)
        last = max(first, self._last_group(first))
        room = last * GROUP - n_writing
        return max(min(room, MOST - n_writing), 1) if room else GROUP

    def _last_group(self, first: int) -> int:
        """The largest step that is fast enough; one group more than was measured is tried."""
        if math.isinf(self._stall):
            return MOST // GROUP
        alone = self._known(first)
        if alone is None:
            return first + 1
        last = first
        while last < MOST // GROUP:
            seconds = self._known(last + 1)
            if seconds is None:
                return last + 1
            if seconds > self._stall * alone:
                return last
            last += 1
        return last

    def _known(self, group: int) -> float | None:
        """Seconds of a step of that size; None if it was not measured recently."""
        if self._n_steps - self._seen.get(group, -(10**9)) > FORGET:
            return None
        return self._seconds[group]
