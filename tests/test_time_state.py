"""Initial states: state-tuned checkpoints, and files of State.save."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from conftest import random_parameters, shared_file, write_model
from scripted import GREEDY, say
from test_saved import MODEL

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.opening_cache import OpeningCache
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.time_state import load_start_state, load_time_state
from rwkv_np.errors import ConversationFileError, StateFileError
from rwkv_np.models import load
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import load_tokenizer

DATA = Path(__file__).parent / "data"
V7_STATE = DATA / "golden-v7-state" / "state.pth"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """The golden model of RWKV-7: n_embd 128 in 2 heads, 3 layers, 101 tokens."""
    return converted(DATA / "golden-v7" / "model.pth.xz", tmp_path_factory.mktemp("v7"))


def converted(packed, folder):
    (folder / "model.pth").write_bytes(lzma.decompress(packed.read_bytes()))
    convert(folder / "model.pth", folder / "model.bin", "FP32")
    return folder / "model.bin"


@pytest.fixture(scope="module")
def model(model_path):
    return load(model_path)


def test_rwkv_7_begins_in_a_tuned_state_as_its_training_reads_it(model):
    expected = np.load(V7_STATE.parent / "logits.npz")
    state = load_time_state(V7_STATE, model.config)
    logits, _ = model.forward(expected["tokens"], state, full_output=True)
    np.testing.assert_allclose(logits, expected["official"], rtol=0, atol=3e-5)
    without, _ = model.forward(expected["tokens"], full_output=True)
    assert np.abs(without - expected["official"]).max() > 1e-2


def test_rwkv_6_begins_in_a_tuned_state_as_in_the_official_package(tmp_path):
    model = load(converted(shared_file("versions/golden/v6/model.pth.xz"), tmp_path))
    expected = np.load(shared_file("versions/extra/state-v6/logits.npz"))
    state = load_time_state(shared_file("versions/extra/state-v6/state.pth"), model.config)
    logits, _ = model.forward(expected["tokens"], state, full_output=True)
    np.testing.assert_allclose(logits, expected["official"], rtol=0, atol=3e-5)


def test_our_own_states_are_read_too(model, tmp_path):
    _, state = model.forward([1, 2, 3])
    state.save(tmp_path / "own")
    np.testing.assert_array_equal(load_start_state(tmp_path / "own", model.config).data, state.data)
    np.testing.assert_array_equal(
        load_start_state(V7_STATE, model.config).data, load_time_state(V7_STATE, model.config).data
    )


def small(tmp_path, architecture="v7"):
    sizes = {"head_size": 16, "ranks": (8, 8, 8, 8)} if architecture == "v7" else {}
    arrays = random_parameters(np.random.default_rng(0), architecture=architecture, **sizes)
    return load(write_model(tmp_path / f"{architecture}.bin", arrays))


def test_what_is_no_state_of_the_model_is_refused_in_a_line(model, tmp_path):
    import torch

    def file(name, **tensors):
        torch.save(tensors, tmp_path / name)
        return tmp_path / name

    names = [f"blocks.{i}.att.time_state" for i in range(4)]
    fine = dict.fromkeys(names[:3], torch.zeros(2, 64, 64))
    (tmp_path / "text").write_text("hello")
    _, own = small(tmp_path).forward([1])
    own.save(tmp_path / "other")
    for path, message in (
        (file("a", **fine | {names[1]: torch.zeros(4, 32, 32)}), r"1.att.time_state has the shape \(4, 32, 32\)"),
        (file("b", **fine | {names[3]: torch.zeros(2, 64, 64)}), "has states of 4 layers; this model .* has 3"),
        (file("c", **fine | {"emb.weight": torch.zeros(1)}), "contains emb.weight, which is not part of a state"),
        (tmp_path / "text", "is not a state; expected a state-tuned checkpoint"),
        (tmp_path / "other", "the state belongs to another model"),
    ):
        with pytest.raises(StateFileError, match=message) as raised:
            load_start_state(path, model.config)
        assert "\n" not in str(raised.value)
    with pytest.raises(StateFileError, match="RWKV-4 has no matrix-valued state to tune"):
        load_time_state(V7_STATE, small(tmp_path, "v4").config)


# --- the chat


def begun(model, start, opening="", cache=None):
    params = SamplingParams(**GREEDY, max_tokens=12)
    return Conversation(model, load_tokenizer("bytes"), TEMPLATES["world"], params, opening, cache, start=start)


@pytest.fixture
def talker(tmp_path):
    return small(tmp_path)


@pytest.fixture
def start(talker):
    _, state = talker.forward([7, 8, 9])
    return state


@pytest.mark.parametrize("opening", ["", "Once."])
def test_a_conversation_begins_in_the_state_and_goes_back_to_it(talker, start, opening):
    chat = begun(talker, start, opening)
    before = start.data.copy()
    first = say(chat)
    text = f"{opening}\n\nUser: x\n\nAssistant:" if opening else "User: x\n\nAssistant:"
    _, expected = talker.forward(list(text.encode()), start)
    np.testing.assert_array_equal(chat.turns[-1].after_prompt.state.data, expected.data)
    chat.reset()
    assert say(chat) == first
    chat.turns[-1].forget(also_end=True)
    again = chat.state().data
    chat.undo()
    assert say(chat) == first
    np.testing.assert_allclose(chat.state().data, again, atol=1e-6)
    np.testing.assert_array_equal(start.data, before)


def test_a_saved_conversation_belongs_to_the_state_it_began_in(talker, start, tmp_path):
    chat = begun(talker, start)
    say(chat)
    identity = MODEL | {"state": "s"}
    save_conversation(chat, tmp_path / "a", identity)
    loaded = load_conversation(tmp_path / "a", begun(talker, start), identity)
    assert say(loaded, "y") == say(chat, "y")
    for each in (loaded, chat):
        each.undo(2)
    assert say(loaded) == say(chat)
    for other in (MODEL, MODEL | {"state": "t"}):
        with pytest.raises(ConversationFileError, match="started from another state"):
            load_conversation(tmp_path / "a", chat, other)
    save_conversation(chat, tmp_path / "b", MODEL)
    with pytest.raises(ConversationFileError, match="started without a state"):
        load_conversation(tmp_path / "b", chat, identity)


def test_the_chat_takes_a_state_by_option(run_cli, talker, tmp_path, monkeypatch):
    """The cached state of an opening without this initial state is not used with it."""
    monkeypatch.setenv("RWKV_NP_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    _, state = talker.forward(list(b"zzzz"))
    state.wkv[:] *= 50
    state.save(tmp_path / "own")
    kept = []
    monkeypatch.setattr(OpeningCache, "get", lambda self, tokens: kept.append(self._name(tokens)))

    def prompted(*options):
        result = run_cli("chat", tmp_path / "v7.bin", "-p", "x", "--json", "--seed", 1, "--max-tokens", 9, *options)
        return json.loads(result.stdout)["tokens"]

    plain, tuned = prompted("--system", "a"), prompted("--system", "a", "--state", tmp_path / "own")
    assert plain != tuned and kept[0] != kept[1]
    refused = run_cli("chat", tmp_path / "v7.bin", "-p", "x", "--state", V7_STATE, code=1)
    assert refused.stdout == "" and "has states of 3 layers; this model (2 layers, n_embd 32) has 2" in refused.stderr
