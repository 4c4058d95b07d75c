"""The text of an answer as it arrives, names of tokens, and sampling parameters."""

import pytest

pytest.importorskip("msgspec")

from rwkv_np.sampling import SamplingParams  # noqa: E402
from rwkv_np.serve.answer_text import AnswerText, Pieces  # noqa: E402
from rwkv_np.serve.bodies import ChatRequest, CompletionRequest, Message  # noqa: E402
from rwkv_np.serve.request import Logprob  # noqa: E402
from rwkv_np.serve.settings import sampling, stops  # noqa: E402
from rwkv_np.serve.token_names import TokenNames  # noqa: E402
from rwkv_np.stop_strings import StopStrings  # noqa: E402


def answer(pieces, *stops, **options):
    """The text released for each of these tokens, and at the end."""
    text = AnswerText(Pieces(pieces.__getitem__, StopStrings(stops)), **options)
    given = []
    for token in range(len(pieces)):
        given.append(text.push(token, Logprob(token, -1.0, ())))
        if text.stopped:
            break
    return given + [text.finish()], text


def test_characters_are_whole():
    letters = "中é🙂".encode()
    given, _ = answer([letters[i : i + 1] for i in range(len(letters))])
    assert "".join(given) == "中é🙂" and given[:3] == ["", "", "中"]


def test_a_broken_character_is_visible_wherever_it_ends():
    assert "".join(answer([b"\xe4", b"a"])[0]) == "\ufffda"
    assert "".join(answer([b"\xe4\xb8"])[0]) == "\ufffd"
    assert "".join(answer([b"\xe4", b"\xb8", b"plain", b"\xad"])[0]) == b"\xe4\xb8plain\xad".decode("utf-8", "replace")


def test_a_possible_stop_string_is_held_back():
    given, text = answer([b"a\n", b"\n", b"b"], "\n\n")
    assert given == ["a", "", ""] and text.stopped and text.n_tokens == 2
    given, text = answer([b"a\n", b"b"], "\n\n")
    assert given == ["a", "\nb", ""] and not text.stopped
    assert answer([b"a\n"], "\n\n")[0] == ["a", "\n"]
    given, text = answer([b"ab", b"cXd"], "X", "bc")
    assert given == ["a", "", ""] and text.stopped


def test_log_probabilities_come_with_their_text_but_not_for_a_stop_string():
    given, text = answer([b"a", b"b\n", b"\n"], "\n\n", is_priced=True)
    assert [each.logprob.token for each in text.take_priced()] == [0, 1]
    _, text = answer([b"a", b"\n", b"\n"], "\n\n", is_priced=True)
    assert [each.logprob.token for each in text.take_priced()] == [0]
    _, text = answer([b"a", b"\n"], "\n\n", is_priced=True)
    assert [each.logprob.token for each in text.take_priced()] == [0, 1]


def test_offsets_count_characters():
    _, text = answer(["é".encode(), b"\xe4", b"\xb8\xad", b"a"], is_priced=True, n_before=10)
    assert [each.offset for each in text.take_priced()] == [10, 11, 12, 12]


def test_names_of_tokens_do_not_collide():
    pieces = [b"", b"\xe4", b"\xe5", b"a", b"a", b""]
    names = TokenNames(pieces.__getitem__)
    assert [names.key(i) for i in range(6)] == ["<|endoftext|>", "bytes:\\xe4", "bytes:\\xe5", "a", "a", "token_id:5"]
    _, text = answer([b"a"], is_priced=True)
    [priced] = text.take_priced()
    top = ((1, -0.1), (2, -0.2), (3, -0.3), (4, -0.4))
    found = names.text([priced._replace(logprob=Logprob(5, float("-inf"), top))], 4).top_logprobs
    expected = {"bytes:\\xe4": -0.1, "bytes:\\xe5": -0.2, "a": -0.3, "token_id:4": -0.4, "token_id:5": -9999.0}
    assert found == [expected]
    chat = names.chat([priced._replace(logprob=Logprob(1, -0.5, ((1, -0.5), (0, -1.0))))])[0]
    assert (chat.token, chat.bytes) == ("\ufffd", [0xE4]) and chat.top_logprobs[1].bytes is None


def test_missing_fields_are_neutral():
    neutral = SamplingParams(
        temperature=1,
        top_p=1,
        top_k=0,
        min_p=0,
        presence_penalty=0,
        frequency_penalty=0,
        penalty_decay=1,
        stop_ids=(0,),
    )
    assert sampling(ChatRequest(messages=[Message(role="user", content="a")]), 10) == neutral
    assert sampling(CompletionRequest(prompt="a"), 10) == neutral


def test_given_fields_reach_the_sampler():
    given = {"temperature": 0, "top_p": 0.25, "top_k": 3, "min_p": 0.5, "penalty_decay": 0.75, "logit_bias": {4: -1.5}}
    given |= {"presence_penalty": 0.5, "frequency_penalty": 2.0}
    body = CompletionRequest(prompt="a", seed=-1, ignore_eos=True, stop=["x", "", "y"], **given)
    assert sampling(body, 10) == SamplingParams(seed=2**64 - 1, stop_ids=(), **given)
    assert stops(body) == ("x", "y") and stops(CompletionRequest(prompt="a", stop="z")) == ("z",)
