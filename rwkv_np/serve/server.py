"""The program around the application: the socket, uvicorn, signals, and the shutdown.

SIGTERM or Ctrl-C starts a clean shutdown: /health and new requests get a 503, running requests are finished (for at
most the drain timeout), then connections are closed. A second signal ends the program at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from rwkv_np.errors import InputError
from rwkv_np.serve.app import App
from rwkv_np.serve.protocol import Protocol
from rwkv_np.serve.request import Listener, Request, Ticket
from rwkv_np.serve.service import Service
from rwkv_np.serve.worker import Worker

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_FLUSH = 5  # seconds to send the last bytes of answers after the engine has finished


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to that address; it accepts no connections before it listens. Raises InputError: it is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: this address does not exist ({error})") from error
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        mend = "choose another with --port; 0 picks a free one"
        raise InputError(f"{host}, port {port}: {error.strerror or error}; {mend}") from error
    return made


def is_local(listening: socket.socket) -> bool:
    """Whether only this computer can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0].split("%")[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    """The address for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server:
    """Serves until a signal, or until `end` is called from another thread."""

    def __init__(self, service: Service, worker: Worker, listening: socket.socket, drain_seconds: float = 30) -> None:
        self.service, self.worker, self._listening, self._drain_seconds = service, worker, listening, drain_seconds
        config = uvicorn.Config(
            App(service), http=Protocol, lifespan="off", ws="none", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=30, timeout_graceful_shutdown=_FLUSH,
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config, self.end)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_ends = 0
        self.has_begun = threading.Event()

    def run(self) -> None:
        """Serve; return after the shutdown."""
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        try:
            asyncio.run(self._main())
        finally:
            self.worker.stop()

    def end(self) -> None:
        """Shut down cleanly; the second call ends at once. May be called from any thread, or a signal handler."""
        self._n_ends += 1
        if self._n_ends > 1:
            self._uvicorn.force_exit = self._uvicorn.should_exit = True
        elif self._loop is not None:
            # A separate thread: the shutdown would wait for the loop's executor.
            threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        self.worker.drain(self._drain_seconds)
        self._uvicorn.should_exit = True

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.service.outbox.open(self._loop)
        self.worker.start()
        self.has_begun.set()
        try:
            await self._uvicorn.serve(sockets=[self._listening])
        finally:
            self.service.outbox.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn with our shutdown: its own would refuse connections at once, also for /health."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_signal()


def submitter(worker: Worker) -> Callable[[Request, Listener], Ticket]:
    """`worker.submit`, but it raises if the engine's thread has ended."""

    def submit(request: Request, listener: Listener) -> Ticket:
        if not worker.is_alive and not worker.is_draining:
            raise RuntimeError("the engine's thread has ended")
        return worker.submit(request, listener)

    return submit


def stats(worker: Worker) -> dict[str, float]:
    """The engine's load and the size of its cache, for /metrics."""
    cache = worker.cache
    return {
        "waiting_requests": len(worker.waiting),
        "waiting_tokens": worker.waiting.n_tokens,
        "reading_prompts": len(worker.scheduler.table.reading),
        "writing_answers": len(worker.scheduler.table.writing),
        "cache_bytes": cache.n_bytes,
        "cache_states": len(cache),
        "cache_hits": cache.counts.hits,
        "cache_misses": cache.counts.misses,
        "cache_evictions": cache.counts.evictions,
    }
