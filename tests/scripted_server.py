"""A server of the page whose answers a test writes: for thoughts, errors and attacks, which the demo model lacks.

It sends the page's files as the real server does, and streams of the same form. `reply(body)` gives the steps of an
answer: a text, `Thought(text)`, `Pause(seconds)`, `Refuse(status, message, headers)`, `Hold()` until `release` is
called, `HangUp()`, or `Frame(object)`.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from rwkv_np.serve.page_files import HEADERS, read_page


class Thought(NamedTuple):
    text: str


class Pause(NamedTuple):
    seconds: float


class Refuse(NamedTuple):
    status: int
    message: str
    headers: dict = {}


class Frame(NamedTuple):
    data: dict


class Hold(NamedTuple):
    pass


class HangUp(NamedTuple):
    pass


class ScriptedServer:
    """`reply` is called with each request's body; `asked` has them all. `key`: the one that it wants, if any."""

    def __init__(self, reply, *, thinks=False, key=None):
        self.reply, self.thinks, self.key = reply, thinks, key
        self.asked, self.hung_up = [], []
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, read_page()))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(script, page):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/v1/models":
                card = {"id": "scripted", "template": "g1" if script.thinks else "raven", "thinks": script.thinks}
                return self._json(200, {"data": [card]}) if self._may_ask() else None
            file = page.get(self.path)
            if file is None:
                return self._error(404, "there is nothing here")
            self.send_response(200)
            for name, value in (*HEADERS, (b"content-type", file.content_type)):
                self.send_header(name.decode(), value.decode())
            self.end_headers()
            self.wfile.write(file.data)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self._may_ask():
                return
            script.asked.append(body)
            self._n, self._is_begun = 0, False
            try:
                for step in script.reply(body):
                    if self._take(step):
                        return
                self._end()
            except (BrokenPipeError, ConnectionResetError):
                script.hung_up.append(body)

        def _take(self, step):
            """Do a step; true where it was the last."""
            if isinstance(step, Refuse):
                self._error(step.status, step.message, step.headers)
                return True
            if isinstance(step, HangUp):
                self._begin()
                return True
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            elif isinstance(step, Hold):
                self._begin()
                self._hold()
            elif isinstance(step, Frame):
                self._send(step.data)
            else:
                name = "reasoning_content" if isinstance(step, Thought) else "content"
                self._n += 1
                self._send(_chunk({name: step.text if isinstance(step, Thought) else step}))
            return False

        def _hold(self):
            """Wait for the test; comments, as the real server sends them, tell whether the other side is there."""
            while not script.release.wait(0.05):
                self.wfile.write(b": ping\n\n")
                self.wfile.flush()

        def _begin(self):
            if self._is_begun:
                return
            self._is_begun = True
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self._send(_chunk({"role": "assistant", "content": ""}))

        def _send(self, data):
            self._begin()
            self.wfile.write(b"data: %b\n\n" % json.dumps(data).encode())
            self.wfile.flush()

        def _end(self):
            self._send(_chunk({}, "stop"))
            usage = {"prompt_tokens": 7, "completion_tokens": self._n, "prompt_tokens_details": {"cached_tokens": 3}}
            self._send({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _may_ask(self):
            if script.key is None or self.headers["authorization"] == f"Bearer {script.key}":
                return True
            self._error(401, "the API key is wrong")
            return False

        def _error(self, status, message, headers=None):
            self._json(status, {"error": {"message": message, "type": "", "param": None, "code": None}}, headers)

        def _json(self, status, data, headers=None):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(data).encode())

    return Handler


def _chunk(delta, finish=None):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
