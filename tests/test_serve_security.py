"""Which clients may use a server, from which origins, and the limits of a request."""

import json
import socket

import pytest

pytest.importorskip("uvicorn")

from serving import FRANCE, Outbox, PlayedWorker, running, service, small_bounds, wait_for  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from rwkv_np.errors import InputError, SettingsFileError  # noqa: E402
from rwkv_np.serve.app import App  # noqa: E402
from rwkv_np.serve.keys import Keys, read_keys  # noqa: E402
from rwkv_np.serve.page_files import PageFile, read_page  # noqa: E402

CHAT = "/v1/chat/completions"
FIRST, SECOND = "first-secret-key", "second-secret-key"


@pytest.fixture(scope="module")
def guarded():
    with running(keys=Keys([FIRST, SECOND]), key=FIRST) as made:
        yield made


@pytest.fixture(scope="module")
def local():
    with running(worker=PlayedWorker(), hosts=frozenset({"localhost", "127.0.0.1"})) as made:
        yield made


def test_without_its_key_a_request_gets_nothing(guarded):
    assert guarded.chat().status_code == 200
    for header in (None, "", "Bearer", f"Bearer {FIRST}x", f"Basic {FIRST}", FIRST, "Bearer \xff"):
        headers = {"authorization": header.encode("latin-1") if header else ""}
        for path in ("/v1/models", "/metrics", "/tokenizer_info"):
            answer = guarded.client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", header
        assert guarded.chat().status_code == 200
        assert guarded.post(CHAT, {}, headers=headers).status_code == 401  # before the body is read
    for path in ("/health", "/openapi.json"):
        assert guarded.client.get(path, headers={"authorization": ""}).status_code == 200


def test_a_client_cannot_find_out_the_prompts_of_another_key(guarded):
    asked = [{"role": "user", "content": "A secret question that nobody else would ask. " * 4}]

    def chat(key):
        body = {"messages": asked, "max_tokens": 1, "temperature": 0}
        answer = guarded.post(CHAT, body, headers={"authorization": f"Bearer {key}"}).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["choices"]

    (none, first), (some, second), (other, third) = chat(FIRST), chat(FIRST), chat(SECOND)
    assert none == other == 0 < some and first == second == third


def test_owners_differ_and_do_not_reveal_keys():
    keys = Keys([FIRST, SECOND])
    one, two = keys.owner_of(f"Bearer {FIRST}"), keys.owner_of(f"bearer  {SECOND}")
    assert one != two and one.salt != two.salt and FIRST not in f"{one}{two}"
    assert keys.owner_of(f"Bearer {FIRST}") == one
    assert Keys().owner_of(None).salt == ""


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("RWKV_NP_API_KEYS", raising=False)
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\n{FIRST}\n\n  {SECOND}  \n", encoding="utf-8")
    assert all(read_keys(path).owner_of(f"Bearer {key}") for key in (FIRST, SECOND))
    assert not read_keys(path).owner_of("Bearer # who may ask")
    monkeypatch.setenv("RWKV_NP_API_KEYS", "from-the-environment, and-another-one")
    assert read_keys(None).owner_of("Bearer and-another-one") and not read_keys(None).owner_of(f"Bearer {FIRST}")
    for content in ("", "# nothing\n", "short\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(SettingsFileError):
            read_keys(path)
    monkeypatch.setenv("RWKV_NP_API_KEYS", "short")
    with pytest.raises(InputError, match="can be guessed"):
        read_keys(None)


def test_a_foreign_name_for_this_computer_is_refused(local):
    """DNS rebinding: a page of evil.example, which resolves to 127.0.0.1."""
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("LOCALHOST", 200), ("evil.example", 403)):
        assert local.client.get("/health", headers={"host": host}).status_code == status, host


def test_web_pages_of_another_origin_are_refused(local):
    for origin in ("http://evil.example", "null", f"{local.url}1"):
        answer = local.post("/tokenize", {"prompt": "a"}, headers={"origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers, origin
    assert local.post("/tokenize", {"prompt": "a"}, headers={"origin": local.url}).status_code == 200
    assert local.client.options("/tokenize", headers={"origin": "http://evil.example"}).status_code == 405


def test_allowed_origins_are_accepted():
    page = "https://page.example"
    with running(worker=PlayedWorker(), origins=(page,), keys=Keys([FIRST]), key=FIRST) as made:
        ask = {"origin": page, "access-control-request-method": "POST"}
        assert made.client.options(CHAT, headers=ask).headers["access-control-allow-origin"] == page
        answer = made.post("/tokenize", {"prompt": "a"}, headers={"origin": page})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == page
        other = made.post("/tokenize", {"prompt": "a"}, headers={"origin": "https://other.example"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers


def test_a_large_body_is_refused_while_it_arrives():
    with running(worker=PlayedWorker(), bounds=small_bounds(body_bytes=1000, body_seconds=0.3)) as made:
        assert made.client.post(CHAT, content=b" " * 1001).status_code == 413
        assert made.client.post(CHAT, content=iter([b" " * 600] * 3)).status_code == 413  # of unknown length
        for length in ("1001", "-1", "9" * 30, "x"):
            assert raw(made, f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n") in (400, 413)
        slow = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n{{"
        assert raw(made, slow) == 408
        assert made.chat(max_tokens=0).status_code == 400  # it still works


def test_bytes_that_are_not_http_get_the_error_object():
    with running(worker=PlayedWorker()) as made:
        for text in ("hello\r\n\r\n", "\x16\x03\x01 TLS\r\n\r\n", "GET /health HTTP/1.1\r\nno colon\r\n\r\n"):
            head, body = received(made, text).split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"content-type: application/json" in head, text
            assert json.loads(body)["error"]["code"] == "invalid_http", text
        assert made.chat(max_tokens=0).status_code == 400  # it still works


def test_without_keys_addresses_take_turns():
    one, two = (Keys().owner_of(None, address) for address in ("192.0.2.1", "192.0.2.2"))
    assert one.name != two.name and one.salt == two.salt
    worker = PlayedWorker(refuses=InputError("seen"))
    asked = []
    worker.submit = lambda request, listener: (
        asked.append(request.owner) or PlayedWorker.submit(worker, request, listener)
    )
    with running(worker=worker) as made:
        assert made.chat(FRANCE).status_code == 400
    assert asked == ["127.0.0.1"]


def raw(made, text):
    """The status of the answer to these bytes, after which the server ends the connection."""
    return int(received(made, text).split()[1])


def received(made, text):
    """All bytes of the answer, up to the end of the connection."""
    host, port = made.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text.encode())
        data = b""
        while part := connection.recv(4096):
            data += part
    return data


def test_limits_of_a_request():
    with running(worker=PlayedWorker(), bounds=small_bounds(answers=2, prompts=2, max_tokens=5)) as made:
        assert made.chat(n=3).json()["error"]["param"] == "n"
        assert made.chat(max_tokens=6).json()["error"]["param"] == "max_tokens"
        assert made.post("/v1/completions", {"prompt": ["a"] * 3}).json()["error"]["param"] == "prompt"


def test_no_path_reaches_a_file(tmp_path):
    (tmp_path / "index.html").write_text("<p>", encoding="utf-8")
    (tmp_path / "key.pem").write_text("secret", encoding="utf-8")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.js").write_text("1", encoding="utf-8")
    assert {name: file.data for name, file in read_page(tmp_path).items()} == {"/": b"<p>", "/parts/a.js": b"1"}


def test_the_page_s_files_have_strict_headers():
    page = {"/": PageFile(b"<p>", b"text/html; charset=utf-8", b'"tag"')}
    client = TestClient(App(service(None, Outbox()), page))
    answer = client.get("/")
    assert answer.text == "<p>" and answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers={"if-none-match": '"tag"'}).status_code == 304
    for path in ("/../setup.cfg", "/%2e%2e/setup.cfg", "/index.html", "//etc/passwd", "/page/index.html"):
        assert client.get(path).status_code == 404


def test_nothing_of_a_prompt_is_in_the_log(caplog):
    caplog.set_level("INFO")
    played = PlayedWorker()
    played.refuses = ZeroDivisionError("the prompt was: secret words")
    with running(worker=played, is_logged=True) as made:
        answer = made.chat([{"role": "user", "content": "secret words"}])
        assert answer.status_code == 500 and "secret" not in answer.text
        assert made.chat(FRANCE, secret_field=1).status_code == 400
        wait_for(lambda: CHAT in caplog.text)
    assert "ZeroDivisionError" in caplog.text and "submit" in caplog.text and "secret" not in caplog.text
