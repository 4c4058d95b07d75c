"""Calibrated files: nearer to the source than plain ones on their text, in the same layout, and honest about it."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import random_parameters, write_model
from rwkv_np.kernels.formats import FORMATS

from rwkv_np.calibration import gptq, mixture, verdict
from rwkv_np.calibration.calibrate import calibrate
from rwkv_np.calibration.hessian import Hessian, damped, inverse_factor, order, token_weights
from rwkv_np.calibration.layers import Hidden, Layer
from rwkv_np.calibration.mixture import Choice
from rwkv_np.calibration.text import read_windows
from rwkv_np.calibration.unfinished import Unfinished
from rwkv_np.conversion.quantize import SEARCHED, quantize
from rwkv_np.errors import InputError, OutputError, TextError
from rwkv_np.files.format import read_model_file
from rwkv_np.files.quants import by_name
from rwkv_np.models import load, model_config
from rwkv_np.tokenizers import load_tokenizer

# Sizes with which every matrix has whole blocks, except low-rank ones.
VERSIONS = {
    "v4": {},
    "v5.1": {"head_size": 16},
    "v5.2": {"head_size": 16},
    "v6": {"head_size": 16, "ranks": (32, 32)},
    "v7": {"head_size": 16, "ranks": (8, 8, 8, 8)},
}
N_TOKENS = 1024


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def chats(tmp_path, rng):
    """A text of 40 documents of random characters: random models write such text."""
    documents = ["".join(map(chr, rng.integers(33, 127, 300))) for _ in range(40)]
    (tmp_path / "chats.txt").write_text("<|endoftext|>".join(documents))
    return tmp_path / "chats.txt"


@pytest.fixture
def foreign(tmp_path, rng):
    """A text over few words, which random models do not write."""
    words = ["time", "walrus", "shoes", "ships", "wax", "of", "and", "to", "talk", "many"]
    documents = [" ".join(rng.choice(words, 60)) + "." for _ in range(40)]
    (tmp_path / "foreign.txt").write_text("<|endoftext|>".join(documents))
    return tmp_path / "foreign.txt"


def model_of(folder, version, data_type="FP16", seed=1):
    arrays = random_parameters(np.random.default_rng(seed), architecture=version, **VERSIONS[version])
    return write_model(folder / f"{version}.bin", arrays, data_type)


# --- text --------------------------------------------------------------------------------------------


def test_windows_start_at_documents_and_every_ninth_is_kept_back(chats):
    windows = read_windows(chats, load_tokenizer("bytes"), 1600, window=100)
    assert (len(windows.calibration), len(windows.kept_back)) == (16, 2)
    starts = {document[:20] for document in chats.read_text().split("<|endoftext|>")}
    for ids in [*windows.calibration, *windows.kept_back]:
        assert ids.dtype == np.int32 and len(ids) == 100
        assert bytes(ids[:20].astype(np.uint8)).decode() in starts
    used = {ids.tobytes() for ids in windows.calibration}
    assert not used & {ids.tobytes() for ids in windows.kept_back}


def test_a_text_without_an_end_of_text_is_cut_at_empty_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i:03}\nwith a second line." for i in range(300)))
    windows = read_windows(path, load_tokenizer("bytes"), 2000, window=50)
    for ids in [*windows.calibration, *windows.kept_back]:
        assert bytes(ids[:10].astype(np.uint8)) == b"Paragraph "


def test_windows_are_spread_over_a_long_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"{i:05}" for i in range(20000)))
    windows = read_windows(path, load_tokenizer("bytes"), 1600, window=100)
    firsts = sorted(int(bytes(ids[:5].astype(np.uint8))) for ids in [*windows.calibration, *windows.kept_back])
    assert firsts[0] == 0 and firsts[-1] > 18000


def test_a_text_that_is_too_short_is_refused(tmp_path, chats):
    with pytest.raises(TextError, match="give a longer text of the kind"):
        read_windows(chats, load_tokenizer("bytes"), 32768, window=4000)


# --- H -----------------------------------------------------------------------------------------------


def test_h_is_the_weighted_second_moment_in_parts(rng):
    x, weights = rng.standard_normal((50, 96)).astype(np.float32), rng.random(50).astype(np.float32)
    expected = (x * weights[:, None]).T @ x
    whole, halves = Hessian(96, 1000), Hessian(96, 64)
    for hessian in (whole, halves):
        hessian.add(x[:20], weights[:20])
        hessian.add(x[20:], weights[20:])
    np.testing.assert_allclose(whole.parts[0].sums, expected, rtol=1e-4, atol=1e-4)
    assert [part.columns for part in halves.parts] == [slice(0, 64), slice(64, 96)]
    for columns, sums in halves.parts:
        np.testing.assert_allclose(sums, expected[columns, columns], rtol=1e-4, atol=1e-4)
    error = rng.standard_normal((7, 96)).astype(np.float32)
    assert whole.loss(error) == pytest.approx(np.einsum("ri,ij,rj", error, expected, error), rel=1e-4)


def test_tokens_weigh_by_sensitivity_and_all_a_little():
    weights = token_weights(np.array([0, 0, 0, 4], np.float32))
    np.testing.assert_allclose(weights, [0.1, 0.1, 0.1, 3.7], rtol=1e-5)
    np.testing.assert_allclose(token_weights(np.zeros(3, np.float32)), 1)


@pytest.mark.parametrize("n", [32, 64, 96, 300])
def test_the_factor_and_its_inverse(n, rng):
    x = rng.standard_normal((2 * n, n))
    h = damped((x.T @ x).astype(np.float32))
    u = inverse_factor(h)
    assert (np.tril(u, -1) == 0).all()
    np.testing.assert_allclose(u.T @ u, np.linalg.inv(h), atol=1e-8)


def test_columns_that_matter_come_first_and_blocks_stay_together(rng):
    diagonal = rng.random(96) + np.repeat([1, 3, 2], 32)
    places = order(diagonal)
    assert (places.reshape(3, 32) // 32 == [[1], [2], [0]]).all()
    assert all((np.diff(diagonal[block]) <= 0).all() for block in places.reshape(3, 32))


# --- one matrix ----------------------------------------------------------------------------------------


def inputs_of(rng, n_in, n_tokens=400):
    """Correlated inputs, as a model's are."""
    return (rng.standard_normal((n_tokens, 20)) @ rng.standard_normal((20, n_in))).astype(np.float32) + (
        0.3 * rng.standard_normal((n_tokens, n_in)).astype(np.float32)
    )


@pytest.mark.parametrize("part", [1000, 64])
@pytest.mark.parametrize("name", SEARCHED)
def test_the_output_of_an_encoded_matrix_is_nearer_than_that_of_a_plain_one(name, part, rng):
    format, w, x = FORMATS[name], rng.standard_normal((70, 320)).astype(np.float32), inputs_of(rng, 320)
    hessian = Hessian(320, part)
    hessian.add(x, np.full(len(x), 1 / len(x), np.float32))

    def error(blocks):
        return np.square(x @ (format.decode(blocks).reshape(w.shape) - w).T).sum() / len(x)

    plain = error(format.encode(w.reshape(70, -1, 32)))
    found = gptq.encode(format, w, hessian, threads=2)
    assert found.blocks.shape == (70, 10) and found.blocks.dtype == format.block
    assert error(found.blocks) < 0.5 * plain
    if part == 1000:
        damping = (
            0.01
            * np.trace(hessian.parts[0].sums)
            / 320
            * np.square(format.decode(found.blocks).reshape(w.shape) - w).sum()
        )
        assert found.loss == pytest.approx(error(found.blocks) + damping, rel=0.01)
    once = gptq.encode(format, w, hessian, threads=2, n_sweeps=0)
    assert found.loss < once.loss
    assert gptq.losses([format], w, hessian, threads=1) == pytest.approx([once.loss], rel=1e-3)


def test_the_result_does_not_depend_on_threads(rng):
    w, hessian = rng.standard_normal((200, 64)).astype(np.float32), Hessian(64, 64)
    hessian.add(inputs_of(rng, 64), np.ones(400, np.float32))
    one, three = (gptq.encode(FORMATS["Q4_1"], w, hessian, threads) for threads in (1, 3))
    decoded = [FORMATS["Q4_1"].decode(found.blocks) for found in (one, three)]
    assert one.loss == pytest.approx(three.loss, rel=1e-3)
    assert (decoded[0] == decoded[1]).mean() > 0.98  # a product of BLAS may round differently for fewer rows


def test_inputs_that_are_always_zero_do_no_harm(rng):
    x = inputs_of(rng, 64)
    x[:, :32] = 0
    hessian = Hessian(64, 64)
    hessian.add(x, np.ones(400, np.float32))
    w = rng.standard_normal((40, 64)).astype(np.float32)
    decoded = FORMATS["Q4_1"].decode(gptq.encode(FORMATS["Q4_1"], w, hessian, 1).blocks).reshape(w.shape)
    assert np.abs(decoded - w).max() < 1


# --- layers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_give_what_the_graph_gives(tmp_path, version, rng):
    path = model_of(tmp_path, version)
    file = read_model_file(path)
    config, ids = model_config(file), rng.integers(0, 256, 12)
    graph = config.record.graph(config, file.parameters)
    hidden = Hidden(graph.ln0(graph.emb(ids)))
    for i in range(config.n_layer):
        layer = Layer(config, file.parameters, graph, i)
        for half in range(2):
            layer.add(half, hidden)
    expected, _ = load(path, engine="numpy").forward(ids, full_output=True)
    np.testing.assert_allclose(graph.head(graph.ln_out(hidden.x)), expected, rtol=1e-4, atol=1e-4)


STAGES = {
    "v4": [["receptance", "key", "value"], ["output"], ["receptance", "key"], ["value"]],
    "v5.1": [["receptance", "key", "value"], ["output"], ["receptance", "key"], ["value"]],
    "v5.2": [["receptance", "key", "value", "gate"], ["output"], ["receptance", "key"], ["value"]],
    "v6": [["time_maa_w1"], ["time_decay_w1", "receptance", "key", "value", "gate"], ["time_decay_w2"], ["output"],
           ["receptance", "key"], ["value"]],
    "v7": [["receptance", "key", "value", "w1", "a1", "g1", "v1"], ["w2", "a2", "g2", "v2"], ["output"], ["key"],
           ["value"]],
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_matrices_are_grouped_by_what_their_inputs_depend_on(tmp_path, version):
    file = read_model_file(model_of(tmp_path, version))
    config = model_config(file)
    layer = Layer(config, file.parameters, config.record.graph(config, file.parameters), 1)
    found = [
        {matrix.name.split(".", 3)[3].removesuffix(".weight") for matrix in stage}
        for half in range(2)
        for stage in layer.stages(half)
    ]
    assert found == [set(stage) for stage in STAGES[version]]


# --- a whole file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, data_type", [("v4", "Q5_1"), ("v5.1", "Q4_0"), ("v5.2", "Q4_1"), ("v6", "Q5_0"), ("v7", "Q4_0")]
)
def test_every_version_in_the_layout_of_a_plain_file(tmp_path, version, data_type, foreign):
    source = model_of(tmp_path, version)
    plain = quantize(source, tmp_path / "plain.bin", data_type)
    found = calibrate(source, tmp_path / "ours.bin", data_type, foreign, n_tokens=N_TOKENS, threads=2)
    assert [(r.name, r.data_type, r.n_bytes) for r in found.results] == [
        (r.name, r.data_type, r.n_bytes) for r in plain
    ]
    kept_back = found.verdict[0]
    assert kept_back.is_better and kept_back.calibrated < 0.9 * kept_back.plain
    assert not (tmp_path / "ours.bin.unfinished").exists()
    load(tmp_path / "ours.bin").forward([1, 2, 3])


def test_the_comparison_is_of_the_written_file(tmp_path, chats):
    """The verdict's KL divergences are those that the graph itself gives for the files."""
    source = model_of(tmp_path, "v4")
    quantize(source, tmp_path / "plain.bin", "Q4_1")
    found = calibrate(source, tmp_path / "ours.bin", "Q4_1", chats, n_tokens=N_TOKENS)
    windows = read_windows(chats, load_tokenizer("bytes"), N_TOKENS).kept_back
    models = [load(tmp_path / name, engine="numpy", head_q8_0=False) for name in ("v4.bin", "plain.bin", "ours.bin")]
    kl = np.zeros(2)
    for ids in windows:
        logs = [verdict_log(model.forward(ids[:-1], full_output=True)[0]) for model in models]
        kl += [(np.exp(logs[0]) * (logs[0] - other)).sum(axis=1).mean() / len(windows) for other in logs[1:]]
    assert (found.verdict[0].plain, found.verdict[0].calibrated) == pytest.approx(tuple(kl), rel=0.01)


def verdict_log(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_other_types_in_a_calibrated_file_are_rounded_plainly(tmp_path, chats):
    source, keep = model_of(tmp_path, "v4"), [("*.att.key.*", "Q8_0"), ("head.weight", "Q8_0")]
    quantize(source, tmp_path / "plain.bin", "Q4_1", keep=keep)
    calibrate(source, tmp_path / "ours.bin", "Q4_1", chats, keep=keep, n_tokens=N_TOKENS)
    before, after = (read_model_file(tmp_path / name).parameters for name in ("plain.bin", "ours.bin"))
    for name, p in after.items():
        assert (p.data.tobytes() == before[name].data.tobytes()) == (p.data_type.name != "Q4_1")


def test_an_interrupted_run_continues_and_gives_the_same_file(tmp_path, chats, monkeypatch):
    source = model_of(tmp_path, "v4")
    calibrate(source, tmp_path / "whole.bin", "Q4_1", chats, n_tokens=N_TOKENS)
    encode, done = gptq.encode, []

    def stops_at_the_sixth(*args, **options):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(1)
        return encode(*args, **options)

    monkeypatch.setattr(gptq, "encode", stops_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        calibrate(source, tmp_path / "ours.bin", "Q4_1", chats, n_tokens=N_TOKENS)
    assert not (tmp_path / "ours.bin").exists() and (tmp_path / "ours.bin.unfinished").is_dir()
    again = []
    monkeypatch.setattr(gptq, "encode", lambda *args, **options: again.append(1) or encode(*args, **options))
    monkeypatch.setattr("rwkv_np.calibration.fisher.sensitivities", None)  # kept from the first run
    found = calibrate(source, tmp_path / "ours.bin", "Q4_1", chats, n_tokens=N_TOKENS)
    assert found.is_continued and len(again) == 2 * 7 - 5
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


def test_other_settings_start_again_but_keep_what_was_measured(tmp_path):
    destination, shape, data_type = tmp_path / "q.bin", (4, 32), by_name("Q4_1")
    blocks = FORMATS["Q4_1"].encode(np.ones((4, 1, 32), np.float32))

    def opened(source, size):
        return Unfinished(destination, {"source": source}, {"size": size})

    def made(store, number):
        return store.arrays("s", ["x"], lambda: {"x": np.array([number])})["x"][0]

    store = opened("a", 1)
    store.save("m", shape, data_type, blocks)
    assert made(store, 1) == 1
    same = opened("a", 1)
    assert same.is_continued and same.load("m", shape, data_type).data.tobytes() == blocks.tobytes()
    other = opened("a", 2)
    assert not other.is_continued and other.load("m", shape, data_type) is None and made(other, 2) == 1
    source = opened("b", 2)
    assert not source.is_continued and made(source, 3) == 3
    assert source.arrays("s", ["x", "y"], lambda: {"x": 4, "y": 5}) == {"x": 4, "y": 5}


def test_little_memory_gives_h_in_parts(tmp_path, chats, monkeypatch):
    parts = []
    monkeypatch.setattr(gptq, "encode", lambda f, w, h, *rest: parts.append(len(h.parts)) or ENCODE(f, w, h, *rest))
    source = model_of(tmp_path, "v4")
    found = calibrate(source, tmp_path / "q.bin", "Q4_1", chats, n_tokens=N_TOKENS, max_memory=2 * 40 * 32**2)
    assert parts == [1, 1, 1, 1, 1, 1, 2] * 2 and found.is_better


ENCODE = gptq.encode


def test_a_foreign_text_is_caught_although_the_model_is_better_on_more_of_it(tmp_path, foreign, run_cli):
    source = model_of(tmp_path, "v4")
    arguments = ["quantize", source, tmp_path / "q.bin", "Q4_0", "--calibrate", foreign, "--tokens", N_TOKENS]
    result = run_cli(*arguments, "--json", code=3)
    assert "is NOT better than plain rounding on what the model writes itself" in result.stderr
    found = json.loads(result.stdout)
    kept_back, own = found["verdict"]
    assert kept_back["calibrated"] < 0.5 * kept_back["plain"] and own["calibrated"] > own["plain"]
    assert not found["is_better"]


def test_a_model_that_is_not_better_is_said_so_with_a_status(tmp_path, chats, run_cli, monkeypatch):
    worse = verdict.Compared("a text", 1e-4, 2e-4, 1e-5)
    monkeypatch.setattr(sys.modules["rwkv_np.calibration.calibrate"], "compare", lambda *args: worse)
    source = model_of(tmp_path, "v4")
    arguments = ["quantize", source, tmp_path / "q.bin", "Q4_1", "--calibrate", chats, "--tokens", N_TOKENS]
    result = run_cli(*arguments, code=3)
    assert "is NOT better than plain rounding on a text" in result.stderr
    assert "0.0002 calibrated, 0.0001 plain (+100 %" in result.stderr
    load(tmp_path / "q.bin")  # the file is written all the same


# --- mixtures ------------------------------------------------------------------------------------------


def test_bytes_go_where_they_save_most():
    cheap = [Choice("Q4_0", 100, 1.0), Choice("Q5_1", 150, 0.5), Choice("Q8_0", 200, 0.4)]
    dear = [Choice("Q4_0", 100, 9.0), Choice("Q5_1", 150, 5.0), Choice("Q8_0", 200, 1.5)]
    sizes = {200: "Q4_0 Q4_0", 250: "Q4_0 Q5_1", 300: "Q4_0 Q8_0", 350: "Q5_1 Q8_0", 1000: "Q8_0 Q8_0"}
    for n_bytes, expected in sizes.items():
        found = mixture.best_mixture({"a": cheap, "b": dear}, n_bytes)
        assert " ".join(one.choice.data_type for one in found) == expected
    with pytest.raises(InputError, match="takes 50 bytes more"):
        mixture.best_mixture({"a": cheap, "b": dear}, 150)


def test_a_type_that_is_worse_than_a_mix_of_its_neighbours_is_left_out():
    choices = [Choice("Q4_0", 10, 8), Choice("Q4_1", 12, 7.9), Choice("Q5_0", 14, 2), Choice("Q5_1", 15, 2.5)]
    assert [c.data_type for c in mixture.hull(choices)] == ["Q4_0", "Q5_0"]


def test_a_mixture_fits_its_size_and_says_what_it_bought(tmp_path, chats, run_cli):
    source = model_of(tmp_path, "v4")
    n_bytes = quantize(source, tmp_path / "plain.bin", "Q5_1", keep=[("emb.weight", "Q8_0"), ("head.weight", "Q8_0")])
    size = (tmp_path / "plain.bin").stat().st_size
    assert n_bytes
    arguments = ["quantize", source, tmp_path / "q.bin", "--calibrate", chats, "--tokens", N_TOKENS]
    result = run_cli(*arguments, "--size", size, "--json")
    assert (tmp_path / "q.bin").stat().st_size <= size
    found = json.loads(result.stdout)
    assert found["is_better"] and len(found["mixture"]) == 14
    types = {p["name"]: p["data_type"] for p in found["parameters"]}
    assert types["emb.weight"] == types["head.weight"] == "Q8_0"
    assert {types[one["name"]] for one in found["mixture"]} >= {one["data_type"] for one in found["mixture"]}
    assert "expected KL" in result.stderr and "more than Q4_0" in result.stderr


def test_a_mixture_of_the_most_exact_type_has_nothing_to_compare(tmp_path, chats, run_cli):
    source, target = model_of(tmp_path, "v4"), tmp_path / "large.bin"
    done = run_cli("quantize", source, target, "--size", "1GB", "--calibrate", chats, "--tokens", 600)
    assert done.exit_code == 0 and "All matrices fit as Q8_0" in done.stderr and "WARNING" not in done.stderr
    types = {p.data_type.name for p in read_model_file(target).parameters.values()}
    assert types == {"Q8_0", "FP32"}


def test_kept_types_stay_in_a_mixture(tmp_path, chats):
    source, keep = model_of(tmp_path, "v4"), [("*.ffn.key.*", "Q8_0"), ("head.weight", "Q5_0")]
    found = calibrate(source, tmp_path / "q.bin", None, chats, keep=keep, n_bytes=60_000, n_tokens=N_TOKENS)
    types = {r.name: r.data_type for r in found.results}
    assert types["blocks.0.ffn.key.weight"] == "Q8_0" and types["head.weight"] == "Q5_0"
    assert (tmp_path / "q.bin").stat().st_size <= 60_000


def test_a_size_that_cannot_be_reached_is_an_error(tmp_path, chats, run_cli):
    arguments = ["quantize", model_of(tmp_path, "v4"), tmp_path / "q.bin", "--calibrate", chats, "--tokens", N_TOKENS]
    assert "give a larger --size" in run_cli(*arguments, "--size", "30KB", code=1).stderr


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--size", "4GB"], "--size needs --calibrate TEXT"),
        (["--bits", "5"], "--bits needs --calibrate TEXT"),
        (["--tokens", "1024"], "--tokens needs --calibrate TEXT"),
        (["--calibrate", "x.txt", "--search"], "--calibrate includes the search"),
        (["--calibrate", "x.txt", "--size", "4GB", "--bits", "5"], "give one of them"),
        (["--calibrate", "x.txt", "--size", "four"], "'four' is not a size"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, model_fp16, run_cli, options, expected):
    assert expected in run_cli("quantize", model_fp16, tmp_path / "q.bin", *options, code=2).stderr


def test_a_type_that_gains_nothing_is_refused(tmp_path, chats):
    source = model_of(tmp_path, "v4")
    with pytest.raises(InputError, match="calibration changes no other"):
        calibrate(source, tmp_path / "q.bin", "Q8_0", chats)
    with pytest.raises(InputError, match="Take Q5_1"):
        calibrate(source, tmp_path / "q.bin", "Q4_1_O", chats)


def test_an_existing_file_is_found_before_the_work(tmp_path, chats):
    source = model_of(tmp_path, "v4")
    shutil.copy(source, tmp_path / "q.bin")
    with pytest.raises(OutputError, match="already exists"):
        calibrate(source, tmp_path / "q.bin", "Q4_1", chats)


@pytest.mark.parametrize(
    "unit, n", [("60000", 60000), ("60KB", 60000), ("0.06 MB", 60000), ("1KiB", 1024), ("2g", 2e9)]
)
def test_sizes_have_units(unit, n):
    from rwkv_np.cli.quantize import _parse_bytes

    assert _parse_bytes(None, None, unit) == n


def test_head_and_embedding_have_a_short_name(tmp_path, model_fp16, run_cli):
    run_cli("quantize", model_fp16, tmp_path / "q.bin", "Q4_1", "--emb-head", "Q8_0", "--head", "Q5_1")
    types = {name: p.data_type.name for name, p in read_model_file(tmp_path / "q.bin").parameters.items()}
    assert (types["emb.weight"], types["head.weight"], types["blocks.0.att.key.weight"]) == ("Q8_0", "Q5_1", "Q4_1")
