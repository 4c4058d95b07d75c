"""Longest match: the kernel and the NumPy version against a dictionary, on small vocabularies with every case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rwkv_np.kernels import trie as tries
from rwkv_np.kernels.longest_match import match
from rwkv_np.kernels.trie import build, cut, cut_reference

BYTES = [bytes([value]) for value in range(256)]


def build_from(pieces):
    return build(np.frombuffer(b"".join(pieces), np.uint8), np.array([len(piece) for piece in pieces]))


def numbered(pieces):
    return {piece: number for number, piece in enumerate(pieces) if piece}


def match_bytes(text, trie):
    """The kernel's result for the text, which must equal NumPy's."""
    found = match(np.frombuffer(text, np.uint8), trie).tolist()
    assert cut(np.frombuffer(text, np.uint8), trie).tolist() == found
    return found


few_bytes = st.lists(st.sampled_from(b"ab\x00\xff"), max_size=12).map(bytes)


more_entries = st.sets(few_bytes.filter(lambda piece: len(piece) > 1), max_size=12)


@given(more=more_entries, text=st.lists(few_bytes).map(b"".join))
def test_both_match_as_the_reference(more, text):
    pieces = [b"", *BYTES, *sorted(more)]
    assert match_bytes(text, build_from(pieces)) == cut_reference(text, numbered(pieces))


@given(data=st.data())
def test_a_node_may_have_any_number_of_children(data):
    lasts = sorted(data.draw(st.sets(st.integers(0, 255), min_size=1)))
    pieces = [b"", *BYTES, *(b"xy" + bytes([last]) for last in lasts)]
    trie = build_from(pieces)
    for last in (0, 255, *lasts, *(last ^ 1 for last in lasts)):
        assert match_bytes(b"xy" + bytes([last]), trie) == cut_reference(b"xy" + bytes([last]), numbered(pieces))


def test_a_prefix_that_leads_nowhere_goes_back_to_the_longest_entry_on_its_way():
    trie = build_from([b"", *BYTES, b"ab", b"abcdef"])
    assert match_bytes(b"abcdeabcdefab", trie) == [257, 1 + ord("c"), 1 + ord("d"), 1 + ord("e"), 258, 257]


@pytest.mark.parametrize("chunk", range(1, 9))
def test_an_entry_may_begin_in_one_chunk_and_end_in_another(monkeypatch, chunk):
    monkeypatch.setattr(tries, "CHUNK", chunk)
    assert match_bytes(b"xabcdeabcdefab", build_from([b"", *BYTES, b"ab", b"abcdef"]))[-2:] == [258, 257]


def test_numbers_follow_the_order_given_and_empty_entries_have_none():
    trie = build_from([b"", b"zz", b"", *reversed(BYTES), b"aa"])
    assert match_bytes(b"zza\xffaa", trie) == [1, 3 + 255 - ord("a"), 3, 259]


def test_an_empty_text_has_no_entries():
    assert match_bytes(b"", build_from([b"", *BYTES])) == []


@pytest.mark.parametrize(
    "pieces, problem",
    [
        ([b"", *BYTES[1:]], "256 bytes"),
        ([b"", *BYTES[1:], b"\x00\x01"], "256 bytes"),
        ([b"", *BYTES, b"ab", b"ab"], "occurs twice"),
        ([*BYTES], "the first of them 0"),
        ([b""] * (2**16 - 255) + BYTES, "at most 65536"),
    ],
)
def test_a_vocabulary_that_cannot_cut_every_text_is_refused(pieces, problem):
    with pytest.raises(ValueError, match=problem):
        build_from(pieces)
