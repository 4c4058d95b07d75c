"""Texts read in step, in bounded memory; base files, groups, costs, and invalid input."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from conftest import GOLDEN, WORDS, random_parameters, shared_file, write_model
from rwkv_np.kernels import cache

import rwkv_np
from rwkv_np.conversion.quantize import quantize
from rwkv_np.errors import BaseFileError, FormatError, InputError, OutputError, TextError, TokenizerError
from rwkv_np.evaluation import Conditions, Session, Variants, base_file, evaluate, make_plan, text
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.evaluation.cost import cost, size
from rwkv_np.evaluation.divergence import Scores, log_softmax, score
from rwkv_np.evaluation.plan import candidate
from rwkv_np.evaluation.quality import quality
from rwkv_np.evaluation.record import Record, by_position
from rwkv_np.evaluation.walk import ModelReader, Passage, walk
from rwkv_np.tokenizers import load_tokenizer

FORMATS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # from the best to the worst


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Tokens are cached in a folder of the test; compiled kernels stay at their usual place."""
    place = cache.place
    monkeypatch.setattr(cache, "place", lambda name: tmp_path if name == text.CACHE else place(name))


def made(model_fp16, data_type):
    path = model_fp16.with_name(f"model-{data_type}.bin")
    if not path.exists():
        quantize(model_fp16, path, data_type)
    return str(path)


def read(passage, *paths):
    record = Record(len(paths), passage.n_positions)
    walk([ModelReader(str(path), rwkv_np.load(path)) for path in paths], passage, record)
    return record


def untimed(text, **options):
    return Conditions(text=text, is_timed=False, **options)


class Scripted:
    """Gives the same rows repeatedly, and records the largest number of rows requested at once."""

    def __init__(self, n_vocab, seed=0):
        self.name = "scripted"
        self.rows = np.random.default_rng(seed).standard_normal((256, n_vocab), np.float32)
        self.most, self.restarts = 0, 0

    def restart(self):
        self.restarts += 1

    def read(self, ids):
        self.most = max(self.most, len(ids))
        return self.rows[: len(ids)]


# --- reading in step ------------------------------------------------------------------------------


def test_a_text_read_in_chunks_gives_what_reading_it_whole_gives(golden):
    tokens = np.random.default_rng(2).integers(0, 101, 300).astype(np.uint32)
    record = read(Passage(tokens), golden("FP16.bin"), golden("Q4_0.bin"))
    whole = [rwkv_np.load(golden(end)).forward(tokens[:-1], full_output=True)[0] for end in ("FP16.bin", "Q4_0.bin")]
    for i, expected in enumerate(score(whole, tokens[1:])):
        for found, wanted in zip(record.scores(i), expected):
            np.testing.assert_array_equal(found, wanted)


def test_skipped_tokens_are_read_but_do_not_count(golden):
    tokens = np.random.default_rng(2).integers(0, 101, 300).astype(np.uint32)
    everything = read(Passage(tokens), golden("FP16.bin")).scores(0)
    rest = read(Passage(tokens, skip=70), golden("FP16.bin")).scores(0)
    np.testing.assert_array_equal(rest.nll, everything.nll[70:])


def test_a_window_begins_with_nothing_read(golden):
    tokens = np.random.default_rng(2).integers(0, 101, 301).astype(np.uint32)
    found = read(Passage(tokens, window=150), golden("FP16.bin")).scores(0)
    parts = [read(Passage(tokens[start : start + 151]), golden("FP16.bin")).scores(0) for start in (0, 150)]
    np.testing.assert_array_equal(found.nll, np.concatenate([part.nll for part in parts]))


def test_a_vocabulary_of_65536_is_read_in_bounded_memory():
    reader, n = Scripted(65536), 3000
    passage, record = Passage(np.zeros(n + 1, np.uint32)), Record(2, n)
    tracemalloc.start()
    walk([reader, reader], passage, record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record.n == n and reader.most <= 128
    assert peak < 2**28  # all logits would be 1.5 GB


def test_a_million_tokens_take_25_bytes_per_token_and_model():
    record = Record(1, 10**6)
    record.append([Scores(*(np.ones(10**6) for _ in range(4)))])
    assert sum(array.nbytes for array in record.scores(0)) == 25 * 10**6


def test_the_size_of_blocks_does_not_change_the_scores(monkeypatch):
    rows = [Scripted(1000, seed).read(np.zeros(50)) for seed in range(2)]
    whole = score(rows, np.arange(50))
    monkeypatch.setattr("rwkv_np.evaluation.divergence.BLOCK", 3000)
    for found, expected in zip(score(rows, np.arange(50)), whole):
        for x, y in zip(found, expected):
            np.testing.assert_array_equal(x, y)


def test_a_model_whose_logits_are_not_finite_is_named_with_the_place():
    reader = Scripted(50)
    reader.rows[5, 3] = np.nan
    with pytest.raises(InputError, match="scripted gives logits that are not finite after token 5"):
        walk([reader], Passage(np.zeros(20, np.uint32)), Record(1, 19))


def test_a_model_compared_with_itself_does_not_differ(golden):
    tokens = np.arange(60, dtype=np.uint32)
    record = read(Passage(tokens), golden("FP16.bin"), golden("FP16.bin"))
    found = quality(record.scores(1), record.scores(0))
    assert found.kl.value == found.kl_max == found.delta_p_rms.value == 0
    assert found.same_top.value == found.perplexity_ratio.value == 1


def test_means_over_runs_of_positions_cover_all_of_them():
    runs = by_position(np.arange(1003.0), first=100, n_bins=10)
    assert len(runs) == 10 and runs[0][0] == 100 and runs[-1][1] == 1103
    assert all(a[1] == b[0] for a, b in zip(runs, runs[1:]))
    assert runs[0][2] == np.arange(runs[0][1] - 100).mean()
    assert len(by_position(np.ones(3))) == 3


# --- the order of the formats ----------------------------------------------------------------------


def test_on_the_golden_model_every_format_loses_more_than_the_better_one():
    tokens = np.random.default_rng(0).integers(0, 101, 2000).astype(np.uint32)
    ends = ["FP32", "FP16", *FORMATS]
    record = read(Passage(tokens), *(GOLDEN / f"golden-4v0.{end}.bin" for end in ends))
    kl = [record.scores(i).kl.mean() for i in range(len(ends))]
    # Its weights are bfloat16, which FP16 represents exactly: the rest is rounding in other places.
    assert kl[1] < 1e-10
    assert kl == sorted(kl) and all(b > 1.3 * a for a, b in zip(kl[1:], kl[2:]))


def test_on_a_trained_model_every_format_loses_more_than_the_better_one(words):
    path = str(shared_file("tiny-4v0/tiny-rwkv-4v0-660K-FP16.bin"))
    report = evaluate([path], untimed(words), formats=FORMATS)
    kl = [row.quality.kl.value for row in report.rows[1:]]
    assert [row.name for row in report.rows] == ["FP16", *FORMATS] and kl == sorted(kl) and kl[0] > 0


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(tmp_path, start):
    (tmp_path / "bad.txt").write_bytes(start + b"abc \xff def")
    with pytest.raises(TextError, match=f"byte 0xFF at offset {len(start) + 4} is not UTF-8") as caught:
        text.read_text(tmp_path / "bad.txt")
    assert str(tmp_path / "bad.txt") in str(caught.value)


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_text_is_an_error(tmp_path, content):
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(TextError, match="contains no text"):
        text.read_text(tmp_path / "empty.txt")


@pytest.mark.parametrize("options, found", [({}, "720 tokens, of which 39"), ({"limit": 90}, "90 tokens .--limit 90.")])
def test_a_text_too_short_says_how_long_it_must_be(words, options, found):
    skip = 680
    with pytest.raises(TextError, match=f"has {found}.*expected at least 781"):
        text.read_passage(words, load_tokenizer("bytes"), **options, skip=skip)


def test_a_text_is_tokenized_once(words, monkeypatch):
    tokenizer = load_tokenizer("bytes")
    first = text.tokenize(WORDS, tokenizer)
    monkeypatch.setattr(tokenizer, "_encode", None)  # must not be called again
    np.testing.assert_array_equal(text.tokenize(WORDS, tokenizer), first)
    np.testing.assert_array_equal(text.tokenize(WORDS, tokenizer, 7), first[:7])
    with pytest.raises(TypeError):
        text.tokenize(WORDS + "!", tokenizer)


def test_another_tokenizer_has_its_own_tokens():
    ids = text.tokenize(WORDS, load_tokenizer("bytes"))
    assert len(text.tokenize(WORDS, load_tokenizer("world"))) < len(ids)


@pytest.mark.parametrize("name", ["", "20B"])
def test_a_tokenizer_that_changed_under_its_name_has_its_own_tokens(tmp_path, name):
    """A file has the name "20B" if its size and one of its ids are those of the 20B tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    found = []
    for corpus in ("walrus said time", "many things come"):
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trained.train_from_iterator([corpus] * 9, trainers.BpeTrainer(vocab_size=262, initial_alphabet=alphabet))
        trained.save(str(tmp_path / "tokenizer.json"))
        tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
        tokenizer.name = name or tokenizer.name
        found.append(text.tokenize(WORDS, tokenizer).tolist())
        assert found[-1] == tokenizer.encode(WORDS)
    assert found[0] != found[1]


def test_a_damaged_or_missing_cache_only_costs_time(tmp_path, monkeypatch):
    tokenizer = load_tokenizer("bytes")
    expected = text.tokenize(WORDS, tokenizer)
    (kept,) = (path for path in tmp_path.iterdir() if path.is_file())
    whole = kept.read_bytes()
    one_bit = bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]])  # an id that is as valid as any other
    for damaged in (b"damaged", b"", whole[:-4], whole[:32], one_bit):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(text.tokenize(WORDS, tokenizer), expected)
    assert kept.read_bytes() == whole
    monkeypatch.setattr(cache, "place", lambda name: None)
    np.testing.assert_array_equal(text.tokenize(WORDS, tokenizer), expected)
    monkeypatch.setattr(cache, "place", lambda name: tmp_path / "missing")
    np.testing.assert_array_equal(text.tokenize(WORDS, tokenizer), expected)


# --- base files ------------------------------------------------------------------------


@pytest.fixture
def kept(words, model_fp16):
    """(path of a base file, the report of the run that wrote it)."""
    path = str(model_fp16.with_name("base"))
    return path, evaluate([str(model_fp16), made(model_fp16, "Q4_1")], untimed(words, save_base=path))


def test_a_base_file_gives_the_figures_of_two_models_within_its_rounding(words, model_fp16, kept):
    path, two = kept
    one = evaluate([made(model_fp16, "Q4_1")], untimed(words), base_file=path)
    assert [row.name for row in one.rows] == ["Q4_1", "FP16 (kept)"]
    steps = BaseFile(path)._rows["step"]
    found, expected = one.rows[0].quality, two.rows[1].quality
    assert found.perplexity == expected.perplexity
    # As documented: a mean of step² / 24 from the rounding itself, and half a step in each log-probability.
    assert abs(found.kl.value - expected.kl.value) < np.mean(steps**2) / 24 + 1e-4 * expected.kl.value
    base = two.rows[0].quality.perplexity.value
    assert abs(np.log(one.rows[1].quality.perplexity.value / base)) < steps.max() / 2
    assert found.same_top.value == pytest.approx(expected.same_top.value, abs=0.005)


def test_rounding_moves_a_log_probability_by_half_a_step_at_most():
    log_probs = log_softmax(10 * np.random.default_rng(0).standard_normal((20, 500)))
    rows = base_file.encode(log_probs)
    assert (np.abs(base_file.decode(rows) - log_probs).max(axis=1) < 0.51 * rows["step"]).all()
    flat = np.full((1, 8), np.log(1 / 8))
    np.testing.assert_allclose(base_file.decode(base_file.encode(flat)), flat, rtol=1e-7)


@pytest.mark.parametrize("spread, most, least", [(1, 1.05, 0.95), (8, 0.5, 0)], ids=["even", "peaked"])
def test_the_rounding_of_a_base_file_costs_what_is_documented(spread, most, least):
    log_probs = log_softmax(spread * np.random.default_rng(0).standard_normal((200, 2000)))
    rows = base_file.encode(log_probs)
    cost = score([log_probs, base_file.decode(rows)], np.zeros(200, int))[1].kl.mean()
    assert cost < 1e-7
    assert least < cost / (np.mean(rows["step"].astype(float) ** 2) / 24) < most


@pytest.mark.parametrize(
    "options, message",
    [
        ({"text": "other"}, "predictions of another text"),
        ({"window": 50}, "made with --window none, not 50"),
        ({"text": "longer"}, "contains 720 tokens, fewer than the 780 requested; give --limit 720"),
    ],
)
def test_a_base_file_of_other_predictions_is_refused(tmp_path, model_fp16, kept, words, options, message):
    (tmp_path / "other").write_text(WORDS.upper())
    (tmp_path / "longer").write_text(WORDS + WORDS[:60])
    options = {"text": words} | options | ({"text": tmp_path / options["text"]} if "text" in options else {})
    with pytest.raises(BaseFileError, match=message):
        evaluate([made(model_fp16, "Q4_1")], Conditions(is_timed=False, **options), base_file=kept[0])


def test_a_base_file_can_be_used_for_a_shorter_part_of_its_text(words, model_fp16, kept):
    report = evaluate([made(model_fp16, "Q4_1")], untimed(words, limit=300), base_file=kept[0])
    assert report.rows[0].quality.n_tokens == 299


def resized(data, old, new):
    """A base file with `new` instead of `old` in its header, and the correct header length."""
    header = data[12 : 12 + int.from_bytes(data[8:12], "little")].replace(old, new)
    return data[:8] + len(header).to_bytes(4, "little") + header + data[12 + len(header) :]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: b"RIFF" + data[4:], "is not a file of saved predictions"),
        (lambda data: data[:-1], "the header says"),
        (lambda data: data[:6], "is not a file of saved predictions"),
        (lambda data: data.replace(b'"version": 1', b'"version": 9'), "has version 9"),
        (lambda data: data.replace(b'"n_rows"', b'"m_rows"'), "damaged header"),
        (lambda data: data.replace(b'"vocab_size": 256', b'"vocab_size": -56'), "rows of -56"),
        (lambda data: data.replace(b'"vocab_size": 256', b'"vocab_size": 9e9'), "rows of 9000000000.0"),
        (lambda data: resized(data, b'"vocab_size": 256', b'"vocab_size": ' + b"9" * 25), r"the header says \d{25}"),
        (lambda data: resized(data, b'"name": "', b'"data_type": ["'), "damaged header"),
        (lambda data: resized(data, b'"window": null', b'"window": "\\n"'), r"invalid --window: '\\n': create it"),
        (lambda data: resized(data, b'"window": null', b'"window": ' + b"[" * 50_000), "damaged header"),
        (lambda data: resized(data, b'"data_type": "FP16"', b'"data_type": 5'), "a model name that is not text"),
    ],
)
def test_a_damaged_base_file_is_refused(tmp_path, kept, damage, message):
    with open(kept[0], "rb") as file:
        (tmp_path / "damaged").write_bytes(damage(file.read()))
    with pytest.raises(BaseFileError, match=message):
        BaseFile(tmp_path / "damaged")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("offset", [0, 4])
def test_invalid_rows_of_a_base_file_are_refused_when_they_are_read(tmp_path, kept, number, offset):
    base = BaseFile(kept[0])
    start = os.path.getsize(kept[0]) - (base.header.n_rows - 40) * base_file.row_type(256).itemsize + offset
    with open(kept[0], "rb") as file:
        data = bytearray(file.read())
    data[start : start + 4] = struct.pack("<f", number)
    (tmp_path / "damaged").write_bytes(data)
    reader = BaseFile(tmp_path / "damaged").reader()
    assert np.isfinite(reader.read(np.zeros(40, np.uint32))).all()
    with pytest.raises(BaseFileError, match="is damaged: row 40 is not a prediction"):
        reader.read(np.zeros(1, np.uint32))


def test_a_base_file_of_another_vocabulary_is_refused(kept, golden):
    with pytest.raises(BaseFileError, match="has a vocabulary of 256, but the model has 101"):
        BaseFile(kept[0]).check(Passage(np.zeros(9, np.uint32)), 101)


def test_a_base_file_is_written_once_for_any_number_of_formats(words, model_fp16, kept):
    fresh = model_fp16.with_name("fresh")
    evaluate([str(model_fp16)], untimed(words, save_base=str(fresh)), formats=["Q4_0", "Q8_0"])
    with open(kept[0], "rb") as file:
        assert fresh.read_bytes() == file.read()


def test_a_base_file_is_not_saved_again(words, model_fp16, kept):
    with pytest.raises(InputError, match="needs a baseline model and --text"):
        evaluate([str(model_fp16)], untimed(words, save_base="again"), base_file=kept[0])


def test_a_base_file_is_not_overwritten_and_not_left_incomplete(words, model_fp16, kept, monkeypatch):
    with pytest.raises(OutputError, match="already exists"):
        evaluate([str(model_fp16)], untimed(words, save_base=kept[0]))
    monkeypatch.setattr("rwkv_np.evaluation.evaluation.walk", lambda *_: 1 / 0)
    fresh = model_fp16.with_name("fresh")
    with pytest.raises(ZeroDivisionError):
        evaluate([str(model_fp16)], untimed(words, save_base=str(fresh)))
    assert not fresh.exists() and not list(fresh.parent.glob(".fresh*"))


# --- which models are measured together --------------------------------------------------------------------


def names(report):
    return [row.name for row in report.rows]


def test_the_first_model_is_the_base_and_another_one_may_be(words, model_fp16):
    q4, q8 = made(model_fp16, "Q4_0"), made(model_fp16, "Q8_0")
    report = evaluate([str(model_fp16), q4, q8], untimed(words))
    assert report.base == "FP16" and names(report) == ["FP16", "Q4_0", "Q8_0"]
    report = evaluate([q4, q8], untimed(words), base=str(model_fp16))
    assert report.base == "FP16" and names(report) == ["FP16", "Q4_0", "Q8_0"]
    report = evaluate([q4, q8], untimed(words))
    assert report.base == "Q4_0" and report.rows[0].quality.kl is None


def test_formats_are_made_measured_and_removed_one_after_the_other(words, model_fp16, monkeypatch, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    most = []
    plan = make_plan([made(model_fp16, "Q4_1")], source=str(model_fp16), formats=["Q4_0", "Q4_1", "Q8_0"])
    assert len(plan.groups) == 3  # Q4_1 exists already, and is not made again
    session = Session(plan, untimed(words))
    session.run(lambda *_: most.append(len(list(folder.rglob("*.bin")))))
    assert names(session.report) == ["FP16", "Q4_1", "Q4_0", "Q8_0"]
    assert max(most) == 1 and not list(folder.iterdir())
    assert session.report.row("Q4_0").file == "model-FP16-Q4_0.bin"
    assert not session.report.is_partial


def test_temporary_formats_have_the_same_figures_as_files(words, model_fp16):
    made_here = evaluate([str(model_fp16)], untimed(words), formats=["Q5_0"])
    from_file = evaluate([str(model_fp16), made(model_fp16, "Q5_0")], untimed(words))
    assert made_here.row("Q5_0").quality == from_file.row("Q5_0").quality
    assert made_here.row("Q5_0").cost == from_file.row("Q5_0").cost


def test_a_base_that_changes_between_two_groups_is_found_out(words, model_fp16):
    session = Session(make_plan([str(model_fp16)], formats=["Q4_0", "Q5_0"]), untimed(words))

    def replace_base(figures, done, total):
        if done == total:
            write_model(model_fp16, random_parameters(np.random.default_rng(2)), "FP16")

    with pytest.raises(InputError, match="model-FP16.bin was changed while it was measured"):
        session.run(replace_base)


def test_float32_activations_are_a_separate_row_and_a_share(words, model_fp16):
    paths = [str(model_fp16), made(model_fp16, "Q8_0")]
    report = evaluate(paths, untimed(words), variants=Variants(float32_activations=True))
    assert names(report) == ["FP16", "Q8_0", "Q8_0, float32 activations"]
    (share,) = report.shares()
    assert share.total == report.row("Q8_0").quality.kl.value
    assert 0 < share.weights < share.total and share.activations == share.total - share.weights


def test_the_other_head_type_is_a_separate_row(words, model_fp16):
    whole = model_fp16.with_name("whole.bin")
    quantize(model_fp16, whole, "Q4_1", keep=[("head.weight", "Q4_1")])
    paths = [str(model_fp16), made(model_fp16, "Q5_1"), str(whole)]
    report = evaluate(paths, untimed(words), variants=Variants(both_heads=True))
    assert [(row.name, row.head_type, row.variant_of) for row in report.rows] == [
        ("FP16", "FP32", None), ("FP16, Q8_0 head", "Q8_0", "FP16"),
        ("Q5_1", "Q8_0", None), ("Q5_1, FP32 head", "FP32", "Q5_1"), ("Q4_1", "Q4_1", None),
    ]  # fmt: skip
    kl = {row.name: row.quality.kl.value for row in report.rows[1:]}
    assert 0 < kl["FP16, Q8_0 head"] < 0.01 and kl["Q5_1"] != kl["Q5_1, FP32 head"]


def test_models_of_one_type_are_told_apart_by_their_files(words, model_fp16, tmp_path):
    (tmp_path / "copy.bin").write_bytes(model_fp16.read_bytes())
    report = evaluate([str(model_fp16), str(tmp_path / "copy.bin")], untimed(words))
    assert names(report) == ["model-FP16", "copy"]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (lambda p: dict(paths=[]), InputError, "no model given"),
        (lambda p: dict(paths=[p], formats=["Q9"]), InputError, "unknown format Q9"),
        (lambda p: dict(paths=[p], base=p, base_file=p), InputError, "give one of them"),
        (lambda p: dict(paths=[p], base_file=p), BaseFileError, "not a file of saved predictions"),
        (lambda p: dict(paths=[p, str(GOLDEN / "golden-4v0.FP16.bin")]), InputError, "vocabulary of 101.*has 256"),
        (lambda p: dict(paths=[str(GOLDEN / "golden-4v0.pth")]), FormatError, "PyTorch checkpoint"),
    ],
)
def test_invalid_input_is_reported_before_the_work(model_fp16, arguments, error, message):
    with pytest.raises(error, match=message):
        make_plan(**arguments(str(model_fp16)))


def test_formats_with_a_base_file_need_a_source(model_fp16, kept):
    with pytest.raises(InputError, match="no FP16 source for Q4_0: add --from FILE"):
        make_plan([made(model_fp16, "Q4_1")], base_file=kept[0], formats=["Q4_0"])


def test_a_model_needs_a_tokenizer_that_fits(words):
    with pytest.raises(TokenizerError, match="has 101 ids"):
        evaluate([str(GOLDEN / "golden-4v0.FP16.bin")], untimed(words))


def test_without_a_text_the_package_s_own_is_read_or_named(words, model_fp16, monkeypatch):
    monkeypatch.setattr("rwkv_np.evaluation.session.HELD_OUT", words)
    report = evaluate([str(model_fp16)], untimed(None))
    assert report.conditions["text"] == "words.txt"
    monkeypatch.setattr("rwkv_np.evaluation.session.HELD_OUT", words.with_name("absent"))
    with pytest.raises(InputError, match="give a text, --text FILE"):
        evaluate([str(model_fp16)], untimed(None))


def test_a_report_is_json_and_names_no_folder(words, model_fp16, tmp_path):
    report = evaluate([str(model_fp16), made(model_fp16, "Q4_0")], untimed(words))
    document = json.dumps(report.as_dict(), allow_nan=False)
    assert str(tmp_path) not in document and json.loads(document)["conditions"]["tokens"] == 720


def test_interrupted_work_leaves_the_results_so_far(words, model_fp16):
    def interrupt(figures, done, total):
        if done > 300:
            raise KeyboardInterrupt

    session = Session(make_plan([str(model_fp16), made(model_fp16, "Q4_0")]), untimed(words))
    with pytest.raises(KeyboardInterrupt):
        session.run(interrupt)
    assert session.report.is_partial
    whole = evaluate([str(model_fp16), made(model_fp16, "Q4_0")], untimed(words, limit=385))
    assert session.report.row("Q4_0").quality == whole.row("Q4_0").quality


# --- costs --------------------------------------------------------------------------------


def test_bits_per_weight_count_the_whole_file(golden):
    path = golden("Q4_1.bin")
    n_weights = sum(p.n_weights for p in rwkv_np.files.format.read_model_file(path).parameters.values())
    assert size(str(path)).bits_per_weight == 8 * path.stat().st_size / n_weights
    assert size(str(path)).decode is None


def test_a_cost_is_measured_in_a_child_process(golden):
    found = cost(candidate(str(golden("Q4_1.bin"))), threads=1)
    assert found.n_threads == 1 and min(found.decode, found.prefill, found.bandwidth, found.share) > 0
    assert found.rss_anon is None or 0 < found.rss_anon_model < found.rss_anon < 2**30


def test_memory_is_unknown_if_the_system_does_not_report_it(golden, monkeypatch):
    from rwkv_np.evaluation import cost as module

    monkeypatch.setattr(module, "resident_anonymous", lambda: None)
    found = module.measure(str(golden("Q4_1.bin")), {"threads": 1})
    assert found["rss_anon"] is None and found["rss_anon_model"] is None and found["decode"] > 0


def test_a_child_that_fails_is_quoted(golden):
    with pytest.raises(InputError, match="could not be measured in a child process: .*threads is 0"):
        cost(candidate(str(golden("Q4_1.bin"))), threads=0)
