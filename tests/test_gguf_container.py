"""The container: what a GGUF file may say, and what is refused, by name and before memory is allocated for it."""

import struct

import numpy as np
import pytest

from rwkv_np.errors import FormatError
from rwkv_np.files.gguf import GgufFile

WORDS = {"u32": 4, "f32": 6, "bool": 7, "string": 8, "array": 9, "u64": 10}


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value


def pair(key, code, value):
    return text(key) + struct.pack("<I", code) + value


def tensor(name, dims=(2,), code=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)


def gguf(path, pairs=(), tensors=(), data=b"", version=3, n_pairs=None, n_tensors=None, alignment=32):
    """A file of these parts; the counts may lie."""
    n_pairs = len(pairs) if n_pairs is None else n_pairs
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def problem(path):
    with pytest.raises(FormatError) as caught:
        _ = GgufFile(path).tensors
    return caught.value.problem


def test_values_of_every_type_are_read(tmp_path):
    numbers = [(0, "<B", 7), (1, "<b", -7), (2, "<H", 300), (3, "<h", -300), (4, "<I", 2**31), (5, "<i", -5),
               (6, "<f", 0.5), (10, "<Q", 2**63), (11, "<q", -(2**62)), (12, "<d", 0.1)]  # fmt: skip
    pairs = [pair(f"n{code}", code, struct.pack(form, value)) for code, form, value in numbers]
    pairs += [pair("yes", 7, b"\1"), pair("also", 7, b"\2"), pair("text", 8, text("名"))]
    pairs += [pair("words", 9, struct.pack("<IQ", 8, 3) + text("a") + text("") + text(b"\xff"))]
    pairs += [pair("ids", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)), pair("none", 9, struct.pack("<IQ", 8, 0))]
    found = GgufFile(gguf(tmp_path / "x.gguf", pairs)).metadata
    assert [found[f"n{code}"] for code, _, _ in numbers] == [value for _, _, value in numbers]
    assert found["yes"] is True and found["also"] is True and found["text"] == "名"
    assert list(found["words"].strings()) == [b"a", b"", b"\xff"] and len(found["words"]) == 3
    assert found["ids"].numbers().tolist() == [1, -2, 3] and list(found["none"].strings()) == []


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_tensors_are_found_at_the_files_alignment(tmp_path, version, alignment):
    pairs = [pair("general.alignment", 4, struct.pack("<I", alignment))]
    second = bytes(alignment - 8) + struct.pack("<e", 3.0)
    infos = [tensor("b", (1,), 1, alignment), tensor("a", (2, 1))]
    path = gguf(tmp_path / "x.gguf", pairs, infos, struct.pack("<2f", 1, 2) + second, version, alignment=alignment)
    found = GgufFile(path).tensors
    assert list(found) == ["b", "a"] and found["a"].shape == (1, 2) and found["b"].data_type.name == "FP16"
    assert found["a"].data.view(np.float32).tolist() == [1, 2] and found["b"].data.view(np.float16).tolist() == [3]


REFUSED = {
    "version 1": ({"version": 1}, "is a GGUF file of version 1; supported versions: 2 and 3"),
    "version 4": ({"version": 4}, "is a GGUF file of version 4"),
    "big-endian": ({"version": 3 << 24}, "is a big-endian GGUF file"),
    "many tensors": ({"n_tensors": 2**60}, "promises 1,152,921,504,606,846,976 tensors; expected at most 10,000"),
    "many pairs": ({"n_pairs": 2**33}, "promises 8,589,934,592 pairs of metadata"),
    "one pair too many": ({"pairs": [pair("a", 7, b"\1")], "n_pairs": 2}, "has 0 bytes; expected 1 to 512"),
    "no more pairs": ({"n_pairs": 1}, "has 0 bytes"),
    "a key twice": ({"pairs": [pair("a", 7, b"\1"), pair("a", 7, b"\1")]}, "contains the key a twice"),
    "a key that is not UTF-8": ({"pairs": [pair(b"\xff", 7, b"\1")]}, "is not UTF-8: b'\\xff'"),
    "a key that cannot be shown": ({"pairs": [pair("a\nb", 7, b"\1")]}, "is 'a\\nb'"),
    "a string that is not UTF-8": ({"pairs": [pair("a", 8, text(b"\xff"))]}, "a is not UTF-8"),
    "an endless string": ({"pairs": [pair("a", 8, struct.pack("<Q", 2**63))]}, "it needs 9223372036854775808 bytes"),
    "an unknown type": ({"pairs": [pair("a", 13, b"")]}, "a has the unknown type 13"),
    "arrays of arrays": ({"pairs": [pair("a", 9, struct.pack("<IQ", 9, 1))]}, "a is an array of arrays"),
    "an unknown item": ({"pairs": [pair("a", 9, struct.pack("<IQ", 99, 1))]}, "a is an array of the unknown type 99"),
    "endless numbers": ({"pairs": [pair("a", 9, struct.pack("<IQ", 12, 2**61))]}, "ends in the middle of a"),
    "endless strings": ({"pairs": [pair("a", 9, struct.pack("<IQ", 8, 2**61))]}, "ends in the middle of a"),
    "a long string in an array": (
        {"pairs": [pair("a", 9, struct.pack("<IQQ", 8, 1, 2**62))]}, "ends in the middle of a"
    ),
    "one of several files": (
        {"pairs": [pair("split.count", 2, struct.pack("<H", 3))]}, "is one of 3 parts of a split file"
    ),
    "an odd alignment": (
        {"pairs": [pair("general.alignment", 4, struct.pack("<I", 24))]}, "general.alignment is 24; expected a power"
    ),
    "alignment of zero": ({"pairs": [pair("general.alignment", 4, bytes(4))]}, "general.alignment is 0"),
    "alignment yes": ({"pairs": [pair("general.alignment", 7, b"\1")]}, "general.alignment is True"),
    "no dimensions": ({"tensors": [tensor("t", ())]}, "t has 0 dimensions; expected 1 to 4"),
    "five dimensions": ({"tensors": [tensor("t", (1,) * 5)]}, "t has 5 dimensions"),
    "an empty one": ({"tensors": [tensor("t", (0,))]}, "t has the shape (0,); expected positive sizes"),
    "an overflow": ({"tensors": [tensor("t", (2**32, 2**32))]}, "ends in the middle of t"),
    "part of a block": ({"tensors": [tensor("t", (48,), 12)]}, "rows of whole blocks of 256 for Q4_K"),
    "a type by its name": ({"tensors": [tensor("t", (256,), 16)]}, "t is IQ2_XXS; supported types: FP32, FP16, Q4_0"),
    "a type of 2024": ({"tensors": [tensor("t", (256,), 31)]}, "t is Q4_0_4_4; supported types"),
    "a type of the future": ({"tensors": [tensor("t", (256,), 99)]}, "t is an unknown type (code 99)"),
    "a name twice": ({"tensors": [tensor("t"), tensor("t", offset=32)], "data": bytes(64)}, "the tensor t twice"),
    "an overlap": ({"tensors": [tensor("t", (9,)), tensor("u", offset=32)], "data": bytes(64)}, "u overlaps t"),
    "not aligned": ({"tensors": [tensor("t", offset=4)], "data": bytes(64)}, "t begins at 4, not a multiple of 32"),
    "missing data": ({"tensors": [tensor("t", (9,))], "data": bytes(35)}, "ends in the middle of t: the file has"),
    "a far offset": ({"tensors": [tensor("t", offset=2**63)]}, "ends in the middle of t"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    parts, expected = REFUSED[name]
    assert expected in problem(gguf(tmp_path / "x.gguf", **parts))


def test_a_file_cut_anywhere_is_refused_as_damaged(tmp_path):
    pairs = [pair("a", 8, text("one")), pair("b", 9, struct.pack("<IQ", 8, 2) + text("x") + text("yz"))]
    path = gguf(tmp_path / "x.gguf", pairs, [tensor("t", (2, 2))], bytes(16))
    data = path.read_bytes()
    assert list(GgufFile(path).tensors) == ["t"]
    for n_bytes in range(4, len(data)):
        path.write_bytes(data[:n_bytes])
        assert "ends in the middle of" in problem(path)


def test_a_vocabulary_is_skipped_without_reading_it(tmp_path):
    n = 65536
    words = b"".join(text(str(i)) for i in range(n))
    path = gguf(tmp_path / "x.gguf", [pair("words", 9, struct.pack("<IQ", 8, n) + words)])
    found = GgufFile(path).metadata["words"]
    assert len(found) == n and found.stored.size == len(words), "it is still in the file"
    assert [*found.strings()][-1] == b"65535"
