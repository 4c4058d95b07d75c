"""Tokenizers: text survives encoding and streaming, and each model gets its own tokenizer.

Needs no network and only data that it trains itself; the tests of the real 20B tokenizer run if its file is in
shared/ beside the checkout. References: the `tokenizers` library's decode, the official `rwkv` package and
`pyrwkv_tokenizer` for World, and Python's own UTF-8 decoder for streams.
"""

import json
import re
import subprocess
import sys
import tracemalloc
import zlib
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import peak
import pytest
import tokenizers as library
from hypothesis import given
from hypothesis import strategies as st
from make_world_vocabulary import pack, read_vocabulary

from rwkv_np import demo
from rwkv_np.errors import InputError, TokenizerError
from rwkv_np.tokenizers import TextStream, load_tokenizer
from rwkv_np.tokenizers.base import is_padded
from rwkv_np.tokenizers.bpe import BpeTokenizer, byte_alphabet
from rwkv_np.tokenizers.world import N_IDS, VOCABULARY, load_vocabulary

SHARED_20B = Path(__file__).parents[2] / "shared" / "data" / "tokenizers" / "20B_tokenizer.json"

# NFC throughout: the 20B tokenizer normalizes, so other forms are not decoded to the same text.
TEXTS = {
    "empty": "",
    "english": "The quick brown fox, 1234567890 times; it's (really) jumping!",
    "chinese": "今天天气很好，我们一起去公园散步吧。龘靐齉",
    "rare_chinese": "𠀀𪚥𫠝",
    "japanese": "吾輩は猫である。名前はまだ無い。カタカナ",
    "korean": "안녕하세요, 세계! 훈민정음",
    "arabic": "السلام عليكم ورحمة الله",
    "hebrew_and_hindi": "שלום नमस्ते दुनिया",
    "emoji": "😀🎉🫠 ok",
    "emoji_joined": "👩‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 ❤️‍🔥",
    "flags": "🇩🇪🇯🇵🇰🇷🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "combining": "x̂ q̃ Z͑ͫ̓a̴͝",
    "line_ends": "a\r\nb\nc\r\r\n\n\nd\n\n",
    "white_space": "\t\tx\t  y" + " " * 37 + "z \u00a0\u2003\u2028\u3000 ",
    "controls": "\x00\x01\x1b[31m\x7f\x85\ufeff",
    "code": "def f(x):\n        return {'a': x ** 2}  # ok\n",
    "end_of_text": "before<|endoftext|>after",
    "noncharacters": "\ufffe\uffff\U0010ffff",
}
each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())


def save_byte_level(path, n_ids, added=()):
    """Train a byte-level tokenizer.json of `n_ids` ids in all; 256 means only the bytes, without <|endoftext|>."""
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=n_ids - len(added),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[] if n_ids == 256 else ["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(TEXTS.values()), trainer)
    tokenizer.add_tokens(list(added))
    assert tokenizer.get_vocab_size() == n_ids
    tokenizer.save(str(path))
    return path


def save_sentencepiece(path, decoder):
    """A tokenizer.json with "▁" for a space and a token for each byte value that has no other token."""
    pieces = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), "▁", "▁h", *"hexyo今"]
    model = library.models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[("▁", "h")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoder
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def bpe_file(tmp_path_factory):
    return save_byte_level(tmp_path_factory.mktemp("bpe") / "tokenizer.json", 400, ["    ", "éĠ"])


@pytest.fixture(scope="session")
def file_20b():
    if not SHARED_20B.is_file():
        pytest.skip("the 20B tokenizer is not in shared/data/tokenizers beside the checkout")
    return SHARED_20B


@pytest.fixture(scope="session")
def load_kind(bpe_file):
    """A function from the name of a kind to its tokenizer; each is loaded once."""
    cache = {}

    def load(kind, request):
        if kind not in cache:
            path = {"small": bpe_file, "20B": None}.get(kind, kind)
            cache[kind] = load_tokenizer(request.getfixturevalue("file_20b") if path is None else path)
        return cache[kind]

    return load


@pytest.fixture(params=["small", "20B", "world", "bytes"])
def tokenizer(request, load_kind):
    return load_kind(request.param, request)


@pytest.fixture(scope="session")
def official_world():
    package = find_spec("rwkv") or pytest.skip("the official rwkv package is not installed")
    folder = Path(package.origin).parent
    # Import the file: importing the package would import torch, which is not needed.
    spec = spec_from_file_location("official_world", folder / "rwkv_tokenizer.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(folder / "rwkv_vocab_v20230424.txt"))


def no_network(*args, **kwargs):
    raise AssertionError("the network was asked")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)


# ---- text and ids


@each_text
def test_decode_gives_the_encoded_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@each_text
def test_streaming_gives_every_character_whole(tokenizer, text):
    stream = TextStream()
    parts = [stream.push(tokenizer.token_bytes(token)) for token in tokenizer.encode(text)]
    assert stream.flush() == ""
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts)


def test_a_character_spread_over_tokens_is_held_until_it_is_complete(load_kind, request):
    tokenizer = load_kind("bytes", request)
    stream = TextStream()
    assert [stream.push(tokenizer.token_bytes(token)) for token in tokenizer.encode("é😀x")] == [
        "", "é", "", "", "", "😀", "x",
    ]  # fmt: skip


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@pytest.mark.parametrize("kind", ["small", "world", "bytes"])
def test_any_text_comes_back(kind, text, load_kind, request):
    tokenizer = load_kind(kind, request)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text, position", [("\ud83d", 0), ("ab\udc80c", 2)])
def test_half_a_surrogate_pair_is_an_input_error_that_names_its_position(tokenizer, text, position):
    with pytest.raises(InputError, match=f"position {position} .*U\\+D"):
        tokenizer.encode(text)


@pytest.mark.parametrize("offset", [0, 1, 10**9])
def test_an_id_past_the_vocabulary_is_an_input_error(tokenizer, offset):
    with pytest.raises(InputError, match=f"expected 0 to {tokenizer.vocab_size - 1}"):
        tokenizer.token_bytes(tokenizer.vocab_size + offset)


def test_a_negative_id_is_an_input_error(tokenizer):
    with pytest.raises(InputError):
        tokenizer.decode([-1])


def test_every_id_of_the_vocabulary_may_be_decoded(tokenizer):
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)


# ---- streams


@given(data=st.binary(), cuts=st.lists(st.integers(0, 20)))
def test_a_stream_gives_what_decoding_at_once_gives(data, cuts):
    stream, text, start = TextStream(), "", 0
    for size in cuts:
        text += stream.push(data[start : start + size])
        start += size
    text += stream.push(data[start:]) + stream.flush()
    assert text == data.decode("utf-8", "replace")


def test_invalid_bytes_swallow_nothing_after_them():
    stream = TextStream()
    assert stream.push(b"\xe4\xbd") == ""
    assert stream.push(b"abc\xff") + stream.push("é".encode()) == "\ufffdabc\ufffdé"


def test_flush_shows_an_unfinished_character_and_resets():
    stream = TextStream()
    assert stream.push("好".encode()[:2]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
    assert stream.push("好".encode()) == "好"


# ---- byte-level BPE


def test_byte_alphabet_is_that_of_the_library():
    assert sorted(byte_alphabet()) == sorted(library.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@pytest.mark.parametrize("kind", ["small", "20B"])
@each_text
def test_bpe_decodes_as_the_library_does(kind, text, load_kind, request, bpe_file):
    path = bpe_file if kind == "small" else request.getfixturevalue("file_20b")
    oracle = library.Tokenizer.from_file(str(path))
    tokenizer = load_kind(kind, request)
    ids = tokenizer.encode(text)
    assert ids == oracle.encode(text).ids
    for n_tokens in range(len(ids) + 1):
        assert tokenizer.decode(ids[:n_tokens]) == oracle.decode(ids[:n_tokens], skip_special_tokens=False)


def test_added_tokens_are_plain_text(load_kind, request):
    tokenizer = load_kind("small", request)
    assert tokenizer.token_bytes(0) == b"<|endoftext|>"
    assert [tokenizer.token_bytes(token) for token in (398, 399)] == [b"    ", "éĠ".encode()]


def test_an_id_without_a_token_stands_for_nothing(tmp_path, bpe_file):
    content = json.loads(bpe_file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    assert vocabulary[last] == 397
    vocabulary[last] = 403
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.vocab_size == 404
    assert [tokenizer.token_bytes(token) for token in (397, 400, 401, 402)] == [b""] * 4
    assert tokenizer.token_bytes(403) != b""


def test_truncation_and_padding_of_the_file_are_not_applied(tmp_path, bpe_file):
    trained = library.Tokenizer.from_file(str(bpe_file))
    trained.enable_truncation(2)
    trained.enable_padding(length=50)
    trained.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    assert tokenizer.decode(tokenizer.encode("neither cut nor filled")) == "neither cut nor filled"


@pytest.mark.parametrize(
    "text, tail",
    [("Bob: Hi\n\n", [187, 187]), ("\n\n", [187, 187]), ("Bob: Hi\n", [187]), ("a\n\nb", None), ("", None)],
)
def test_a_20b_prompt_that_ends_in_two_newlines_ends_in_187_187(text, tail, file_20b):
    tokenizer = load_tokenizer(file_20b)
    ids = tokenizer.encode(text)
    if tail == [187, 187]:
        assert ids[-1] == 535
        assert tokenizer.encode_prompt(text) == ids[:-1] + tail
    else:
        assert tokenizer.encode_prompt(text) == ids
    assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


@pytest.mark.parametrize("kind", ["small", "world", "bytes"])
def test_other_tokenizers_encode_prompts_as_any_text(kind, load_kind, request):
    tokenizer = load_kind(kind, request)
    assert tokenizer.encode_prompt("Q: x\n\n") == tokenizer.encode("Q: x\n\n")


def test_the_20b_tokenizer_is_known_by_its_contents(tmp_path, file_20b, bpe_file):
    renamed = tmp_path / "renamed.json"
    renamed.write_bytes(file_20b.read_bytes())
    tokenizer = load_tokenizer(renamed, 50277)
    assert (tokenizer.name, tokenizer.vocab_size) == ("20B", 50277)
    assert load_tokenizer(bpe_file).name == str(bpe_file)


# ---- SentencePiece


SENTENCEPIECE_DECODERS = {
    "llama": library.decoders.Sequence(
        [
            library.decoders.Replace("▁", " "),
            library.decoders.ByteFallback(),
            library.decoders.Fuse(),
        ]
    ),
    "metaspace": library.decoders.Metaspace(prepend_scheme="never"),
}


@pytest.mark.parametrize("decoder", SENTENCEPIECE_DECODERS.values(), ids=SENTENCEPIECE_DECODERS.keys())
@pytest.mark.parametrize("text", ["hey hex", " he  今 é😀y\n"])
def test_sentencepiece_gives_spaces_and_bytes(tmp_path, decoder, text):
    tokenizer = load_tokenizer(save_sentencepiece(tmp_path / "t.json", decoder))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_byte_token_is_one_byte(tmp_path):
    path = save_sentencepiece(tmp_path / "t.json", SENTENCEPIECE_DECODERS["llama"])
    tokenizer = load_tokenizer(path)
    assert tokenizer.token_bytes(1 + 0xE4) == b"\xe4"
    assert tokenizer.decode([1 + 0xE4, 1 + 0xBD]) == "\ufffd"


# ---- World


@pytest.fixture(scope="session")
def world():
    return load_tokenizer("world")


@pytest.fixture(scope="session", params=["rwkv", "pyrwkv_tokenizer"])
def world_oracle(request):
    """A function from a text to its ids, from another implementation."""
    if request.param == "rwkv":
        return request.getfixturevalue("official_world").encode
    return pytest.importorskip("pyrwkv_tokenizer").RWKVTokenizer().encode


@each_text
def test_world_encodes_as_the_others(text, world, world_oracle):
    assert world.encode(text) == world_oracle(text)


@given(data=st.data())
def test_world_encodes_any_text_as_the_others(data, world, world_oracle):
    any_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    chinese = st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF))
    emoji = st.text(alphabet=st.sampled_from("😀🎉🫠👩🏽🚀🏳🌈❤🔥\u200d\ufe0f 🇩🇪"))
    code = st.text(alphabet=st.sampled_from("  \t\n(){}[];:=+-*/<>#\"'\\_.,0129abefnrtixTF"))
    # Entries are cut and joined, so that they end at positions that do not occur in texts.
    entry = st.integers(1, N_IDS - 1).map(world.token_bytes)
    entries = st.lists(entry, max_size=6).map(lambda pieces: b"".join(pieces).decode("utf-8", "replace"))
    text = data.draw(st.lists(st.one_of(any_text, chinese, emoji, code, entries), max_size=4).map("".join))
    assert world.encode(text) == world_oracle(text)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_cut_as_by_the_official_package_and_come_back(data, world, official_world):
    ids = world.encode_bytes(data)
    assert ids == official_world.encodeBytes(data)
    assert b"".join(map(world.token_bytes, ids)) == data


def test_every_world_entry_is_encoded_as_itself(world):
    for token in range(1, N_IDS):
        try:
            text = world.token_bytes(token).decode("utf-8")
        except UnicodeDecodeError:
            continue
        assert world.encode(text) == [token]


def test_world_tokens_are_the_official_bytes(world, official_world):
    expected = [official_world.idx2token.get(token, b"") for token in range(65536)]
    assert [world.token_bytes(token) for token in range(65536)] == expected


def test_the_end_of_a_text_and_the_padding_stand_for_nothing_and_no_text_becomes_them(world):
    assert [world.token_bytes(token) for token in (0, *range(65530, 65536))] == [b""] * 7
    assert world.encode("\x00") == [1]


def test_half_a_character_of_world_is_shown_as_such(world):
    ids = [1 + value for value in "😀".encode()]  # ids 1 to 256 are the bytes
    assert [world.decode(ids[:n]) for n in range(5)] == ["", "\ufffd", "\ufffd", "\ufffd", "😀"]
    stream = TextStream()
    assert [stream.push(world.token_bytes(token)) for token in ids] == ["", "", "", "😀"]


WORLD_MEMORY = """
import numpy as np, peak, sys
from rwkv_np.sampler import Sampler
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer
if sys.argv[1:] == ["beside a model"]:
    # Every model runs on Numba: what starting that takes is not the tokenizer's.
    Sampler(SamplingParams(), []).choose(np.zeros(300, np.float32))
watched = peak.Peak()
tokenizer = load_tokenizer("world")
assert tokenizer.decode(tokenizer.encode("今天 hello")) == "今天 hello"
watched.progress()
assert ("numba" in sys.modules) == (len(sys.argv) == 2)
print(watched.growth)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the memory of a process")
@pytest.mark.parametrize("arguments", [["beside a model"], []], ids=["beside a model", "alone"])
def test_world_takes_less_than_15_mb(world, arguments):
    world.encode("compiled")  # so that the child finds it compiled: compiling takes memory
    run = [sys.executable, "-c", WORLD_MEMORY, *arguments]
    grown = int(subprocess.check_output(run, text=True, env=peak.bounded_environment()))
    assert 0 < grown < 15e6


@pytest.mark.parametrize(
    "content", [b"", b"not deflated", zlib.compress(bytes(N_IDS - 1)), zlib.compress(bytes(2**21)), None]
)
def test_a_damaged_world_vocabulary_is_a_tokenizer_error_that_names_it(tmp_path, content):
    path = tmp_path / "v.zlib"
    path.write_bytes(VOCABULARY.read_bytes()[:-100] if content is None else content)
    with pytest.raises(TokenizerError, match="v.zlib: is damaged") as caught:
        load_vocabulary(path)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_no_text_could_be_cut_by_is_a_tokenizer_error(tmp_path, monkeypatch):
    content = bytearray(zlib.decompress(VOCABULARY.read_bytes()))
    content[N_IDS] = content[N_IDS + 1]  # the byte of the first entry
    (tmp_path / "v.zlib").write_bytes(zlib.compress(content))
    monkeypatch.setattr("rwkv_np.tokenizers.world.VOCABULARY", tmp_path / "v.zlib")
    with pytest.raises(TokenizerError, match="v.zlib: is damaged: each of the 256 bytes"):
        load_tokenizer("world")


def test_a_vocabulary_is_not_unpacked_beyond_what_one_can_be(tmp_path):
    (tmp_path / "v.zlib").write_bytes(zlib.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match="v.zlib: is damaged: it has more than"):
            load_vocabulary(tmp_path / "v.zlib")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_missing_world_vocabulary_is_a_tokenizer_error(tmp_path):
    with pytest.raises(TokenizerError, match="v.zlib: cannot be read: No such file"):
        load_vocabulary(tmp_path / "v.zlib")


def test_the_packed_official_file_can_be_loaded(tmp_path):
    pieces = [b""] * N_IDS
    pieces[1], pieces[7] = b"\xe4", b"abc"
    (tmp_path / "v.zlib").write_bytes(pack(pieces))
    vocabulary = load_vocabulary(tmp_path / "v.zlib")
    assert [vocabulary[token] for token in (0, 1, 2, 7, N_IDS - 1)] == [b"", b"\xe4", b"", b"abc", b""]


@pytest.mark.parametrize(
    "line, problem",
    [
        ("x 'a' 1", "is not `id literal"),
        ("1 'a'", "is not `id literal"),
        ("1 '\\x6' 1", "is not `id literal"),
        ("99 'a' 1", "is not `id literal"),
        ("1 'ab' 1", "has 2 bytes, but declares 1"),
    ],
)
def test_a_damaged_official_vocabulary_names_its_line(tmp_path, line, problem):
    path = tmp_path / "vocab.txt"
    path.write_text(f"2 ' ' 1\n{line}\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"vocab.txt: line 2 {problem}"):
        read_vocabulary(path, 10)


def test_official_vocabulary_lines_may_end_in_crlf_and_hold_a_line_separator(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("1 '\u2028' 3\r\n2 b'\\xe4' 1\r\n3 '\"' 1\r\n4 \"'\" 1\r\n5 '\\r\\n' 2\r\n".encode())
    assert read_vocabulary(path, 7) == [b"", "\u2028".encode(), b"\xe4", b'"', b"'", b"\r\n", b""]


# ---- damaged files


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1, 2]", b'{"model": ', b"\xff\xfe\x00", b"1 'a' 1\n", b'{"model": {"type": "?"}}']
)
def test_a_damaged_file_is_a_tokenizer_error_that_names_it(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="bad.json: is damaged"):
        load_tokenizer(path)


@pytest.mark.parametrize("version", ["\x1b[2J\n", "\u202e", "9" * 100_000])
def test_what_the_library_repeats_of_a_damaged_file_is_one_short_line(tmp_path, bpe_file, version):
    (tmp_path / "bad.json").write_text(json.dumps(json.loads(bpe_file.read_bytes()) | {"version": version}))
    with pytest.raises(TokenizerError, match="bad.json: is damaged") as caught:
        load_tokenizer(tmp_path / "bad.json")
    assert caught.value.problem.isprintable() and len(caught.value.problem) < 400


def test_a_file_that_the_library_cannot_encode_by_is_a_tokenizer_error(tmp_path, bpe_file):
    save_sentencepiece(tmp_path / "bad.json", library.decoders.ByteFallback())
    content = json.loads((tmp_path / "bad.json").read_bytes())
    content["model"]["unk_token"], content["model"]["byte_fallback"] = "<unknown>", False
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="bad.json: is damaged: it cannot encode a text: Unk token"):
        load_tokenizer(tmp_path / "bad.json").encode("a letter that it lacks")


def test_a_panic_of_the_library_is_a_tokenizer_error_and_ctrl_c_is_none(bpe_file, monkeypatch):
    class PanicException(BaseException):
        pass

    tokenizer = load_tokenizer(bpe_file)
    for raised, expected in ((PanicException("index out of bounds"), TokenizerError),
                             (KeyboardInterrupt(), KeyboardInterrupt)):  # fmt: skip
        monkeypatch.setattr(tokenizer, "_tokenizer", Mock(encode=Mock(side_effect=raised)))
        with pytest.raises(expected):
            tokenizer.encode("text")


def test_bytes_are_not_made_characters_again_and_again(tmp_path):
    """Each such step doubles the non-ASCII text: with a hundred of them the library never returns."""
    content = json.loads(Path(demo.TOKENIZER).read_bytes())
    steps = content["pre_tokenizer"]["pretokenizers"]
    steps += [steps[-1]] * 100
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="bad.json: is damaged: its replacements make a text up to"):
        BpeTokenizer(tmp_path / "bad.json")


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
@pytest.mark.parametrize("steps", [["x" * 2000], ["x" * 40, "y" * 40]])
def test_a_text_is_not_made_a_thousand_times_as_long(tmp_path, part, steps):
    save_sentencepiece(tmp_path / "bad.json", library.decoders.ByteFallback())
    content = json.loads((tmp_path / "bad.json").read_bytes())
    found = [{"type": "Replace", "pattern": {"String": " "}, "content": text} for text in steps]
    inner = {"type": "Sequence", f"{part}s": found}
    content[part] = {"type": "Sequence", f"{part}s": [inner]}
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="bad.json: is damaged: its replacements make a text up to"):
        load_tokenizer(tmp_path / "bad.json")


def test_a_panic_while_a_file_is_read_is_a_tokenizer_error(tmp_path, bpe_file, monkeypatch):
    class PanicException(BaseException):
        pass

    panic, ctrl_c = PanicException("no entry found"), KeyboardInterrupt()
    for raised, expected in ((panic, TokenizerError), (ctrl_c, KeyboardInterrupt)):
        monkeypatch.setattr(library, "Tokenizer", Mock(from_buffer=Mock(side_effect=raised)))
        with pytest.raises(expected):
            load_tokenizer(bpe_file)


PANICS = {
    "a merge makes 'efgh', which is not in its vocabulary": {
        "model": {"type": "BPE", "vocab": {"ef": 0, "gh": 1}, "merges": [["ef", "gh"]]}
    },
    "a merge makes 'abcd', which is not in its vocabulary": {
        "model": {"type": "BPE", "vocab": {"ab": 0, "cd": 1}, "merges": ["ab cd"]}
    },
    "its normalizer prepends an empty string": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": ""}]}
    },
    "its pre-tokenizer makes pieces of length 0": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "its normalizer (Precompiled) is cut": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "ALQCAACEAAA="}
    },
}


@pytest.mark.parametrize(("problem", "change"), PANICS.items(), ids=range(len(PANICS)))
def test_what_makes_the_library_panic_is_refused_before_it_prints_a_report(tmp_path, bpe_file, capfd, problem, change):
    (tmp_path / "bad.json").write_text(json.dumps(json.loads(bpe_file.read_bytes()) | change))
    with pytest.raises(TokenizerError, match=re.escape(f"bad.json: is damaged: {problem}")):
        load_tokenizer(tmp_path / "bad.json").encode("12")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"model": [], "normalizer": [""]}', '{"model": {"vocab": [], "merges": 5}}', "5"]
)
def test_what_has_another_shape_is_left_to_the_library(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(TokenizerError, match="bad.json: "):
        load_tokenizer(tmp_path / "bad.json")


def test_an_id_of_billions_is_refused(tmp_path, bpe_file):
    content = json.loads(bpe_file.read_bytes())
    content["model"]["vocab"]["a"] = 4_000_000_000
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="is damaged: its highest id is 4000000000, and it has 400 tokens"):
        load_tokenizer(tmp_path / "bad.json")


def test_a_file_cut_short_is_a_tokenizer_error(tmp_path, bpe_file):
    path = tmp_path / "cut.json"
    path.write_bytes(bpe_file.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match="damaged"):
        load_tokenizer(path)


def test_a_missing_file_is_a_tokenizer_error(tmp_path):
    with pytest.raises(TokenizerError, match="none.json: cannot be read: No such file"):
        load_tokenizer(tmp_path / "none.json")


@pytest.mark.parametrize(
    "decoder, name",
    [
        (library.decoders.CTC(), "CTC"),
        (library.decoders.BPEDecoder(), "BPEDecoder"),
        (library.decoders.Sequence([library.decoders.ByteLevel(), library.decoders.CTC()]), "ByteLevel\\+CTC"),
        (library.decoders.Replace(library.Regex("[_▁]"), " "), "Replace with the pattern"),
        (None, "no decoder"),
    ],
)
def test_an_unknown_decoder_is_named(tmp_path, decoder, name):
    tokenizer = library.Tokenizer(library.models.BPE(vocab={"a": 0}, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.save(str(tmp_path / "t.json"))
    with pytest.raises(TokenizerError, match=f"t.json: its decoder is of the kind {name}"):
        load_tokenizer(tmp_path / "t.json")


def test_a_wordpiece_file_is_refused_before_the_library_can_abort(tmp_path, bpe_file):
    text = bpe_file.read_text(encoding="utf-8")
    broken = text.replace('"continuing_subword_prefix": null', '"continuing_subword_prefix": "##"')
    assert broken != text
    (tmp_path / "t.json").write_text(broken, encoding="utf-8")
    with pytest.raises(TokenizerError, match="WordPiece"):
        load_tokenizer(tmp_path / "t.json")


# ---- which tokenizer a model gets


@pytest.mark.parametrize(
    "n_ids, vocab_size, fits",
    [
        (50277, 50277, True),
        (50277, 50304, True),  # rounded up to 128, as in Pythia's smaller models
        (50277, 50688, True),  # the largest padding in that family
        (50277, 50816, False),
        (65530, 65536, True),  # World
        (50257, 50277, False),  # GPT-2's tokenizer is not that of RWKV-4 Pile
        (50277, 50276, False),
        (50277, 50176, False),
        (256, 50277, False),
    ],
)
def test_a_tokenizer_fits_its_own_size_or_that_size_rounded_up(n_ids, vocab_size, fits):
    assert (n_ids == vocab_size or is_padded(n_ids, vocab_size)) is fits


@pytest.mark.parametrize("vocab_size, name", [(256, "bytes"), (65536, "World")])
def test_known_sizes_need_no_file(offline, tmp_path, vocab_size, name):
    tokenizer = load_tokenizer(vocab_size=vocab_size, model_path=tmp_path / "model.bin")
    assert (tokenizer.name, tokenizer.vocab_size) == (name, vocab_size)


@pytest.mark.parametrize("name, expected", [("World", "World"), ("WORLD", "World"), ("Bytes", "bytes")])
def test_names_are_known_in_any_case(name, expected):
    assert load_tokenizer(name).name == expected


def test_a_tokenizer_json_beside_the_model_is_used(offline, tmp_path, bpe_file):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(bpe_file.read_bytes())
    tokenizer = load_tokenizer(vocab_size=400, model_path=tmp_path / "model.bin")
    assert (tokenizer.name, tokenizer.vocab_size) == (str(path), 400)


def test_the_file_named_after_the_model_comes_first(offline, tmp_path):
    save_byte_level(tmp_path / "tokenizer.json", 320, ["of the folder"])
    own = save_byte_level(tmp_path / "small.tokenizer.json", 320, ["of the model"])
    assert load_tokenizer(vocab_size=320, model_path=tmp_path / "small.bin").name == str(own)


def test_ids_of_a_padded_model_decode_to_nothing(tmp_path, bpe_file):
    tokenizer = load_tokenizer(bpe_file, 448)
    assert tokenizer.vocab_size == 448
    assert {tokenizer.token_bytes(token) for token in range(400, 448)} == {b""}
    with pytest.raises(InputError):
        tokenizer.token_bytes(448)


@pytest.mark.parametrize("vocab_size, name", [(256, "bytes"), (65536, "World")])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_neighbour_that_does_not_fit_is_passed_over(offline, tmp_path, bpe_file, vocab_size, name, is_damaged):
    (tmp_path / "tokenizer.json").write_bytes(b"{" if is_damaged else bpe_file.read_bytes())
    told = []
    model_path = tmp_path / "model.bin"
    assert load_tokenizer(vocab_size=vocab_size, model_path=model_path, notify=told.append).name == name
    # A damaged file is reported; a file of another model is not.
    assert ["tokenizer.json" in message for message in told] == [True] * is_damaged


def test_a_neighbour_of_exactly_a_known_size_is_preferred(offline, tmp_path):
    path = save_byte_level(tmp_path / "tokenizer.json", 256)
    assert load_tokenizer(vocab_size=256, model_path=tmp_path / "model.bin").name == str(path)


def test_a_padded_neighbour_of_a_known_size_is_passed_over(offline, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["rwkv_np.tokenizers"].NAME_OF_SIZE, 320, "bytes")
    save_byte_level(tmp_path / "tokenizer.json", 310)
    assert load_tokenizer(vocab_size=320, model_path=tmp_path / "model.bin").name == "bytes"


def test_an_explicit_path_wins_over_neighbour_and_size(offline, tmp_path, bpe_file):
    save_byte_level(tmp_path / "tokenizer.json", 256)
    assert load_tokenizer("bytes", 256, model_path=tmp_path / "model.bin").name == "bytes"
    assert load_tokenizer(bpe_file, model_path=tmp_path / "model.bin").name == str(bpe_file)


def test_a_folder_stands_for_the_tokenizer_in_it(tmp_path, bpe_file):
    (tmp_path / "tokenizer.json").write_bytes(bpe_file.read_bytes())
    assert load_tokenizer(tmp_path, 400).vocab_size == 400


def test_in_a_folder_with_two_the_one_that_fits_is_taken(tmp_path, bpe_file, file_20b):
    (tmp_path / "tokenizer.json").write_bytes(bpe_file.read_bytes())
    (tmp_path / "20B_tokenizer.json").write_bytes(file_20b.read_bytes())
    assert load_tokenizer(tmp_path, 50277).name == "20B"


def test_a_folder_without_one_is_a_tokenizer_error(tmp_path):
    with pytest.raises(TokenizerError, match="contains neither tokenizer.json nor 20B_tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("vocab_size", [300, 399, 401, 1024, 50277])
def test_a_size_that_does_not_fit_is_an_error_that_names_both(bpe_file, vocab_size):
    with pytest.raises(TokenizerError, match=f"has 400 ids, .* has {vocab_size}.*--tokenizer PATH"):
        load_tokenizer(bpe_file, vocab_size)


@pytest.mark.parametrize("name, vocab_size", [("20B", 65536), ("World", 50277), ("bytes", 50277), ("bytes", 101)])
def test_a_named_tokenizer_must_fit_the_model(offline, name, vocab_size):
    with pytest.raises(TokenizerError, match=f"{name}.* ids, .* has {vocab_size}"):
        load_tokenizer(name, vocab_size)


def test_a_neighbour_that_does_not_fit_is_an_error_where_no_other_is_known(tmp_path, bpe_file):
    (tmp_path / "tokenizer.json").write_bytes(bpe_file.read_bytes())
    with pytest.raises(TokenizerError, match="has 400 ids, .* has 101"):
        load_tokenizer(vocab_size=101, model_path=tmp_path / "model.bin")


def test_an_unknown_size_tells_the_known_ones_and_how_to_give_a_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match="model.bin: .* 101 ids .*256.*50277.*65536.*--tokenizer PATH"):
        load_tokenizer(vocab_size=101, model_path=tmp_path / "model.bin")


def test_nothing_given_is_an_input_error():
    with pytest.raises(InputError):
        load_tokenizer()


# ---- the 20B tokenizer's file


@pytest.mark.parametrize("file_name", ["20B_tokenizer.json", "tokenizer.json"])
@pytest.mark.parametrize("given_name", [None, "20B"])
def test_a_20b_file_beside_the_model_needs_no_hub(offline, tmp_path, file_20b, file_name, given_name):
    (tmp_path / file_name).write_bytes(file_20b.read_bytes())
    assert load_tokenizer(given_name, 50277, model_path=tmp_path / "model.bin").name == "20B"


class FakeHub:
    """A fake hf_hub_download: a cache that may contain `path`, and a network that may deliver it."""

    def __init__(self, path, is_cached, failure=None):
        self.path, self.is_cached, self.failure = path, is_cached, failure
        self.n_downloads = 0

    def __call__(self, repository, file_name, local_files_only=False):
        assert (repository, file_name) == ("EleutherAI/gpt-neox-20b", "tokenizer.json")
        if self.is_cached:
            return str(self.path)
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        if self.failure is not None:
            raise self.failure
        self.n_downloads += 1
        self.is_cached = True
        return str(self.path)


def test_the_cached_20b_file_is_used_silently(monkeypatch, file_20b):
    hub = FakeHub(file_20b, is_cached=True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    told = []
    assert load_tokenizer(vocab_size=50277, notify=told.append).name == "20B"
    assert (told, hub.n_downloads) == ([], 0)


def test_the_pile_models_of_rwkv_7_have_the_20b_tokenizer_unless_another_lies_beside_them(
    monkeypatch, tmp_path, file_20b
):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(file_20b, is_cached=True))
    tokenizer = load_tokenizer(vocab_size=50304, model_path=tmp_path / "model.bin")
    assert (tokenizer.name, tokenizer.vocab_size) == ("20B", 50304)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=re.escape(str(tmp_path / "tokenizer.json"))):
        load_tokenizer(vocab_size=50304, model_path=tmp_path / "model.bin")


def test_the_20b_file_is_downloaded_once_and_said_so(monkeypatch, file_20b):
    hub = FakeHub(file_20b, is_cached=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    told = []
    for given_name in (None, "20b"):
        assert load_tokenizer(given_name, 50277, notify=told.append).name == "20B"
    assert (told, hub.n_downloads) == (["Downloading the 20B tokenizer (2 MB, once) ..."], 1)


@pytest.mark.parametrize(
    "failure", [OSError("no route to host\nsecond line"), RuntimeError("closed client"), ValueError()]
)
def test_a_failed_download_says_how_to_fix_it(monkeypatch, failure):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub("", is_cached=False, failure=failure))
    with pytest.raises(TokenizerError, match="--tokenizer PATH .* 20B_tokenizer.json") as caught:
        load_tokenizer(vocab_size=50277)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is failure


def test_a_downloaded_file_of_another_size_is_a_tokenizer_error(monkeypatch, bpe_file):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(bpe_file, is_cached=True))
    with pytest.raises(TokenizerError, match="has 400 ids, .* has 50277"):
        load_tokenizer(vocab_size=50277)


# ---- start-up


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_imports_no_tokenizer():
    assert not {"tokenizers", "huggingface_hub", "numba"} & imported_by("import rwkv_np.tokenizers")


def test_a_local_file_does_not_import_the_hub(bpe_file):
    modules = imported_by(f"import rwkv_np.tokenizers as t; t.load_tokenizer({str(bpe_file)!r}).encode('a')")
    assert "tokenizers" in modules
    assert "huggingface_hub" not in modules
