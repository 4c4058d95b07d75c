"""One node during a job: its actor, what it was given, and what it is waiting for. Used by the pool alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rwkv_np.cluster.node import About, Donor, Node
from rwkv_np.cluster.work import Numbered, Parcel

STARTING, OPENING, READY = "starting", "opening", "ready"


class Seat:
    """A node with an actor.

    name     of the node
    state    STARTING (Ray starts the process), OPENING (it loads the model), READY
    pending  the one call that is waited for
    open     the items that it was given and that are not done, by number
    changed  when the last call returned
    """

    def __init__(self, node: dict[str, Any], parcel: Parcel) -> None:
        self.node_id, self.name = node["NodeID"], node["NodeManagerAddress"]
        self._parcel = parcel
        cpus = node["Resources"]["CPU"]
        # One CPU is left: if all were taken, nothing else could start on the node, not even to say why.
        self.cpus = max(cpus - 1, cpus / 2)
        on_node = NodeAffinitySchedulingStrategy(self.node_id, soft=False)
        # Calls of `take` wait in one thread while `submit` works in another.
        options = {"num_cpus": self.cpus, "max_concurrency": 4, "scheduling_strategy": on_node}
        self.actor = ray.remote(Node).options(**options).remote(self.name)
        self.state, self.n_ahead, self.kernels = STARTING, 0, ""
        self.open: dict[int, Numbered] = {}
        self.pending = self.actor.about.remote(parcel)
        self.changed = time.monotonic()

    def take(self, donor: Any) -> list[Any]:
        """The results of the call that has returned, and the next call. Raises what the call raised."""
        found = ray.get(self.pending)
        self.changed = time.monotonic()
        if self.state == STARTING:
            self._open(found, donor)
            return []
        if self.state == OPENING:
            self.state, self.n_ahead, found = READY, found, []
        self.pending = self.actor.take.remote()
        return [each for each in found if self.open.pop(each.number, None) is not None]

    def give(self, items: Iterable[Numbered]) -> None:
        """Give it more to do."""
        found = list(items)
        if found:
            self.open |= {item.number: item for item in found}
            self.actor.submit.remote(found)

    def end(self) -> None:
        """End the actor, if it lives."""
        with suppress(Exception):
            ray.kill(self.actor)

    def _open(self, about: About, donor: Any) -> None:
        self.state, self.kernels = OPENING, about.kernels
        read = None if about.has_model else donor().read
        self.pending = self.actor.open.remote(self._parcel, read)

    @property
    def problem(self) -> str:
        """What may be wrong if the call has not returned for long."""
        if self.state == STARTING:
            return (
                f"node {self.name}: the actor has not started; it needs {self.cpus:g} CPUs, and another job may have "
                "them (ray status shows it)"
            )
        if self.state == OPENING:
            return f"node {self.name}: still fetching or loading the model"
        return f"node {self.name}: does not reply; it is overloaded, or its connection is lost"


def new_donor(path: str) -> Any:
    """An actor here that sends the model's file."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Donor).options(num_cpus=0, scheduling_strategy=here).remote(path)
