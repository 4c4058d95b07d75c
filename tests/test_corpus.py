"""`rwkv-np evaluate MODEL --text FOLDER`: the perplexity of many texts, by one model."""

import json
import math

import pytest
from conftest import WORDS
from waiting import PATIENCE

from rwkv_np.evaluation.corpus import Measured, MeasureWork, documents, open_measure

OPTIONS = {"head_epsilon": None, "tokenizer": None, "threads": 1, "limit": None, "skip": 0, "window": None}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "late.txt").write_text(WORDS[:300])
    (folder / "early.txt").write_text(WORDS)
    (folder / "bad.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "short.txt").write_text("x")
    (folder / ".hidden").write_text(WORDS)
    return folder


def report(run_cli, *arguments):
    return json.loads(run_cli("evaluate", *arguments, "--threads", 1, "--json").stdout)


def test_each_text_is_read_alone_and_the_total_counts_tokens(run_cli, folder, model_fp16):
    found = report(run_cli, model_fp16, "--text", folder)
    assert [each["file"] for each in found["files"]] == ["b/late.txt", "bad.txt", "early.txt", "short.txt"]
    late, bad, early, short = found["files"]
    assert "UTF-8" in bad["problem"] and "expected at least 2" in short["problem"]
    total = found["total"]
    assert total["tokens"] == late["tokens"] + early["tokens"] == 299 + len(WORDS) - 1
    assert math.isclose(total["perplexity"], math.exp((late["nll"] + early["nll"]) / total["tokens"]))
    assert math.isclose(total["bits_per_byte"], math.log2(total["perplexity"]))  # in this vocabulary, a token is a byte


def test_a_text_has_the_perplexity_that_it_has_alone(run_cli, folder, model_fp16):
    early = report(run_cli, model_fp16, "--text", folder)["files"][2]
    alone = report(run_cli, model_fp16, "--text", folder / "early.txt", "--no-timing")
    assert math.isclose(early["perplexity"], alone["rows"][0]["quality"]["perplexity"]["value"], rel_tol=1e-9)


def test_limit_skip_and_window_apply_to_each_text(run_cli, folder, model_fp16):
    found = report(run_cli, model_fp16, "--text", folder, "--limit", 200, "--skip", 50, "--window", 40)
    assert [each.get("tokens") for each in found["files"]] == [149, None, 149, None]
    table = run_cli("evaluate", model_fp16, "--text", folder, "--threads", 1, "--limit", 120).stdout
    assert table.splitlines()[-1].split()[:3] == ["model-FP16.bin,", "all", "238"]


def test_options_without_a_meaning_for_a_folder_are_refused(run_cli, folder, model_fp16, tmp_path):
    for extra in (["--formats", "Q4_1"], ["--out", tmp_path / "out"], [model_fp16], ["--both-heads"]):
        said = run_cli("evaluate", model_fp16, *extra, "--text", folder, code=2).stderr
        assert "a folder of texts is read by one model" in said
    assert "--ray needs --text FOLDER" in run_cli("evaluate", model_fp16, "--ray", code=2).stderr
    (tmp_path / "empty").mkdir()
    assert "contains no files" in run_cli("evaluate", model_fp16, "--text", tmp_path / "empty", code=1).stderr


def test_ctrl_c_shows_the_texts_that_were_read(run_cli, folder, model_fp16, monkeypatch):
    def interrupted(self, document):
        if document.name != "b/late.txt":
            raise KeyboardInterrupt
        return Measured(document.number, document.name, 3, 3.0, 3)

    monkeypatch.setattr("rwkv_np.evaluation.corpus.Measure.__call__", interrupted)
    out = run_cli("evaluate", model_fp16, "--text", folder, "--json", code=130).stdout
    assert [each["file"] for each in json.loads(out)["files"]] == ["b/late.txt"]


def test_a_nodes_work_gives_the_same_results_from_its_thread(folder, model_fp16):
    measure = open_measure(str(model_fp16), OPTIONS)
    texts = [each for each in documents(str(folder), ["early.txt", "b/late.txt", "bad.txt"])]
    work = MeasureWork(measure)
    for text in texts:
        work.submit(text)
    found = [work.take_within(PATIENCE) for _ in texts]
    work.stop()
    assert found == [measure(text) for text in texts] and isinstance(found[0], Measured) and found[2].problem
