"""`rwkv-np batch`: requests from a file, the same answers as the server's, and errors that stop nothing."""

import io
import json
import math
import sys
from collections import Counter

import pytest

pytest.importorskip("msgspec")

from rwkv_np import demo  # noqa: E402
from rwkv_np.batch.ordering import beginning, ordered  # noqa: E402
from rwkv_np.batch.row import CHAT, TEXT, Form, Row, read_row, seed_of  # noqa: E402
from rwkv_np.batch.source import MOST_BYTES, Line, lines  # noqa: E402

FRANCE = "What is the capital of France?"


def chat_row(custom_id, said=FRANCE, **fields):
    body = {"messages": [{"role": "user", "content": said}], "max_tokens": 12, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def text_row(custom_id, prompt="Once upon", **fields):
    return {"custom_id": custom_id, "method": "POST", "url": TEXT, "body": {"prompt": prompt, **fields}}


def written(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture
def batch(tmp_path, run_cli):
    """Run a job; returns (answers, errors, what was said)."""

    def run(rows=None, *options, code=0, out="answers.jsonl"):
        requests = tmp_path / "requests.jsonl"
        if rows is not None:
            written(requests, rows)
        answers = tmp_path / out
        said = run_cli("batch", demo.MODEL, requests, answers, "--threads", 1, *options, code=code).stderr
        return read(answers), read(tmp_path / "answers.errors.jsonl"), said

    return run


def contents(answers):
    return {row["custom_id"]: row["response"]["body"]["choices"][0] for row in answers}


# --- the two forms, and the output


def test_each_request_gets_openais_row_in_the_order_of_the_requests(batch):
    answers, errors, said = batch([chat_row("x", temperature=0), text_row("a", n=2), text_row("b", max_tokens=1)])
    assert [row["custom_id"] for row in answers] == ["x", "a", "b"] and errors == []
    first = answers[0]
    assert set(first) == {"id", "custom_id", "response", "error"} and first["error"] is None
    assert first["response"]["status_code"] == 200 and first["response"]["request_id"].startswith("req_")
    body = first["response"]["body"]
    assert body["object"] == "chat.completion" and "Paris" in body["choices"][0]["message"]["content"]
    assert body["id"] == "chatcmpl-" + first["id"].removeprefix("batch_req_") and body["created"] == 0
    assert set(body["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert [choice["index"] for choice in answers[1]["response"]["body"]["choices"]] == [0, 1]
    assert "3 answered, 0 by earlier starts, 0 errors" in said


def test_plain_lines_are_texts_or_with_chat_messages(batch, tmp_path):
    rows = [{"prompt": FRANCE, "temperature": 0, "max_tokens": 12}, {"custom_id": "mine", "prompt": "Hi", "n": 2}]
    plain, _, _ = batch(rows)
    assert [row["custom_id"] for row in plain] == ["line-1", "mine"]
    assert plain[0]["response"]["body"]["object"] == "text_completion"
    assert plain[1]["response"]["body"]["usage"]["completion_tokens"] <= 32  # OpenAI's default of 16, twice
    for option in ("--chat", "--template"):
        extra = ["raven"] if option == "--template" else []
        chat, _, _ = batch(rows, option, *extra, "--max-tokens", 3, "--overwrite")
        assert "Paris" in chat[0]["response"]["body"]["choices"][0]["message"]["content"]
        assert chat[1]["response"]["body"]["usage"]["completion_tokens"] <= 6


def test_a_folder_gets_both_files(batch, tmp_path):
    (tmp_path / "out").mkdir()
    batch([text_row("a"), "x"], out="out")
    assert [row["custom_id"] for row in read(tmp_path / "out" / "answers.jsonl")] == ["a"]
    assert [row["error"]["line"] for row in read(tmp_path / "out" / "errors.jsonl")] == [2]


def test_stdin_and_stdout(run_cli):
    asked = json.dumps({"prompt": FRANCE, "max_tokens": 12, "temperature": 0}) + "\n\nno\n"
    out = run_cli("batch", demo.MODEL, "-", "-", "--chat", "--threads", 1, stdin=asked).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["custom_id"] for row in rows} == {"line-1", None}
    assert "Paris" in out and [row["error"]["line"] for row in rows if row["error"]] == [3]


def test_a_stdout_that_is_not_a_file_has_no_errors_file(run_cli):
    assert "stdout gets both" in run_cli("batch", demo.MODEL, "-", "-", "--errors", "x", code=2).stderr


# --- errors


def test_a_bad_line_is_an_error_row_with_its_line_and_stops_nothing(batch):
    rows = [
        "no json", "", text_row("ok"), '{"custom_id": "no body"}', "[1]", {"prompt": 5}, text_row("ok"),
        text_row("hot", temperature=-1), {**text_row("where"), "url": "/v1/embeddings"}, chat_row("s", stream=True),
        chat_row("other", model="gpt-5"), text_row("new", colour="red"), {**text_row("get"), "method": "GET"},
        text_row(""), {"custom_id": "\ud800", "prompt": "a"},
    ]  # fmt: skip
    answers, errors, said = batch(rows)
    assert [row["custom_id"] for row in answers] == ["ok"]
    assert [row["error"]["line"] for row in errors] == [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    said_of = {row["error"]["line"]: row for row in errors}
    assert said_of[7]["error"]["code"] == "duplicate_custom_id" and "in line 3" in said_of[7]["error"]["message"]
    assert said_of[7]["custom_id"] is None  # the id has its row already
    assert said_of[8]["custom_id"] == "hot" and said_of[8]["response"]["status_code"] == 400
    assert said_of[8]["response"]["body"]["error"]["param"] == "temperature"
    assert said_of[11]["response"]["status_code"] == 404
    assert "colour" in said_of[12]["error"]["message"]
    assert "13 errors" in said and "answers.errors.jsonl" in said


def test_errors_are_tried_again_at_the_next_start(batch):
    _, errors, _ = batch([text_row("a"), text_row("b", temperature=-1)])
    assert [row["custom_id"] for row in errors] == ["b"]
    answers, errors, said = batch([text_row("a"), text_row("b")])
    assert [row["custom_id"] for row in answers] == ["a", "b"] and errors == []
    assert "1 answered, 1 by earlier starts" in said


def test_a_line_of_any_length_is_read_in_bounded_pieces():
    class Watched(io.BytesIO):
        most = 0

        def readline(self, size=-1):
            assert 0 <= size <= MOST_BYTES + 1
            return super().readline(size)

    file = Watched(b"\xef\xbb\xbfa\n" + b"x" * (3 * MOST_BYTES) + b"\r\n \t\n b \r\nlast")
    assert list(lines(file)) == [Line(1, b"a"), Line(2, None), Line(4, b"b"), Line(5, b"last")]


# --- what an answer depends on


def test_answers_are_those_of_the_server(batch):
    pytest.importorskip("uvicorn")
    from serving import running

    rows = [
        chat_row("a", seed=5), chat_row("b", seed=6, n=2, logprobs=True, top_logprobs=2),
        chat_row("c", "法国的首都是哪里？", seed=7, temperature=0.7, max_completion_tokens=9),
        text_row("d", ["one", "two"], seed=8, logprobs=1, echo=True), text_row("e", [5, 6, 7], seed=9, best_of=2),
        chat_row("f", tools=[{"type": "function", "function": {"name": "get"}}], seed=3),
    ]  # fmt: skip
    answers, errors, _ = batch([*rows, chat_row("bad", top_p=3)])
    with running() as made:
        for row, answer in zip(rows, answers):
            told = made.post(row["url"], row["body"]).json()
            found = answer["response"]["body"]
            calls = json.dumps(found["choices"]).replace(found["id"].split("-")[1], told["id"].split("-")[1])
            assert json.loads(calls) == told["choices"], row
            del told["usage"]["prompt_tokens_details"]
            assert found["usage"] == told["usage"] and found["model"] == told["model"]
        assert errors[0]["response"]["body"] == made.post(CHAT, chat_row("bad", top_p=3)["body"]).json()


def many(n=40):
    return [chat_row(f"r{i}", f"What is {i} plus {i % 7}?", max_tokens=3 + i % 9) for i in range(n)]


def test_company_order_and_slots_change_nothing_but_the_seed_of_the_job_does(batch):
    rows = many()
    first, _, _ = batch(rows)
    shuffled, _, _ = batch(rows[::-1], "--max-running", 3, "--cache-mb", 0, "--overwrite")
    assert shuffled == first[::-1]
    alone, _, _ = batch(rows[7:8], "--overwrite")
    assert alone == first[7:8]
    other, _, _ = batch(rows, "--seed", 1, "--overwrite")
    assert contents(other) != contents(first)


def test_a_row_has_its_own_seed_unless_the_body_has_one():
    row = Row(1, "a", CHAT, json.dumps(chat_row("a")["body"]).encode())
    assert row.request(0).seed == seed_of("a", 0) != seed_of("a", 1) != seed_of("b", 1)
    assert Row(1, "a", CHAT, json.dumps(chat_row("a", seed=3)["body"]).encode()).request(0).seed == 3


def test_rows_with_the_same_beginning_are_neighbours_within_a_window():
    subjects = ["cats", "dogs", "tea"]
    found = [text_row(str(i), f"About {subjects[i % 3]}: {i}") for i in range(12)]
    read_rows = [read_row(Line(i, json.dumps(row).encode()), Form()) for i, row in enumerate(found, 1)]
    sorted_rows = list(ordered(iter(read_rows), rows=6))
    assert sorted(row.number for row in sorted_rows[:6]) == [1, 2, 3, 4, 5, 6]
    about = [beginning(row).split(b":")[0] for row in sorted_rows]
    changes = sum(a != b for a, b in zip(about, about[1:]))
    assert changes == 5 and Counter(about) == Counter(beginning(row).split(b":")[0] for row in read_rows)


def test_the_window_is_bounded_in_rows_and_bytes():
    taken = []

    def rows():
        for i in range(100):
            taken.append(i)
            yield Row(i, str(i), TEXT, b'{"prompt": "' + b"x" * 100 + b'"}')

    next(ordered(rows(), rows=10))
    assert len(taken) == 10
    taken.clear()
    next(ordered(rows(), rows=10**6, most_bytes=500))
    assert len(taken) == 5


def test_every_step_of_a_job_reads_as_many_prompt_tokens_as_fit():
    from rwkv_np.serve.pace import MOST, Pace

    pace = Pace(math.inf)
    assert [pace.room(n) for n in (0, 1, 20, 64)] == [MOST, MOST - 1, MOST - 20, MOST - 64]
    pace.took(MOST, 100.0)
    pace.took(1, 0.001)
    assert pace.room(1) == MOST - 1 and Pace().room(1) < MOST - 1


# --- before the work


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl", "a"], "missing.jsonl"),
        (["requests.jsonl", "requests.jsonl"], "is the file of requests itself"),
        (["requests.jsonl", "a", "--errors", "a"], "also the file of answers"),
        (["requests.jsonl", "nowhere/a"], "nowhere does not exist"),
        ([".", "a"], "is a folder"),
    ],
)
def test_unusable_files_are_found_before_the_model_is_loaded(arguments, said, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "requests.jsonl", [text_row("a")])
    result = run_cli("batch", demo.MODEL, *arguments, code=1)
    assert said in result.stderr and "layers" not in result.stderr
    assert read(tmp_path / "requests.jsonl") == [text_row("a")]


def test_without_ray_the_error_names_the_extra(run_cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else object())
    result = run_cli("batch", demo.MODEL, written(tmp_path / "r", []), tmp_path / "a", "--ray", code=1)
    assert "pip install 'rwkv-np[ray]'" in result.stderr
