"""How much one HTTP request may ask for. What is beyond is a 400 or a 413, before the engine hears of it.

The engine's own limits (limits.py) are about all requests together.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_DEPTH = 32
SCHEMA_BYTES = 65_536
STOP_STRINGS = 16
STOP_CHARACTERS = 256
BIASED_TOKENS = 1024
TOOLS = 128
MESSAGES = 10_000


@dataclass(frozen=True)
class Bounds:
    """Limits of a request.

    body_bytes       of its JSON text
    body_seconds     for it to arrive
    answers          prompts times `n` (or `best_of`)
    prompts          of one request
    max_tokens       of one answer
    default_tokens   of a chat's answer whose request names no number
    seconds          until the last answer is complete, waiting included
    ping_seconds     after how long without a word a stream gets a comment, so that no proxy ends it
    unread_pieces    of an answer whose client does not read its stream: then it is cut
    """

    body_bytes: int = 4_000_000
    body_seconds: float = 30.0
    answers: int = 128
    prompts: int = 64
    max_tokens: int = 65_536
    default_tokens: int = 4096
    seconds: float = 3600.0
    ping_seconds: float = 10.0
    unread_pieces: int = 1000
