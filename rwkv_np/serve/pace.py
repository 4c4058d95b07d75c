"""How many tokens of waiting prompts a step carries next to the answers that are being written.

A step reads every weight once, so up to eight columns cost little more than one, and beyond that each
column has its price. The price differs from machine to machine and from model to model, so it is measured
while the server runs. The bits of an answer do not depend on it: a wrong estimate costs time only.
"""

from __future__ import annotations

GROUP = 8  # columns that the kernels take together
MOST = 128  # columns of a pass
FORGET = 200  # steps after which a size is tried again: the one time that it was measured may have been a bad one


class Pace:
    """Chooses the columns of a step from the time that earlier steps took.

    stall  how many times as long as without prompts a step may take that carries some
    """

    def __init__(self, stall: float = 1.5) -> None:
        self._stall = stall
        self._seconds: dict[int, float] = {}  # of a step with so many groups, smoothed
        self._seen: dict[int, int] = {}  # at which step each was last measured
        self._n_steps = 0
        self.tokens_per_second = 0.0  # of prompts that are read while nobody writes

    def took(self, columns: int, seconds: float) -> None:
        """A step of that many columns took so long."""
        self._n_steps += 1
        group = -(-columns // GROUP)
        known = self._known(group)
        before = seconds if known is None else known
        # A slow step among quick ones is another program's doing: it counts for little.
        self._seconds[group] = before + (0.5 if seconds < before else 0.1) * (min(seconds, 2 * before) - before)
        self._seen[group] = self._n_steps
        if columns > MOST // 2:
            rate = columns / seconds
            self.tokens_per_second += (0.3 if self.tokens_per_second else 1.0) * (rate - self.tokens_per_second)

    def room(self, n_writing: int) -> int:
        """How many tokens of prompts the next step carries, at least one."""
        if not n_writing:
            return MOST
        first = -(-n_writing // GROUP)
        last = max(first, self._last_group(first))
        room = last * GROUP - n_writing
        return max(min(room, MOST - n_writing), 1) if room else GROUP

    def _last_group(self, first: int) -> int:
        """The largest step that is quick enough; one group beyond what was measured is tried."""
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
        """Seconds of a step of that size; None if it was not measured, or long ago."""
        if self._n_steps - self._seen.get(group, -(10**9)) > FORGET:
            return None
        return self._seconds[group]
