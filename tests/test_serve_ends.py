"""How requests end: clients that disconnect or do not read, errors in a stream, silence, and the shutdown."""

import asyncio
import json
import socket
import threading

import pytest

pytest.importorskip("uvicorn")

from serving import FRANCE, Outbox, PlayedWorker, events, running, service, small_bounds, wait_for  # noqa: E402

from rwkv_np.errors import InputError  # noqa: E402
from rwkv_np.serve.app import App  # noqa: E402
from rwkv_np.serve.request import Draining, Refused, TimedOut  # noqa: E402

CHAT = "/v1/chat/completions"


@pytest.fixture
def worker():
    return PlayedWorker()


@pytest.fixture
def played(worker):
    with running(worker=worker, bounds=small_bounds(ping_seconds=0.1)) as made:
        yield made


def connect(made, **fields):
    """A raw connection that has sent a chat request."""
    host, port = made.url.removeprefix("http://").split(":")
    body = json.dumps({"messages": FRANCE, **fields}).encode()
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def in_thread(call):
    """Run a request in a thread while the test acts as the engine; returns a function that waits for its answer."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()

    def wait():
        thread.join(10)
        return found[0]

    return wait


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_a_client_that_disconnects_while_waiting_is_cancelled(worker, played, fields):
    connection = connect(played, **fields)
    ticket = worker.asked()
    assert not ticket.is_cancelled
    connection.close()
    wait_for(lambda: ticket.is_cancelled)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects_during_an_answer_is_cancelled(worker, played, stream):
    connection = connect(played, stream=stream)
    ticket = worker.asked()
    ticket.listener.prompt_read(0, None)
    worker.say(ticket.listener, " The capital")
    if stream:
        assert b"capital" in read_until(connection, b"capital")
    connection.close()
    wait_for(lambda: ticket.is_cancelled)


def read_until(connection, text):
    data = b""
    while text not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    return data


def test_all_prompts_of_a_request_are_cancelled_if_one_is_refused(worker, played):
    submit = worker.submit
    worker.submit = lambda request, listener: submit(request, listener) if not worker.tickets else refuse()

    def refuse():
        raise Refused("full", 7)

    answer = played.post("/v1/completions", {"prompt": ["a", "b"]})
    assert answer.status_code == 429 and worker.tickets[0].is_cancelled


def test_silence_is_filled_with_comments(worker, played):
    connection = connect(played, stream=True)
    worker.asked()
    data = read_until(connection, b": ping\n\n")
    assert data.startswith(b"HTTP/1.1 200") and b"data:" not in data
    ticket = worker.asked()
    worker.say(ticket.listener, " Yes")
    read_until(connection, b"Yes")
    ticket.listener.end(0, "stop_id")
    worker.outbox.hand_over()
    assert read_until(connection, b"[DONE]")
    connection.close()


REFUSED = [
    (Refused("too much", 3.2), 429, "too_much_work", "4"),
    (Draining("shutting down"), 503, "shutting_down", "1"),
    (TimedOut("too late"), 503, "timeout", "1"),
    (InputError("a prompt like that"), 400, None, None),
    (ZeroDivisionError("x"), 500, None, None),
]


@pytest.mark.parametrize("error, status, code, after", REFUSED)
def test_errors_of_the_engine_have_their_status(worker, played, error, status, code, after):
    worker.refuses = error
    for fields in ({}, {"stream": True}):
        answer = played.chat(**fields)
        assert answer.status_code == status and answer.json()["error"]["code"] == code
        assert answer.headers.get("retry-after") == after
    worker.refuses = None
    answer = in_thread(lambda: played.chat(stream=True))
    ticket = worker.asked()
    ticket.listener.fail(error)
    worker.outbox.hand_over()
    assert answer().status_code == status  # nothing was sent before


def test_an_error_in_mid_stream_is_an_event_without_done(worker, played):
    connection = connect(played, stream=True)
    ticket = worker.asked()
    worker.say(ticket.listener, " The")
    read_until(connection, b"The")
    ticket.listener.fail(TimedOut("too late"))
    worker.outbox.hand_over()
    rest = read_until(connection, b"0\r\n\r\n")
    error = b'{"error":{"message":"too late","type":"overloaded_error","param":null,"code":"timeout"}}'
    assert b"data: " + error + b"\n\n" in rest and b"DONE" not in rest
    connection.close()
    wait_for(lambda: ticket.is_cancelled)


def test_a_client_that_does_not_read_is_disconnected():
    """Directly on ASGI: a socket would buffer megabytes first."""
    worker, outbox = PlayedWorker(), Outbox()
    worker.outbox = outbox
    app = App(service(worker.submit, outbox, bounds=small_bounds(unread_pieces=10)), {})

    class Connection:
        was_aborted = False

        def abort(self):
            self.was_aborted = True
            gone.set()

    class Stuck:
        transport = Connection()

        async def send(self, message):
            await gone.wait()

    body = [json.dumps({"messages": FRANCE, "stream": True}).encode()]

    async def receive():
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run():
        global gone
        gone = asyncio.Event()
        outbox.open(asyncio.get_running_loop())
        headers = [(b"host", b"a")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "root_path": "", "scheme": "http"}
        task = asyncio.create_task(app(scope, receive, Stuck().send))
        while not worker.tickets:
            await asyncio.sleep(0.01)
        for _ in range(12):
            for word in (" The", " capital"):
                worker.say(worker.tickets[0].listener, word)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(task, 10)

    asyncio.run(run())
    assert worker.tickets[0].is_cancelled and Stuck.transport.was_aborted


def test_a_server_reports_that_its_engine_has_failed(worker, played):
    worker.is_alive = False
    answer = played.client.get("/health")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_failed"
    assert played.chat().status_code == 500  # and does not wait forever
    worker.is_alive = True


def test_a_shutdown_finishes_running_requests():
    with running(drain_seconds=20) as made:
        body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 800, "ignore_eos": True}
        answer = in_thread(lambda: made.post("/v1/completions", body))
        wait_for(lambda: made.server.worker.scheduler.table.writing)
        made.server.end()
        wait_for(lambda: made.client.get("/health").status_code == 503)
        refused = made.chat()
        assert refused.status_code == 503 and refused.headers["retry-after"]
        found = answer()
        assert found.status_code == 200 and found.json()["usage"]["completion_tokens"] == 800


def test_a_shutdown_does_not_wait_forever():
    with running(drain_seconds=0.2) as made:
        body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60000, "ignore_eos": True, "stream": True}
        answer = in_thread(lambda: made.post("/v1/completions", body))
        wait_for(lambda: made.server.worker.scheduler.table.writing)
        made.server.end()
        assert events(answer().content)[-1]["error"]["code"] == "shutting_down"
