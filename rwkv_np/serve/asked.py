"""What a request asks of the engine, and the name and time that its answer gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from rwkv_np.serve.answer_text import AnswerText
from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.request import Request
from rwkv_np.serve.schema import JsonGuide


class Asked(NamedTuple):
    """A prompt for the engine, and objects that build the texts of its answers."""

    request: Request
    texts: Sequence[AnswerText]
    guides: Sequence[JsonGuide] = ()


class Label(NamedTuple):
    """What an answer's object says about itself.

    name     unique for the request: the end of `id`
    created  seconds since 1970
    """

    name: str
    created: int


def deadline(bounds: Bounds) -> float:
    """The deadline of a request that begins now, on the clock of time.monotonic()."""
    return time.monotonic() + bounds.seconds
