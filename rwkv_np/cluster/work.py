"""What a node does with the model, as the cluster sees it: items in, results out, many at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Numbered(Protocol):
    """An item or a result. Items have different numbers, and a result has that of its item."""

    @property
    def number(self) -> int:
        """The number."""


class Work(Protocol):
    """A loaded model at work. `submit` and `take_within` are called from different threads."""

    @property
    def n_ahead(self) -> int:
        """How many items should be submitted and not taken, so that there is always something to do."""

    def submit(self, item: Any) -> None:
        """Start with an item. Does not wait, and does not raise for a bad item: that gives a result too."""

    def take_within(self, seconds: float) -> Any:
        """The next result. Raises queue.Empty: there is none in that time; RwkvError: the work has failed."""

    def stop(self) -> None:
        """Drop what is not done."""


@dataclass(frozen=True)
class Parcel:
    """All that a node needs to begin.

    path         of the model, where the job was started; a node that has the file there does not fetch it
    fingerprint  of the model
    options      of the command
    files        the files that options name: option -> (file name, content)
    opens        a function of a module: (path of the model, options) -> Work
    version      of this package
    """

    path: str
    fingerprint: str
    options: Mapping[str, Any]
    files: Mapping[str, tuple[str, bytes]]
    opens: Callable[[str, Mapping[str, Any]], Work]
    version: str
