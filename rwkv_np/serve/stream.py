"""Server-sent events: how both kinds of answers are streamed.

The headers wait for the first event (or the first pause), so that an error before it is still an HTTP error. A later
error is an event with the error object, without [DONE] after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rwkv_np.serve.answering import Answering
from rwkv_np.serve.errors import as_api_error, log_failure
from rwkv_np.serve.events import Read, Written
from rwkv_np.serve.exchange import Exchange, HangUp
from rwkv_np.serve.mailbox import Quiet

_TYPE = b"text/event-stream; charset=utf-8"
# Proxies buffer a stream until its end unless these headers forbid it: nginx obeys the second.
_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


def frame(piece: msgspec.Struct) -> bytes:
    """A chunk as an event."""
    return b"data: %b\n\n" % encode(piece)


async def send_stream(
    exchange: Exchange,
    answering: Answering,
    frames: Callable[[Read | Written], bytes],
    last: Callable[[], Sequence[bytes]],
) -> None:
    """Send the `frames` of all events, and at the end those of `last`."""
    try:
        while answering.is_open:
            events = await answering.next()
            data = b"".join([PING if isinstance(event, Quiet) else frames(event) for event in events])
            if data:
                await _write(exchange, data)
    except HangUp:
        raise
    except Exception as error:
        if exchange.status is None:
            raise
        told = as_api_error(error)
        if told.status == 500:
            log_failure(exchange.id, error)
        await exchange.write(b"data: %b\n\n" % told.body, is_last=True)
        return
    await _write(exchange, b"".join([*last(), DONE]), is_last=True)


async def _write(exchange: Exchange, data: bytes, *, is_last: bool = False) -> None:
    if exchange.status is None:
        await exchange.begin(200, _TYPE, _HEADERS)
    await exchange.write(data, is_last=is_last)
