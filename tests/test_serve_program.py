"""The command `rwkv-np serve`: its lines, its refusals, and how it ends."""

import os
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from click.testing import CliRunner  # noqa: E402
from serving import FRANCE  # noqa: E402

from rwkv_np.cli import main  # noqa: E402
from rwkv_np.serve.server import bind  # noqa: E402


def refusal(*arguments, **environment):
    found = CliRunner(env=environment).invoke(main, ["serve", *arguments])
    assert found.exit_code in (1, 2) and found.output.count("Error") == 1, found.output
    return found.output


def test_bad_options_are_reported_before_a_model_is_loaded(tmp_path):
    listening = bind("127.0.0.1", 0)
    listening.listen()
    port = str(listening.getsockname()[1])
    assert "choose another with --port" in refusal("--port", port)
    listening.close()
    assert "without a key" in refusal("--host", "0.0.0.0", "--port", "0")
    assert "this address does not exist" in refusal("--host", "nowhere.invalid")
    (tmp_path / "keys").write_text("\n", encoding="utf-8")
    assert "contains no keys" in refusal("--api-key-file", str(tmp_path / "keys"))
    assert "exclude each other" in refusal("--system", "a", "--opening", "none")
    (tmp_path / "config.toml").write_text('[serve]\nport = "x"\n', encoding="utf-8")
    assert "port" in refusal("--config", str(tmp_path / "config.toml"))


def test_without_a_package_one_line_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("rwkv_np.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'rwkv-np[server]'" in refusal("--port", "0")


def asked_and_ended(server):
    """What a server that was just started answers; it is then told to end."""
    lines = []
    while "Serving" not in (line := server.stderr.readline()):
        assert line, lines
        lines.append(line)
    url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    body = {"messages": FRANCE, "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30, trust_env=False)
    server.send_signal(signal.SIGTERM)
    rest = server.stderr.read()
    assert server.wait(30) == 0
    assert "POST /v1/chat/completions 200" in rest and "Traceback" not in rest, rest
    return answer.json()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_a_server_starts_answers_and_ends_in_order(tmp_path):
    states = tmp_path / "states"
    command = [sys.executable, "-m", "rwkv_np.serve", "--port", "0", "--cache-file", str(states), "--log"]
    environment = {**os.environ, "RWKV_NP_CONFIG": os.devnull, "RWKV_NP_MAX_TOKENS": "5"}
    said = []
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
            try:
                said.append(asked_and_ended(server))
            finally:
                server.kill()
    first, second = (answer["choices"] for answer in said)
    assert first == second and first[0]["message"]["content"] == "The capital of France is"  # five tokens
    assert [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in said][0] == 0
    assert said[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0  # kept from one run to the next
