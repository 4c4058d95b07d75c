"""`rwkv-np evaluate` as a user runs it: its output, its files, and Ctrl-C."""

import json
import re
import sys

import numpy as np
import pytest
from conftest import WORDS, random_parameters, write_model
from test_evaluation import made
from waiting import PATIENCE

from rwkv_np.cli.progress import RunningLine
from rwkv_np.evaluation.quality import Estimate
from rwkv_np.evaluation.tables import number, with_error


@pytest.fixture
def lambada(tmp_path):
    lines = [json.dumps({"text": f"the walrus said to {name}"}) for name in ("Ann", "Bob", "Cid")]
    (tmp_path / "lambada.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "lambada.jsonl"


def test_one_table_shows_quality_and_cost_of_each_model(run_cli, words, model_fp16):
    out = run_cli("evaluate", model_fp16, made(model_fp16, "Q4_1"), "--text", words).stdout
    head, base, model = out.splitlines()[:3]
    assert (
        head.split()
        == (
            "model MB bits/weight perplexity ratio mean KL KL 99 % RMS Δp % same top % "
            "RssAnon MB decode/s prompt/s bandwidth %"
        ).split()
    )
    assert base.startswith("FP16 ") and model.startswith("Q4_1 ") and model.count("±") == 5
    assert "ratios and Δp is FP16" in out


def test_json_is_the_whole_report(run_cli, words, model_fp16):
    out = run_cli("evaluate", model_fp16, made(model_fp16, "Q4_1"), "--text", words, "--no-timing", "--json").stdout
    found = json.loads(out)
    assert found["base"] == "FP16" and found["conditions"]["tokenizer"] == "bytes" and not found["is_partial"]
    quality = found["rows"][1]["quality"]
    assert set(quality["kl_points"]) == {"50", "90", "99", "99.9"} and quality["n_tokens"] == 719
    assert found["rows"][1]["cost"]["decode"] is None


def test_the_issue_s_second_command_measures_the_model_and_what_is_made(run_cli, words, model_fp16):
    q4_1 = made(model_fp16, "Q4_1")
    out = run_cli("evaluate", q4_1, "--formats", "Q4_0,Q4_1, Q8_0", "--from", model_fp16, "--text", words,
                  "--no-timing").stdout  # fmt: skip
    assert [line.split()[0] for line in out.splitlines()[1:5]] == ["FP16", "Q4_1", "Q4_0", "Q8_0"]


@pytest.mark.parametrize(("version", "ranks"), [("v5.1", ()), ("v5.2", ()), ("v6", (32, 32)), ("v7", (32, 32, 32, 32))])
def test_every_version_is_measured_and_compared(run_cli, words, tmp_path, version, ranks):
    arrays = random_parameters(np.random.default_rng(3), architecture=version, head_size=16, ranks=ranks)
    model, kept = write_model(tmp_path / "model-FP16.bin", arrays, "FP16"), tmp_path / "kept"
    arguments = ["--text", words, "--limit", 200, "--no-timing"]
    out = run_cli("evaluate", "--from", model, "--formats", "Q8_0", "--float32-activations", "--both-heads",
                  "--save-base", kept, *arguments, "--json").stdout  # fmt: skip
    rows = {row["name"]: row["quality"] for row in json.loads(out)["rows"]}
    assert {"FP16", "Q8_0", "Q8_0, float32 activations"} <= rows.keys()
    # Random weights in 8 bits: close to the original, but not equal.
    assert all(0 < rows[name]["kl"]["value"] < 0.05 for name in rows if name != "FP16")
    again = run_cli("evaluate", made(model, "Q8_0"), "--base-file", kept, *arguments, "--json").stdout
    kl = json.loads(again)["rows"][0]["quality"]["kl"]["value"]
    assert kl == pytest.approx(rows["Q8_0"]["kl"]["value"], rel=0.01, abs=1e-6)


def test_encoders_are_compared_in_one_report(run_cli, words, model_fp16, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "chats.txt").write_text("\n\n".join("".join(map(chr, rng.integers(33, 127, 300))) for _ in range(120)))
    out = run_cli("evaluate", model_fp16, "--formats", "Q4_1,Q8_0", "--encoders", "plain, search,calibrated",
                  "--calibrate", tmp_path / "chats.txt", "--text", words, "--no-timing", "--json").stdout  # fmt: skip
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert list(rows) == ["FP16", "Q4_1", "Q4_1, search", "Q4_1, calibrated", "Q8_0"]
    assert len({rows[name]["cost"]["n_bytes"] for name in rows if name.startswith("Q4_1")}) == 1
    assert len({rows[name]["quality"]["kl"]["value"] for name in rows if name.startswith("Q4_1")}) == 3


@pytest.mark.parametrize(
    "encoders, expected",
    [("best", "unknown encoder best; expected any of plain, search"), ("calibrated", "needs a text")],
)
def test_encoders_that_cannot_be_run(run_cli, words, model_fp16, encoders, expected):
    options = ["--formats", "Q4_1", "--encoders", encoders, "--text", words]
    assert expected in run_cli("evaluate", model_fp16, *options, code=1).stderr


def test_last_words_are_two_columns(run_cli, model_fp16, lambada):
    out = run_cli("evaluate", model_fp16, "--lambada", lambada, "--no-timing").stdout
    head = re.split("  +", out.splitlines()[0])
    assert head == ["model", "MB", "bits/weight", "last word %", "its perplexity"]


def test_a_folder_takes_the_report_and_its_plots(run_cli, words, model_fp16, tmp_path, lambada):
    out = tmp_path / "new" / "report"
    arguments = ["evaluate", model_fp16, "--formats", "Q8_0,Q4_0", "--text", words, "--lambada", lambada,
                 "--float32-activations", "--no-timing", "--out", out]  # fmt: skip
    run_cli(*arguments)
    assert {path.name for path in out.iterdir()} >= {"report.json", "report.md"}
    document = (out / "report.md").read_text(encoding="utf-8")
    assert "| Q4_0 |" in document and "with float32 activations" in document and "standard error" in document
    widths = {line.count("|") for line in document.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert len(json.loads((out / "report.json").read_text(encoding="utf-8"))["rows"]) == 5
    assert "already exists; use --overwrite" in run_cli(*arguments, code=1).stderr
    run_cli(*arguments, "--overwrite")


def test_a_base_file_replaces_the_base_model(run_cli, words, model_fp16, tmp_path):
    base = tmp_path / "base"
    run_cli("evaluate", model_fp16, "--text", words, "--no-timing", "--save-base", base)
    out = run_cli("evaluate", made(model_fp16, "Q4_1"), "--text", words, "--no-timing", "--base-file", base).stdout
    assert "ratios and Δp is FP16 (kept)" in out and "mean KL" in out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 1, "no model given"),
        (["{model}", "--formats", "Q9"], 2, "'Q9' is not one of Q4_0, "),
        (["{model}", "--text", "{model}"], 1, "is not UTF-8"),
        (["{model}", "--text", "absent"], 1, "absent: No such file"),
        (["{model}", "--text", "{words}", "--limit", "20"], 1, "20 tokens (--limit 20)"),
        (["{words}", "--text", "{words}"], 1, "words.txt"),
        (["{model}", "--text", "{words}", "--out", "{words}"], 1, "cannot be used as the folder"),
        (["{model}", "--text", "{words}", "--tokenizer", "world"], 1, "belongs to another model"),
    ],
)
def test_invalid_input_is_reported_in_one_line(run_cli, words, model_fp16, arguments, code, message):
    arguments = [argument.format(model=model_fp16, words=words) for argument in arguments]
    err = run_cli("evaluate", *arguments, code=code).stderr
    assert message in err.splitlines()[-1]


def test_without_matplotlib_there_are_tables_and_a_note_about_plots(run_cli, words, model_fp16, tmp_path, monkeypatch):
    monkeypatch.setattr("rwkv_np.evaluation.folder.can_plot", lambda: False)
    out = tmp_path / "report"
    err = run_cli("evaluate", model_fp16, "--text", words, "--no-timing", "--out", out).stderr
    assert "pip install 'rwkv-np[plot]'" in err and {p.name for p in out.iterdir()} == {"report.json", "report.md"}


@pytest.fixture
def long_text(tmp_path):
    (tmp_path / "long.txt").write_text(WORDS * 4000)  # minutes of reading
    return tmp_path / "long.txt"


def test_ctrl_c_shows_and_writes_the_results_so_far(model_fp16, long_text, tmp_path):
    pexpect = pytest.importorskip("pexpect", reason="pexpect provides the terminal (not on Windows)")
    paths = [str(model_fp16), made(model_fp16, "Q4_1")]
    arguments = ["evaluate", *paths, "--no-timing", "--text", str(long_text), "--out", str(tmp_path / "report")]
    child = pexpect.spawn(
        sys.executable, ["-m", "rwkv_np", *arguments], encoding="utf-8", timeout=PATIENCE, dimensions=(24, 150)
    )
    child.expect(r"of 2,879,999, [0-9:]+ left: perplexity [0-9.]+, KL Q4_1 0\.")
    child.sendintr()
    child.expect_exact("Interrupted: these are the results so far.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    found = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert found["is_partial"] and 2 < found["rows"][1]["quality"]["n_tokens"] < 2_879_999


def test_a_log_gets_progress_every_half_minute(capsys, monkeypatch):
    clock = iter(np.arange(0, 1000, 7.0))
    monkeypatch.setattr("rwkv_np.cli.progress.time.monotonic", lambda: next(clock))
    line = RunningLine()
    for done in range(100, 1001, 100):
        line("perplexity 5", done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["500 of 1,000, 0:35 left: perplexity 5", "1,000 of 1,000, 0:00 left: perplexity 5"]


@pytest.mark.parametrize(
    "value, error, shown",
    [
        (12.3456, 0.567, "12.35 ± 0.57"),
        (1.00417, 0.00055, "1.00417 ± 0.00055"),
        (1.0e-4, 2.34e-6, "(1.000 ± 0.023)e-4"),
        (6.07e-14, 1.1e-14, "(6.1 ± 1.1)e-14"),
        (0.99996, 9.8e-7, "0.99996000 ± 0.00000098"),
        (1234.5, 67.8, "1234 ± 68"),
        (0.5, 0.0, "0.5"),
        (2.72e21, 1.68e22, "(0.3 ± 1.7)e22"),
        (float("inf"), 1.0, "inf"),
    ],
)
def test_a_figure_has_the_digits_that_its_error_leaves(value, error, shown):
    assert with_error(Estimate(value, error)) == shown


def test_large_figures_have_no_decimals_and_unknown_ones_a_dash():
    assert [number(x) for x in (12345.6, 2.72e21, 0.012345, None)] == ["12,346", "2.72e+21", "0.0123", "–"]
    assert with_error(None) == "–"
