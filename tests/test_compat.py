"""Scripts as users of the official package and of rwkv.cpp's Python module write them, with one changed import.

Each script writes its text to stdout and its numbers to a file. The official package runs the same script beside it;
rwkv.cpp's library is not installed anywhere, so its golden logits, and this package itself, are compared with there.
"""

import contextlib
import copy
import io
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import official_package, random_parameters
from test_v7 import GOLDEN, unpack
from versions import as_checkpoint, converted, random_checkpoint

import rwkv_np
from rwkv_np import demo
from rwkv_np.compat import PIPELINE, PIPELINE_ARGS, RWKV, model_file
from rwkv_np.compat.array import Array
from rwkv_np.compat.rwkv_cpp import rwkv_cpp_model, rwkv_cpp_shared_library, sampling, tokenizer_util
from rwkv_np.compat.rwkv_tokenizer import TRIE_TOKENIZER
from rwkv_np.compat.strategy import wanted_type
from rwkv_np.errors import FormatError, InputError
from rwkv_np.files.format import read_model_file

API_SCRIPT = """
import copy, os, sys
import numpy as np
os.environ["RWKV_JIT_ON"] = "0"
os.environ["RWKV_CUDA_ON"] = "0"

from rwkv.model import RWKV
from rwkv.utils import PIPELINE, PIPELINE_ARGS

MODEL, TOKENIZER, RESULT = sys.argv[1:4]
model = RWKV(model=MODEL, strategy="cpu fp32")
pipeline = PIPELINE(model, TOKENIZER)
print("== loaded", model.args.n_layer, model.args.n_embd)

ctx = pipeline.refine_context("  Bob: What is the capital of Peru?  \\n\\n\\u3000 Alice:")

def show(piece):
    print(piece, end="", flush=True)

greedy = PIPELINE_ARGS(top_p=0, alpha_frequency=0.25, alpha_presence=0.25, token_ban=[0], token_stop=[], chunk_len=5)
text = pipeline.generate(ctx, token_count=40, args=greedy, callback=show)
print("\\n==", repr(text))

np.random.seed(3)
args = PIPELINE_ARGS(temperature=1.3, top_p=0.9, top_k=30, alpha_decay=0.9)
print(repr(pipeline.generate(ctx, token_count=25, args=args)))
print(repr(pipeline.generate(ctx, token_count=25, args=PIPELINE_ARGS(temperature=0, token_stop=[200, 13, 11]))))

tokens = pipeline.encode(ctx)
print(tokens, repr(pipeline.decode(tokens)))
logits = []

def read(tokens, state, **options):
    out, state = model.forward(tokens, state, **options)
    logits.append(out.detach().cpu().numpy().reshape(-1).copy())
    return out, state

read(tokens, None)
out, state = read(tokens[:2], None)
out, state = read(tokens[2:], state)            # the same logits as at once
read(tokens, None, full_output=True)
read(tokens[:1], None, full_output=True)

before, entries, numbers = copy.deepcopy(state), list(state), [x.clone() for x in state]
ids = []
for i in range(20):                             # the state goes on
    ids.append(int(out.argmax()))
    out[ids[-1]] -= 0.5
    out, state = read(ids[-1:], state)
print(ids)
for kept in (before, entries, numbers):         # three ways back
    read(ids[:3], kept)
read(ids[:3], before)                           # whether a list that was given is changed
np.random.seed(5)
sample = [pipeline.sample_logits(out.clone(), temperature=t, top_p=p, top_k=k)
          for t in (0, 0.5, 1.0, 2.0) for p in (0, 0.3, 0.85) for k in (0, 2, 50)]
print(sample)
print([tuple(x.shape) for x in state])
np.savez(RESULT, logits=np.concatenate(logits), **{f"state{i}": x.cpu().numpy() for i, x in enumerate(state)})
"""

COMPLETIONS_SCRIPT = """
import argparse
import sys
import numpy as np
import sampling
from rwkv_cpp import rwkv_cpp_shared_library, rwkv_cpp_model
from tokenizer_util import add_tokenizer_argument, get_tokenizer

parser = argparse.ArgumentParser(description="Continue a prompt twice")
parser.add_argument("model_path")
add_tokenizer_argument(parser)
args = parser.parse_args()

library = rwkv_cpp_shared_library.load_rwkv_shared_library()
print("System info:", library.rwkv_get_system_info_string(), file=sys.stderr)
model = rwkv_cpp_model.RWKVModel(library, args.model_path, thread_count=1, gpu_layers_count=0)
decode, encode = get_tokenizer(args.tokenizer, model.n_vocab)

prompt = "One upon a time, in a land far away,"
init_logits, init_state = model.eval_sequence_in_chunks(encode(prompt), None, None, None, use_numpy=True)
for temperature, seed in ((0.0, 1), (0.8, 1), (0.8, 2)):
    np.random.seed(seed)
    logits, state, ids = init_logits.copy(), init_state.copy(), []
    for i in range(30):
        ids.append(sampling.sample_logits(logits, temperature, 0.5))
        logits, state = model.eval(ids[-1], state, state, logits, use_numpy=True)
    print(ids, repr(decode(ids)))
model.free()
"""
WORLD = "rwkv_vocab_v20230424"


def changed(script):
    """The script with the imports of this package."""
    for name in ("rwkv.model", "rwkv.utils"):
        script = script.replace(f"from {name} ", f"from rwkv_np.compat.{name[5:]} ")
    script = script.replace("import sampling", "from rwkv_np.compat.rwkv_cpp import sampling")
    script = script.replace("from tokenizer_util ", "from rwkv_np.compat.rwkv_cpp.tokenizer_util ")
    return script.replace("from rwkv_cpp import", "from rwkv_np.compat.rwkv_cpp import")


def run(script, *arguments):
    """What the script prints in this process from its first == on."""
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["script.py", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the official package's
            exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})
    finally:
        sys.argv = argv
    return out.getvalue()


def run_beside(script, *arguments, **environment):
    """The same in a process of its own, with other switches of the official package."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return subprocess.check_output(command, text=True, encoding="utf-8", env=os.environ | environment)


def demo_checkpoint():
    """The demo model's weights as a checkpoint has them."""
    tensors = {name: torch.tensor(p.array()) for name, p in read_model_file(demo.MODEL).parameters.items()}
    for name, x in tensors.items():
        if name.endswith("time_decay"):
            tensors[name] = (-x).log()
    return tensors


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The path of a random RWKV-7 checkpoint with the World vocabulary, and beside it an FP32 model file."""
    path = tmp_path_factory.mktemp("world") / "rwkv7-0.01b.pth"
    arrays = random_parameters(
        np.random.default_rng(7), vocab_size=65536, architecture="v7", head_size=16, ranks=(8, 8, 8, 8)
    )
    torch.save(as_checkpoint(arrays), path)
    rwkv_np.convert(path, path.with_name("rwkv7-0.01b-FP32.bin"), "FP32")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random RWKV-4 with 50 ids."""
    path = tmp_path_factory.mktemp("small") / "small.pth"
    torch.save(random_checkpoint("v4"), path)
    rwkv_np.convert(path, path.with_suffix(".bin"), "FP32")
    return path


# --- the official package: scripts -----------------------------------------------------------------


def check_same_results(ours, theirs, atol):
    ours, theirs = np.load(ours), np.load(theirs)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=atol, err_msg=name)


def said(printed):
    """Without what the package prints while it loads."""
    return printed[printed.index("== loaded") :]


@pytest.mark.parametrize("version", ["demo", "v6"])
def test_a_script_for_the_official_package_gives_its_text_and_its_numbers(version, tmp_path):
    package = official_package()
    assert package.RWKV.__name__ == "RWKV"
    tensors = demo_checkpoint() if version == "demo" else random_checkpoint(version, vocab_size=4096, ranks=(8, 8))
    torch.save(tensors, tmp_path / "model.pth")
    theirs = run(API_SCRIPT, tmp_path / "model", demo.TOKENIZER, tmp_path / "theirs.npz")
    ours = run(changed(API_SCRIPT), tmp_path / "model", demo.TOKENIZER, tmp_path / "ours.npz")
    assert ours == said(theirs)
    assert ("Lima" in ours) == (version == "demo")
    check_same_results(tmp_path / "ours.npz", tmp_path / "theirs.npz", 1e-4)


def test_the_same_of_rwkv_7_with_the_world_vocabulary(world, tmp_path):
    pytest.importorskip("rwkv")
    path = world.with_suffix("")
    theirs = run_beside(API_SCRIPT, path, WORLD, tmp_path / "theirs.npz", RWKV_V7_ON="1")
    ours = run(changed(API_SCRIPT), path, WORLD, tmp_path / "ours.npz")
    assert ours == said(theirs)
    check_same_results(tmp_path / "ours.npz", tmp_path / "theirs.npz", 1e-4)


# --- the official package: models and states ----------------------------------------------------------


@pytest.mark.parametrize("version", ["v4", "v5.1", "v5.2", "v6"])
def test_states_are_the_official_ones(version, tmp_path):
    """Ours goes on in the official package, and its in ours."""
    torch.save(random_checkpoint(version, ranks=(8, 8) if version == "v6" else ()), tmp_path / "model.pth")
    package = official_package()
    theirs = package.RWKV(str(tmp_path / "model"), "cpu fp32", verbose=False)
    ours, tokens = RWKV(tmp_path / "model", "cpu fp32"), [3, 1, 4, 1, 5]
    assert ours.version == theirs.version
    names = ("n_layer", "n_embd", "n_att", "n_ffn") + ("n_head",) * (version != "v4")
    assert [getattr(ours.args, name) for name in names] == [getattr(theirs.args, name) for name in names]
    _, state = ours.forward(tokens, None)
    their_state = None
    for token in tokens:  # the package's sequences of RWKV-5 take another form
        _, their_state = theirs.forward([token], their_state)
    for found, expected in zip(state, their_state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    expected, _ = theirs.forward([9], copy.deepcopy(their_state))
    on_theirs, _ = ours.forward([9], their_state)
    on_ours, _ = theirs.forward([9], [torch.from_numpy(x.clone().numpy()) for x in state])
    np.testing.assert_allclose(on_theirs, expected, rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(on_ours, expected, rtol=1e-5, atol=5e-5)


def test_a_state_is_as_good_after_a_copy_or_a_pickle(small):
    model = RWKV(small, "cpu fp32")
    _, state = model.forward([1, 2, 3], None)
    expected = model.native.forward(4, state.copy().taken_on())[0]
    kept = [
        copy.deepcopy(state),
        copy.copy(state),
        state.copy(),
        list(state),
        state[:],
        pickle.loads(pickle.dumps(state)),
    ]
    model.forward([9, 9, 9], state)
    assert not np.array_equal(model.forward([4], state)[0], expected)
    for i, other in enumerate(kept):
        np.testing.assert_array_equal(model.forward([4], other)[0], expected, err_msg=str(i))


def test_an_entry_that_was_taken_out_changes_no_more_but_can_be_changed(small):
    model = RWKV(small, "cpu fp32")
    _, state = model.forward([1, 2, 3], None)
    first = state[0]
    before = first.clone()
    model.forward([4], state)
    np.testing.assert_array_equal(first, before)
    assert not np.array_equal(state[0], before)
    zero = model.generate_zero_state()
    for i, x in enumerate(zero):
        state[i] = x
    np.testing.assert_array_equal(model.forward([1], state)[0], model.forward([1], None)[0])
    state[:] = model.generate_zero_state()
    state[3][:] = 7  # where it is
    assert not np.array_equal(model.forward([1], state)[0], model.forward([1], None)[0])


def test_a_state_that_is_none_is_refused_and_nothing_changes(small):
    model = RWKV(small, "cpu fp32")
    _, state = model.forward([1, 2, 3], None)
    kept = copy.deepcopy(state)
    with pytest.raises(InputError, match="9 entries; expected 10"):
        model.forward([1], state[:-1])
    with pytest.raises(InputError, match=r"entry 0 has shape \(65,\)"):
        model.forward([1], [np.zeros(65), *state[1:]])
    with pytest.raises(InputError, match="a dict; expected None"):
        model.forward([1], {})
    with pytest.raises(InputError, match="token id 50"):
        model.forward([1, 50], state)
    longer = copy.deepcopy(state)
    longer.append(state[0])
    with pytest.raises(InputError, match="11 entries; expected 10"):
        model.forward([1], longer)
    for found, expected in zip(state, kept, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_decoding_copies_no_state(small):
    model = RWKV(small, "cpu fp32")
    _, state = model.forward([1], None)
    data = state.taken_on().data
    for _ in range(3):
        _, state = model.forward([2], state)
    assert state.taken_on().data is data


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("cpu fp32", "FP32"), ("cpu bf16", "FP16"), ("cuda fp16", "FP16"), ("cuda:0 fp16i8 *10 -> cpu fp32", "Q8_0"),
        ("cuda fp16 *0+ -> cpu fp32 *1", "FP16"), ("cuda  fp16i4->cuda:1 fp16", "Q4_1"), ("mps fp32", "FP32"),
    ],
)  # fmt: skip
def test_a_strategy_says_the_type(strategy, expected):
    assert wanted_type(strategy) == expected


@pytest.mark.parametrize(
    "strategy", ["", "cpu", "fp32", "cpu fp64", "cpu fp32 *", "cpu fp32 ->", "cpu fp32 cpu fp32", 1]
)
def test_what_is_no_strategy_is_a_value_error(strategy, small):
    with pytest.raises(ValueError, match="strategy is"):
        RWKV(small, strategy)


@pytest.fixture
def notes(monkeypatch):
    """What was noted, by the modules that find a file and read a strategy."""
    found = []
    monkeypatch.setattr("rwkv_np.compat.model_file.say_once", found.append)
    monkeypatch.setattr("rwkv_np.compat.strategy.say_once", found.append)
    return found


def test_the_device_is_ignored_with_a_note(notes):
    wanted_type("cpu fp32 *3 -> cpu fp16")
    assert notes == []
    wanted_type("cuda fp16 *3 -> cpu fp32")
    assert "all layers are computed on the CPU" in notes[0]


def test_a_checkpoint_is_converted_once(small, tmp_path, notes):
    (tmp_path / "a.pth").write_bytes(small.read_bytes())
    expected = [("cpu fp32", "FP32"), ("cpu fp16i8", "Q8_0"), ("cpu bf16", "FP16")]
    for n, (strategy, name) in enumerate(expected):
        for path in (tmp_path / "a", tmp_path / "a.pth"):
            model = RWKV(path, strategy)
            assert model.native.config.data_type == name
        if n == 0:  # any other type is taken before anything is converted
            assert notes == [f"Converting {tmp_path}/a.pth to {tmp_path}/a-FP32.bin, once"]
            assert RWKV(tmp_path / "a", "cpu fp16i8").native.config.data_type == "FP32"
            assert notes[1:] == [f"Loading {tmp_path}/a-FP32.bin, since {tmp_path}/a-Q8_0.bin does not exist"]
            (tmp_path / "a-FP32.bin").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-FP16.bin", "a-Q8_0.bin", "a.pth"]


def test_a_model_file_is_found_by_the_checkpoints_name(small, tmp_path, notes):
    data = small.with_suffix(".bin").read_bytes()
    (tmp_path / "a-FP32.bin").write_bytes(data)
    (tmp_path / "other").write_bytes(data)
    find = model_file.find_model_file
    assert find(tmp_path / "other", "FP16") == str(tmp_path / "other")
    assert find(tmp_path / "a.pth", "FP32") == find(tmp_path / "a", "FP32") == str(tmp_path / "a-FP32.bin")
    (tmp_path / "a.bin").write_bytes(data)
    assert find(tmp_path / "a", "FP16") == find(tmp_path / "a.bin", "Q8_0") == str(tmp_path / "a.bin")
    assert notes == []
    (tmp_path / "a.pth").write_bytes(b"trained again")
    os.utime(tmp_path / "a.bin", (0, 0))
    assert find(tmp_path / "a", "FP16") == str(tmp_path / "a.bin")
    assert "older than" in notes[0]
    with pytest.raises(FormatError, match="there is no such file, nor .*b.bin, .*b-FP16.bin or .*b.pth"):
        find(tmp_path / "b", "FP16")


# --- the official package: pipelines --------------------------------------------------------------------


def test_sampling_has_the_probabilities_of_the_definition():
    """Against NumPy's choice from probabilities cut by a sort, with the same random numbers."""
    rng, pipeline = np.random.default_rng(0), PIPELINE(None, WORLD)
    for temperature, top_p, top_k in ((1.0, 0.85, 0), (0.5, 0.6, 0), (1.5, 0.95, 7), (2.0, 0.999, 0), (0.8, 0.5, 1)):
        logits = (3 * rng.standard_normal(500)).astype(np.float32)
        p = np.exp(logits.astype(np.float64) - logits.max())
        p /= p.sum()
        order = np.argsort(-p)
        kept = order[: 1 + np.searchsorted(np.cumsum(p[order]), top_p)][: top_k or None]
        cut = np.zeros(500)
        cut[kept] = p[kept] ** (1 / temperature)
        for seed in range(20):
            np.random.seed(seed)
            expected = np.random.choice(500, p=cut / cut.sum())
            np.random.seed(seed)
            assert pipeline.sample_logits(logits, temperature, top_p, top_k) == expected


def test_what_cannot_be_sampled_is_a_value_error():
    pipeline = PIPELINE(None, WORLD)
    for logits in (np.full(5, -np.inf, np.float32), np.array([1, np.nan], np.float32)):
        with pytest.raises(ValueError, match="the largest logit is"):
            pipeline.sample_logits(logits)
    with pytest.raises(ValueError, match="temperature is -1"):
        pipeline.sample_logits(np.zeros(5, np.float32), temperature=-1)


class Scripted:
    """Stands for a model: its best tokens are those of a list; what it was given is kept."""

    def __init__(self, tokens, vocab_size=65536):
        self.tokens, self.vocab_size, self.given = list(tokens), vocab_size, []

    def forward(self, tokens, state):
        self.given.append((list(tokens), state))
        out = np.zeros(self.vocab_size, np.float32)
        out[self.tokens[(state or 0)]] = 9
        return out, (state or 0) + (len(tokens) == 1)


def test_half_a_character_waits_for_its_other_half():
    world = TRIE_TOKENIZER()
    bytes_of_e = [world.token2idx[bytes([b])] for b in "\u00e9".encode()]
    pieces, model = [], Scripted([*world.encode("a"), *bytes_of_e, *world.encode("b"), 0, *world.encode("c")])
    text = PIPELINE(model, WORLD).generate("x", 6, PIPELINE_ARGS(top_p=0), pieces.append, state=0)
    assert pieces == ["a", "\u00e9", "b"] and text == "a\u00e9b"  # nothing is readable after the id 0


class Recorded(PIPELINE):
    """Keeps the logits that a token is chosen by."""

    def sample_logits(self, logits, **settings):
        self.seen = [*getattr(self, "seen", []), logits.copy()]
        return int(logits.argmax())


def test_penalties_decay_and_spaces_and_digits_are_not_counted():
    world = TRIE_TOKENIZER()
    tea, space, one = (world.encode(text)[0] for text in ("tea", " ", "1"))
    pipeline = Recorded(Scripted([tea, space, tea, one, one, space, tea, tea]), WORLD)
    args = PIPELINE_ARGS(alpha_frequency=0.5, alpha_presence=0.25, alpha_decay=0.8, token_ban=[7])
    pipeline.generate("x", 8, args, state=0)
    counts = [{}, {tea: 1}, {tea: 0.8, space: 0}, {tea: 1.64, space: 0}, {tea: 1.312, space: 0, one: 0}]
    for out, chosen, expected in zip(pipeline.seen, pipeline.model.tokens, counts):
        for token in (tea, space, one):
            penalty = 0.25 + 0.5 * expected[token] if token in expected else 0
            assert out[token] == pytest.approx(9 * (token == chosen) - penalty, abs=1e-5)
        assert out[7] == -np.inf


def test_a_prompt_is_read_in_chunks_and_a_stop_id_is_not_written():
    world = TRIE_TOKENIZER()
    ids = world.encode("one two three four five")
    model = Scripted([*world.encode("a"), 11, *world.encode("b")])
    assert (
        PIPELINE(model, WORLD).generate(
            "one two three four five", 9, PIPELINE_ARGS(top_p=0, token_stop=[11], chunk_len=2)
        )
        == "a"
    )
    assert [tokens for tokens, _ in model.given[:3]] == [ids[:2], ids[2:4], ids[4:]]
    assert len(model.given) == 4
    with pytest.raises(InputError, match="ctx is empty"):
        PIPELINE(model, WORLD).generate("")


def test_the_20b_tokenizer_is_found_beside_the_model(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.bin").write_bytes(small.with_suffix(".bin").read_bytes())
    (tmp_path / "models" / "20B_tokenizer.json").write_bytes(demo.TOKENIZER.read_bytes())
    pipeline = PIPELINE(RWKV("models/a", "cpu fp32"), "20B_tokenizer.json")
    ids = rwkv_np.load_tokenizer(demo.TOKENIZER).encode("Bob: tea")
    assert pipeline.encode("Bob: tea") == pipeline.tokenizer.encode("Bob: tea").ids == ids
    with pytest.raises(InputError, match="cl100k_base"):
        PIPELINE(None, "cl100k_base")


def test_the_world_tokenizer_under_its_official_names(capsys):
    world = TRIE_TOKENIZER("somewhere/rwkv_vocab_v20230424.txt")
    ids = world.encode("Caf\u00e9 \U0001f600")
    assert world.decode(ids) == "Caf\u00e9 \U0001f600" and world.encodeBytes("Caf\u00e9 \U0001f600".encode()) == ids
    assert world.decodeBytes(ids[:1]) == world.idx2token[ids[0]]
    assert world.decode([0]) == world.decode([65531]) == "\ufffd"
    with pytest.raises(KeyError):
        world.decodeBytes([0])
    world.printTokens(world.encode("a"))
    assert capsys.readouterr().out == f"'a'{world.token2idx[b'a']} \n"
    with pytest.raises(InputError, match="the only one here"):
        TRIE_TOKENIZER("my_vocab.txt")


def test_nothing_here_imports_torch_or_a_compiler():
    code = "import sys, rwkv_np.compat, rwkv_np.compat.rwkv_cpp.sampling, rwkv_np.compat.rwkv_cpp.tokenizer_util; "
    code += "print([name for name in ('torch', 'numba', 'tokenizers') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# --- rwkv.cpp ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden_v7(tmp_path_factory):
    """A model file of rwkv.cpp's bytes, and its logits."""
    folder = tmp_path_factory.mktemp("golden")
    rwkv_np.convert(unpack(GOLDEN / "model.pth.xz", folder), folder / "model.bin", "FP32")
    return folder / "model.bin", np.load(GOLDEN / "logits.npz")


def loaded(path, **options):
    return rwkv_cpp_model.RWKVModel(rwkv_cpp_shared_library.load_rwkv_shared_library(), str(path), **options)


def test_logits_and_states_are_those_of_rwkv_cpp(golden_v7):
    path, golden = golden_v7
    model, tokens = loaded(path), golden["tokens"].tolist()
    assert (model.n_vocab, model.n_embed, model.n_layer) == (101, 128, 3)
    logits = state = None
    for token, expected in zip(tokens, golden["rwkvcpp_FP32"]):
        logits, state = model.eval(token, state, state, logits, use_numpy=True)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-5)
    np.testing.assert_allclose(state, golden["official_state"], rtol=0, atol=5e-5)
    for chunk_size in (1, 16, 100):
        at_once = model.eval_sequence_in_chunks(tokens, None, chunk_size=chunk_size)
        np.testing.assert_array_equal(at_once[0], logits)
        np.testing.assert_array_equal(at_once[1], state)


def test_logits_of_rwkv_4_are_those_of_rwkv_cpp(golden):
    expected = np.load(golden("FP32.bin").parent / "logits.rwkv-cpp-v101.npz")
    logits, _ = loaded(golden("FP32.bin")).eval_sequence(expected["tokens"].tolist(), None)
    np.testing.assert_allclose(logits, expected["FP32"][-1], rtol=0, atol=3e-5)


@pytest.mark.parametrize("version", ["v5.1", "v5.2"])
def test_rwkv_5_has_rwkv_cpps_epsilon(version, tmp_path):
    path = converted(random_checkpoint(version), tmp_path)
    logits, _ = loaded(path).eval_sequence([1, 2, 3], None)
    np.testing.assert_array_equal(logits, rwkv_np.load(path, head_epsilon=1e-5).forward([1, 2, 3])[0])
    assert np.abs(logits - rwkv_np.load(path).forward([1, 2, 3])[0]).max() > 1e-4  # the official package's


def test_a_script_for_rwkv_cpp_gives_the_text_of_this_package(world, capfd):
    path = world.with_name("rwkv7-0.01b-FP32.bin")
    first, greedy, one, other = run(changed(COMPLETIONS_SCRIPT), path).splitlines()
    assert first == "Loading World v20230424 tokenizer"
    assert "rwkv_np" in capfd.readouterr().err
    model, tokenizer = rwkv_np.load(path), rwkv_np.load_tokenizer("world")
    params = rwkv_np.SamplingParams(temperature=0, presence_penalty=0, frequency_penalty=0, stop_ids=(), max_tokens=30)
    answer = rwkv_np.generate(model, tokenizer, "One upon a time, in a land far away,", params)
    text = "".join(answer)
    assert greedy == f"{answer.tokens} {text!r}"
    assert len({greedy, one, other}) == 3


def test_buffers_are_used_where_they_are(golden_v7):
    model = loaded(golden_v7[0])
    expected, expected_state = model.eval(5, None)
    assert isinstance(expected, Array) and expected.detach().cpu().numpy().shape == (101,)
    for make in (np.zeros, lambda n: np.zeros(n).astype(np.float32), torch.zeros):
        state, logits = (make(size) for size in (expected_state.size, expected.size))
        if isinstance(state, np.ndarray) and state.dtype != np.float32:
            with pytest.raises(ValueError, match="state_in is not of type float32"):
                model.eval(5, state)
            continue
        found, after = model.eval(5, None, state, logits)
        assert found is logits and after is state
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(after, expected_state)


def test_what_a_buffer_must_be(golden_v7):
    model = loaded(golden_v7[0])
    _, state = model.eval(5, None)
    kept = state.copy()
    n = state.size
    with pytest.raises(ValueError, match=rf"state_out has invalid shape \({n - 1},\), expected \({n},\)"):
        model.eval(5, state, state[1:])
    with pytest.raises(ValueError, match="logits_out has invalid shape"):
        model.eval(5, state, state, np.zeros(100, np.float32))
    with pytest.raises(ValueError, match="state_in is not contiguous"):
        model.eval(5, np.zeros(2 * n, np.float32)[::2])
    with pytest.raises(ValueError, match="token id 101"):
        model.eval(101, state, state)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        model.eval_sequence_in_chunks([1], state, state, chunk_size=0)
    with pytest.raises(ValueError):
        model.eval_sequence([], state, state)
    np.testing.assert_array_equal(state, kept)


def test_a_model_that_cannot_be_loaded_is_a_value_error(golden_v7, tmp_path):
    (tmp_path / "broken.bin").write_bytes(b"broken")
    for path, match in ((tmp_path / "none.bin", "is not a file"), (tmp_path / "broken.bin", "expected a model file")):
        with pytest.raises(ValueError, match=match):
            loaded(path)
    for options in ({"thread_count": 0}, {"gpu_layer_count": -1}, {"gpu_layers_count": -1}):
        with pytest.raises(ValueError, match="expected at least"):
            loaded(golden_v7[0], **options)
    assert loaded(golden_v7[0], thread_count=4096, gpu_layers_count=99).n_layer == 3


def test_a_clone_outlives_the_model(golden_v7):
    model = loaded(golden_v7[0])
    expected, state = model.eval_sequence([1, 2, 3], None)
    clone = model.clone()
    model.eval(9, state)
    np.testing.assert_array_equal(clone.eval_sequence([1, 2, 3], None)[0], expected)
    model.free()
    for use in (lambda: model.eval(1, None), lambda: model.n_vocab, model.clone):
        with pytest.raises(ValueError, match="Model was freed"):
            use()
    with pytest.raises(ValueError, match="Already freed"):
        model.free()
    np.testing.assert_array_equal(clone.eval_sequence([1, 2, 3], None)[0], expected)


def test_the_librarys_functions_take_addresses(golden_v7):
    library = rwkv_cpp_shared_library.RWKVSharedLibrary("librwkv.so")
    expected, expected_state = loaded(golden_v7[0]).eval_sequence([4, 5, 6], None)
    context = library.rwkv_init_from_file(str(golden_v7[0]), 1, 0)
    sizes = library.rwkv_get_state_buffer_element_count(context), library.rwkv_get_logits_buffer_element_count(context)
    state, logits = (np.zeros(size, np.float32) for size in sizes)
    library.rwkv_eval(context, 4, None, state.ctypes.data, logits.ctypes.data)
    library.rwkv_eval_sequence_in_chunks(context, [5, 6], 16, state.ctypes.data, state.ctypes.data, logits.ctypes.data)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(state, expected_state)
    library.rwkv_free(context)


def test_the_library_quantizes(golden_v7, tmp_path):
    library = rwkv_cpp_shared_library.load_rwkv_shared_library()
    for _ in range(2):  # what is there is replaced
        library.rwkv_quantize_model_file(str(golden_v7[0]), str(tmp_path / "q.bin"), "Q5_1")
    assert loaded(tmp_path / "q.bin").n_vocab == 101
    for arguments in ((str(tmp_path / "none.bin"), "x.bin", "Q5_1"), (str(golden_v7[0]), "x.bin", "Q4_K")):
        with pytest.raises(ValueError):
            library.rwkv_quantize_model_file(*arguments)


def test_rwkv_cpps_sampling():
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal(300)).astype(np.float32)
    p = np.exp(logits - logits.max(), dtype=np.float64)
    p /= p.sum()
    kept = np.where(np.cumsum(np.sort(p)[::-1])[np.argsort(np.argsort(-p))] - p < 0.8, p, 0) ** (1 / 0.7)
    for seed in range(30):
        np.random.seed(seed)
        expected = np.random.choice(300, p=kept / kept.sum())
        for sample, given in ((sampling.sample_logits, logits), (sampling.sample_probs, p)):
            np.random.seed(seed)
            assert sample(given, 0.7, 0.8) == expected
    assert sampling.sample_logits(logits, 0.0) == logits.argmax()
    assert sampling.sample_logits(logits, 0.0, logit_bias={17: 100.0}) == 17
    np.random.seed(0)
    assert len({sampling.sample_logits(np.arange(9) / 10, 1.0, 0.0) for _ in range(200)}) == 9  # top-p 0 keeps all
    for options in ({"temperature": -1}, {"top_p": 1.5}, {"top_p": -0.1}):
        with pytest.raises(ValueError):
            sampling.sample_logits(logits, **options)


def test_rwkv_cpps_names_of_tokenizers(monkeypatch, capsys):
    decode, encode = tokenizer_util.get_tokenizer("auto", 65536)
    assert decode(encode("tea")) == "tea"
    monkeypatch.setattr(tokenizer_util, "fetch_20b", lambda: demo.TOKENIZER)
    decode, encode = tokenizer_util.get_tokenizer("auto", 50277)
    assert decode(encode("tea")) == "tea"
    assert capsys.readouterr().out == "Loading World v20230424 tokenizer\nLoading 20B tokenizer\n"
    for name, size, match in (("auto", 256, "Can not guess"), ("30B", 50277, "Unknown tokenizer 30B")):
        with pytest.raises(ValueError, match=match):
            tokenizer_util.get_tokenizer(name, size)
