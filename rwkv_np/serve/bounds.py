"""How much one HTTP request may ask for. A larger request gets a 400 or 413, before it reaches the engine.

The engine's own limits (limits.py) apply to all requests together.
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

    body_bytes       size of its JSON text
    body_seconds     time for the body to arrive
    answers          prompts times `n` (or `best_of`)
    prompts          in one request
    max_tokens       in one answer
    default_tokens   in a chat answer, if the request has no limit
    seconds          until the last answer is complete, including waiting
    ping_seconds     after this long without output a stream gets a comment, so that no proxy closes it
    unread_pieces    a stream with this many unread chunks is closed: the client does not read
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
