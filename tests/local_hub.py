"""A local server that behaves like the Hugging Face hub, for one repository, o/r; and its storage server.

The hub describes a file (X-Linked-Size, X-Linked-ETag, X-Repo-Commit) and redirects to the storage on another port, as
the real hub does for large files. Without `has_storage` it sends the bytes itself, as for small files.
"""

import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from waiting import PATIENCE, until


class Server(ThreadingHTTPServer):
    """Counts the running requests, so that a test can wait for their end."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.busy, self._lock = 0, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, request, client_address):
        with self._lock:
            self.busy += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self.busy -= 1

    def handle_error(self, request, client_address):
        """Ignore the error: a killed client is not an error of the server."""

    def finish(self):
        """Wait for the end of all requests, including those of a killed client."""
        socket.create_connection(self.server_address, PATIENCE).close()  # accepted after all earlier ones
        until(lambda: self.busy == 0, "the end of all requests")

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.shutdown()
        self.server_close()


class Hub:
    """The served files, and the errors to simulate.

    files          content by name
    cut            the connection always breaks after this many bytes of a file
    cuts           the same for each of the next requests; then no more breaks
    is_silent      instead of breaking, the connection stays open without data until `close`
    answers        (status, headers) for the next requests, instead of the file
    ignores_range  sends the whole file whatever range was requested
    tag            the ETag, instead of the SHA-256
    sent           sent instead of a file's content
    requests       (method, first requested byte), recorded where the bytes are stored
    tokens         the Authorization of each request to the hub; storage_tokens, to the storage
    """

    def __init__(self, has_storage=False):
        self.files, self.cut, self.cuts, self.answers = {}, None, [], []
        self.ignores_range, self.tag, self.sent = False, None, {}
        self.is_silent, self.is_closing = False, threading.Event()
        self.requests, self.tokens, self.storage_tokens = [], [], []
        self.server = Server(type("HubHandler", (Handler,), {"hub": self}))
        self.storage = Server(type("StorageHandler", (Storage,), {"hub": self})) if has_storage else None

    @property
    def address(self):
        return self.server.address

    def tag_of(self, name):
        return self.tag or hashlib.sha256(self.files[name]).hexdigest()

    def gets(self):
        """The first requested bytes."""
        return [start for method, start in self.requests if method == "GET"]

    def forget(self):
        """Start a new list of requests, after those of a killed client have ended."""
        for server in filter(None, (self.server, self.storage)):
            server.finish()
        self.requests.clear()

    def close(self):
        self.is_closing.set()
        for server in filter(None, (self.server, self.storage)):
            server.close()


class Handler(BaseHTTPRequestHandler):
    """The hub."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    @property
    def name(self):
        return unquote(self.path).removeprefix("/o/r/resolve/main/")

    def answer(self):
        hub = self.hub
        hub.tokens.append(self.headers.get("Authorization"))
        if hub.answers:
            status, headers = hub.answers.pop(0)
            self.say(status, headers)
        elif self.name not in hub.files:
            self.say(404, {"X-Error-Code": "EntryNotFound"})
        elif hub.storage:
            place = f"{hub.storage.address}{self.path}"
            tag, size = hub.tag_of(self.name), len(hub.files[self.name])
            linked = {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": size, "X-Repo-Commit": "c" * 40}
            self.say(302, {"Location": place, **linked})
            if self.command == "HEAD":
                hub.requests.append(("HEAD", 0))
        else:
            self.send({"ETag": f'"{hub.tag_of(self.name)}"', "X-Repo-Commit": "c" * 40})

    def say(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": 0}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, headers):
        hub, asked = self.hub, self.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        hub.requests.append((self.command, start))
        is_part = bool(asked) and not hub.ignores_range
        content = hub.sent.get(self.name, hub.files[self.name])
        if is_part and start >= len(content):
            self.say(416, headers)
            return
        begin = start if is_part else 0
        self.send_response(206 if is_part else 200)
        headers = {**headers, "Content-Length": len(content) - begin}
        headers |= {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if is_part else {}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            cut = hub.cuts.pop(0) if hub.cuts else hub.cut
            self.wfile.write(content[begin:cut])
            if hub.is_silent and cut is not None:
                hub.is_closing.wait(PATIENCE)


class Storage(Handler):
    """The hub's storage of large files: another host, with other ETags for the same content."""

    def answer(self):
        self.hub.storage_tokens.append(self.headers.get("Authorization"))
        self.send({"ETag": '"the-storage-has-its-own"'})
