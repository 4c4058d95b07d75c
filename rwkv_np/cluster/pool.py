"""All nodes of a cluster at work on one job.

Nodes may come and go. What a lost node had not finished goes to the others, first of all. Each item has one result:
nothing is taken from a node that was given up. If nothing moves, a line says which node is to blame, and why.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import ray

from rwkv_np.cluster.seat import READY, Seat, new_donor
from rwkv_np.cluster.work import Numbered, Parcel
from rwkv_np.errors import InputError, RwkvError, as_line

_LOOK_EVERY = 2.0  # seconds between two looks at which nodes there are
QUIET = 30.0  # seconds without a reply until a line says so, and between two such lines
_CONNECT = 10.0  # seconds
GIVE_UP = 600.0  # seconds without any node that works
MOST_LOSSES = 5  # of actors on one node without a result in between


class Pool:
    """The nodes of the cluster at `address`.

    notify  gets a line when a node joins or is lost, and when nothing moves
    """

    def __init__(self, address: str, parcel: Parcel, notify: Callable[[str], None]) -> None:
        """Raises InputError: there is no cluster at that address."""
        self._parcel, self._notify = parcel, notify
        self._seats: dict[str, Seat] = {}
        self._losses: Counter[str] = Counter()
        self._again: deque[Numbered] = deque()
        self._looked = self._told = -QUIET
        self._worked = time.monotonic()
        self._nowhere = contextlib.ExitStack()
        self._hide_stdout()
        _connect(address)

    def results(self, items: Iterable[Numbered]) -> Iterator[Any]:
        """The result of each item, in the order in which they are done. Raises RwkvError: a node cannot do the work."""
        left = iter(items)
        is_left = True
        while True:
            self._look()
            is_left = self._fill(left) and is_left
            if not is_left and not self._again and not any(seat.open for seat in self._seats.values()):
                return
            yield from self._wait()

    def close(self) -> None:
        """End all actors, and leave the cluster."""
        for seat in self._seats.values():
            seat.end()
        ray.shutdown()
        self._nowhere.close()

    def _hide_stdout(self) -> None:
        """Ray prints pages about a lost node to stdout, where the results may go. They are in its logs, too."""
        file = self._nowhere.enter_context(open(os.devnull, "w", encoding="utf-8"))
        self._nowhere.enter_context(contextlib.redirect_stdout(file))

    @cached_property
    def _donor(self) -> Any:
        return new_donor(self._parcel.path)

    def _look(self) -> None:
        """Use nodes that have joined, and give up those that have left."""
        now = time.monotonic()
        if now < self._looked + _LOOK_EVERY:
            return
        self._looked = now
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
        for seat in [seat for node_id, seat in self._seats.items() if node_id not in nodes]:
            self._lose(seat, "the node has left the cluster")
        for node_id, node in nodes.items():
            if node_id not in self._seats and self._losses[node_id] < MOST_LOSSES:
                self._seats[node_id] = Seat(node, self._parcel)
        self._watch(now)

    def _watch(self, now: float) -> None:
        """Say what is wrong if a node does not reply. Raises RwkvError if no node has worked for long."""
        if any(seat.state == READY for seat in self._seats.values()):
            self._worked = now
        problems = [seat.problem for seat in self._seats.values() if now > seat.changed + QUIET]
        if not self._seats:
            problems = ["there is no node to work on (ray status shows the nodes)"]
        if problems and now > self._told + QUIET:
            self._told = now
            for problem in problems:
                self._notify(f"Waiting: {problem}")
        if now > self._worked + GIVE_UP:
            raise RwkvError(f"no node has worked for {GIVE_UP:.0f} s: {'; '.join(problems)}")

    def _fill(self, left: Iterator[Numbered]) -> bool:
        """Give each node enough to do. Returns whether items may be left."""
        for seat in self._seats.values():
            wanted = seat.n_ahead - len(seat.open)
            if wanted <= 0:
                continue
            again = [self._again.popleft() for _ in range(min(wanted, len(self._again)))]
            new = list(islice(left, wanted - len(again)))
            seat.give([*again, *new])
            if len(again) + len(new) < wanted:
                return False
        return True

    def _wait(self) -> Iterator[Any]:
        seats = {seat.pending: seat for seat in self._seats.values()}
        if not seats:
            time.sleep(0.2)
            return
        ready, _ = ray.wait(list(seats), timeout=1.0)
        for pending in ready:
            yield from self._take(seats[pending])

    def _take(self, seat: Seat) -> list[Any]:
        was_ready = seat.state == READY
        try:
            found = seat.take(lambda: self._donor)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, RwkvError) else error from None
        except ray.exceptions.RayError as error:
            self._lose(seat, _first_line(error))
            return []
        if found:
            del self._losses[seat.node_id]
        if seat.state == READY and not was_ready:
            self._notify(f"Node {seat.name}: ready")
            self._compare_kernels()
        return found

    def _lose(self, seat: Seat, why: str) -> None:
        """A node does not work any more: what it had is done elsewhere, or there by another actor."""
        del self._seats[seat.node_id]
        self._losses[seat.node_id] += 1
        self._again += seat.open.values()
        seat.end()
        self._notify(f"Node {seat.name} is lost: {why}. {len(seat.open)} items are done again")
        if self._losses[seat.node_id] == MOST_LOSSES:
            self._notify(f"Node {seat.name} is not used any more, after {MOST_LOSSES} losses in a row")

    def _compare_kernels(self) -> None:
        paths = sorted({seat.kernels for seat in self._seats.values() if seat.kernels})
        if len(paths) > 1:
            self._notify(
                f"The nodes' processors use different kernels ({', '.join(paths)}), which round differently: for the "
                "same bytes on all, set RWKV_NP_KERNELS to one of them on all nodes"
            )


def _connect(address: str) -> None:
    """Join the cluster. Ray would replace our handler of SIGTERM by its own."""
    _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except ray.exceptions.AuthenticationError as error:
        mend = "set RAY_AUTH_TOKEN to the cluster's token (on its head: ray get-auth-token)"
        raise InputError(f"the Ray cluster at {address} refuses this program; {mend}") from error
    except (ConnectionError, RuntimeError) as error:
        mend = "start one with: ray start --head; or give --address"
        raise InputError(f"there is no Ray cluster at {address} ({as_line(str(error), 120)}); {mend}") from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _check_address(address: str) -> None:
    """Raise InputError if nothing listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return  # a word (auto, local), or an address of Ray's client
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        mend = "start one with: ray start --head; or give another --address"
        raise InputError(f"there is no Ray cluster at {address} ({as_line(str(error), 120)}); {mend}") from error


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return as_line(said[0], 160).rstrip(".")
