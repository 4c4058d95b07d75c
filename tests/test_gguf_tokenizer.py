"""The vocabulary inside a GGUF file: World's is recognized, another is used as it is, damaged ones are refused."""

import pickle
import shutil
import struct

import numpy as np
import pytest
from test_gguf_container import gguf, pair, text

import rwkv_np
from rwkv_np import demo
from rwkv_np.errors import TokenizerError
from rwkv_np.files.gguf import GgufFile
from rwkv_np.tokenizers.gguf import GgufTokenizer, escape, tokenizer_of, unescape, world_tokens
from rwkv_np.tokenizers.world import VOCABULARY, WorldTokenizer, load_vocabulary

BYTES = [b"<s>", *(escape(bytes([value])) for value in range(256))]


def with_tokens(path, tokens, types=None, model="rwkv"):
    types = [3, *[1] * (len(tokens) - 1)] if types is None else types
    pairs = [pair("tokenizer.ggml.model", 8, text(model))]
    pairs += [pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, len(tokens)) + b"".join(map(text, tokens)))]
    numbers = struct.pack("<IQ", 5, len(types)) + np.array(types, np.int32).tobytes()
    return gguf(path, [*pairs, pair("tokenizer.ggml.token_type", 9, numbers)])


@pytest.fixture(scope="module")
def world():
    return world_tokens(load_vocabulary(VOCABULARY))


def test_every_byte_string_comes_back():
    for data in (b"", b"\n\t\r", b"'", b'"', b"'\"", b"\\", b"\\x41", b"\\n", "名".encode(), bytes(range(256))):
        assert unescape(escape(data)) == data
    assert unescape(rb"\q\xff\X\\") == b"q\xffX\\"


def test_the_world_vocabulary_is_recognized_by_its_checksum(tmp_path, world, monkeypatch):
    monkeypatch.setattr("rwkv_np.tokenizers.gguf._vocabulary", None)  # it would be read to compare it
    path = with_tokens(tmp_path / "x.gguf", *world)
    assert type(rwkv_np.load_tokenizer(vocab_size=65536, model_path=path)) is WorldTokenizer


def test_the_world_vocabulary_is_recognized_if_it_is_written_in_another_way(tmp_path, world):
    tokens, types = world
    tokens = [*tokens[:1], *(b"".join(b"\\x%02x" % value for value in unescape(token)) for token in tokens[1:65530])]
    path = with_tokens(tmp_path / "x.gguf", [*tokens, *world[0][65530:]], types)
    assert type(rwkv_np.load_tokenizer(vocab_size=65536, model_path=path)) is WorldTokenizer


def test_a_changed_world_vocabulary_is_used_as_it_is(tmp_path, world):
    tokens, types = list(world[0]), world[1].copy()
    tokens[65530], types[65530] = escape(b" walrus walrus"), 1
    found = rwkv_np.load_tokenizer(vocab_size=65536, model_path=with_tokens(tmp_path / "x.gguf", tokens, types))
    assert found.encode("the walrus walrus") == [*WorldTokenizer().encode("the"), 65530]
    assert found.decode(found.encode("今日は")) == "今日は" and found.token_bytes(65531) == b""


def test_a_vocabulary_of_its_own(tmp_path):
    path = with_tokens(tmp_path / "x.gguf", [*BYTES, b"th", b"the", b"[PAD]"], [3, *[1] * 258, 5])
    found = rwkv_np.load_tokenizer(vocab_size=260, model_path=path)
    assert found.encode("then") == [258, ord("n") + 1] and found.decode([258, 0, 259]) == "the"
    assert found.name == str(path) and pickle.loads(pickle.dumps(found)).encode("the") == [258]


def test_the_callers_choice_has_priority(tmp_path):
    path = with_tokens(tmp_path / "x.gguf", BYTES[:257])
    assert rwkv_np.load_tokenizer("bytes", vocab_size=256, model_path=path).name == "bytes"


@pytest.mark.parametrize("vocab_size", [256, 300, 50277, 65536])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_another_kind_of_tokenizer_is_refused_by_name(tmp_path, kind, vocab_size):
    """The size alone would give World's vocabulary to a model with another one of 65,536 tokens."""
    path = with_tokens(tmp_path / "x.gguf", BYTES, model=kind)
    assert tokenizer_of(GgufFile(path)) is None
    with pytest.raises(TokenizerError) as caught:
        rwkv_np.load_tokenizer(vocab_size=vocab_size, model_path=path)
    assert f"its tokenizer is '{kind}'; only 'rwkv' is read" in caught.value.problem
    assert "--tokenizer PATH" in caught.value.problem and caught.value.path == str(path)


def test_a_file_next_to_the_model_serves_instead_of_another_kind(tmp_path):
    path = with_tokens(tmp_path / "x.gguf", BYTES, model="gpt2")
    shutil.copy(demo.TOKENIZER, tmp_path / "tokenizer.json")
    assert rwkv_np.load_tokenizer(vocab_size=4096, model_path=path).name == str(tmp_path / "tokenizer.json")
    assert rwkv_np.load_tokenizer("world", vocab_size=65536, model_path=path).name == "World"


def test_a_file_without_a_tokenizer_gets_the_one_of_its_size(tmp_path):
    path = with_tokens(tmp_path / "x.gguf", BYTES, model="none")
    assert rwkv_np.load_tokenizer(vocab_size=256, model_path=path).name == "bytes"


@pytest.mark.parametrize(
    "tokens, types, expected",
    [
        (BYTES[:-1], None, "each of the 256 bytes must be an entry"),
        ([*BYTES, b"a"], None, "an entry occurs twice"),
        (BYTES, [1] * 4, "has 257 tokens and 4 types"),
        ([*BYTES, b"x" * 513], None, "tokens of more than 512 bytes"),
        ([*BYTES, *(b"%06d" % i + b"x" * 506 for i in range(2100))], None, "more than 1,048,576 bytes"),
        ([b"a"], None, "each of the 256 bytes must be an entry"),
        ([], [], "cannot be used"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path, tokens, types, expected):
    path = with_tokens(tmp_path / "x.gguf", tokens, types)
    with pytest.raises(TokenizerError) as caught:
        tokenizer_of(GgufFile(path))
    assert expected in caught.value.problem and "--tokenizer PATH" in caught.value.problem


def test_one_that_does_not_fit_the_model_is_refused(tmp_path):
    path = with_tokens(tmp_path / "x.gguf", BYTES)
    with pytest.raises(TokenizerError, match="has 257 ids, but the model's vocabulary has 300"):
        rwkv_np.load_tokenizer(vocab_size=300, model_path=path)
    assert isinstance(tokenizer_of(GgufFile(path)), GgufTokenizer)
