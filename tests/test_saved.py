"""Saved conversations: the same next tokens, or a clear error; nothing is ever half done."""

import errno
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from conftest import random_parameters, write_model

from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.opening_cache import SOURCES, OpeningCache, cache_key
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.errors import ConversationFileError, InputError, OutputError
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.models import load
from rwkv_np.sampling import SETTINGS, SamplingParams
from rwkv_np.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("m") / "m.bin", random_parameters(np.random.default_rng(0))))


MODEL = {"name": "m.bin", "fingerprint": "f" * 32}


@pytest.fixture
def chat(model):
    return fresh(model)


def fresh(model, template="raven", opening="An opening.", **settings):
    params = SamplingParams(**({"top_p": 1.0, "seed": 7, "max_tokens": 8} | settings))
    return Conversation(model, load_tokenizer("bytes"), TEMPLATES[template], params, opening)


def say(chat, message):
    answer = chat.ask(message)
    list(answer)
    return answer.tokens


def test_a_loaded_conversation_goes_on_with_the_very_same_tokens(chat, model, tmp_path):
    for message in ("one", "二", "three"):
        say(chat, message)
    chat.fork("side")
    say(chat, "four")
    chat.fork("anew")
    chat.reset("Another opening.")
    chat.switch("main")
    save_conversation(chat, tmp_path / "a", MODEL)
    loaded = load_conversation(tmp_path / "a", fresh(model, "world", seed=None, temperature=0.1), MODEL)
    assert [turn.message for turn in loaded.turns] == ["one", "二", "three"]
    assert [turn.text for turn in loaded.turns] == [turn.text for turn in chat.turns]
    assert loaded.params == chat.params and loaded.template == chat.template and loaded.opening == chat.opening
    for act in (lambda c: list(c.continue_answer()), lambda c: list(c.answer_again()), lambda c: say(c, "next"),
                lambda c: c.undo(3) and say(c, "other"), lambda c: c.switch("side") or say(c, "five"),
                lambda c: c.switch("anew") or say(c, "six"),
                lambda c: c.reset() or say(c, "anew")):  # fmt: skip
        assert act(loaded) == act(chat)
        np.testing.assert_array_equal(loaded.state().wkv, chat.state().wkv)


def test_what_was_loaded_is_not_read_again(chat, model, tmp_path, monkeypatch):
    say(chat, "one")
    save_conversation(chat, tmp_path / "a", MODEL)
    loaded = load_conversation(tmp_path / "a", fresh(model), MODEL)
    monkeypatch.setattr("rwkv_np.chat.conversation.prefill", None)
    assert say(loaded, "two") == say(chat, "two")


def test_a_state_after_an_opening_is_found_by_its_own_model_alone(model, tmp_path):
    _, state = model.forward([1, 2, 3])
    OpeningCache(tmp_path, "one model", model.config).put([1, 2, 3], state)
    found = OpeningCache(tmp_path, "one model", model.config).get([1, 2, 3])
    np.testing.assert_array_equal(found.wkv, state.wkv)
    assert OpeningCache(tmp_path, "another", model.config).get([1, 2, 3]) is None
    assert OpeningCache(tmp_path, "one model", model.config).get([1, 2]) is None
    assert OpeningCache(None, "one model", model.config).get([1, 2, 3]) is None


def test_openings_that_were_not_used_for_longest_make_room(model, tmp_path, monkeypatch):
    _, state = model.forward([1])
    state.save(tmp_path / "one")
    size = (tmp_path / "one").stat().st_size
    (tmp_path / "one").unlink()
    monkeypatch.setattr("rwkv_np.chat.opening_cache.BUDGET", 2 * size)
    cache = OpeningCache(tmp_path, "k", model.config)
    for n in range(4):
        cache.put([n], model.forward([n])[1])
        for i, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (n * 10 + i, n * 10 + i))
        if n == 2:
            assert cache.get([1]) is not None  # used: now 2 is the next to be dropped
    assert [n for n in range(4) if cache.get([n])] == [1, 3]


def test_an_opening_larger_than_all_that_is_kept_is_not_and_throws_out_none(model, tmp_path, monkeypatch):
    cache = OpeningCache(tmp_path, "k", model.config)
    _, state = model.forward([1])
    cache.put([1], state)
    monkeypatch.setattr("rwkv_np.chat.opening_cache.BUDGET", state.n_bytes - 1)
    cache.put([2], state)
    assert cache.get([2]) is None and cache.get([1]) is not None


@pytest.mark.parametrize("changed", range(len(SOURCES)))
def test_another_source_of_models_or_kernels_is_another_key(tmp_path, monkeypatch, changed):
    assert {folder.name for folder in SOURCES} == {"files", "models", "kernels"}
    copies = [tmp_path / folder.name for folder in SOURCES]
    for folder, copy in zip(SOURCES, copies):
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("rwkv_np.chat.opening_cache.SOURCES", copies)
    before = cache_key("f")
    assert cache_key("f") == before != cache_key("g")
    first = sorted(copies[changed].glob("*.py"))[0]
    first.write_text(first.read_text() + "\n")
    assert cache_key("f") != before


def version(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("conversation.json"))["version"], archive.namelist()[1:]


def test_states_over_the_budget_are_left_out_and_made_again(chat, model, tmp_path, monkeypatch):
    say(chat, "one")
    for name in ("a", "b", "c"):
        chat.fork(name)
        say(chat, name)
        chat.switch("main")
    chat.switch("b")
    size = chat.position().n_bytes
    states = {}
    for name in chat.branches:
        chat.switch(name)
        states[name] = chat.state().data
    chat.switch("b")
    for room, ends in ((0, {"2"}), (1, {"2"}), (2, {"2", "3"}), (3, {"2", "3", "1"})):
        monkeypatch.setattr("rwkv_np.chat.saved.BUDGET", room * size)
        save_conversation(chat, tmp_path / "a", MODEL, overwrite=True)
        found, members = version(tmp_path / "a")
        assert found == 2 and {name.split(".")[0] for name in members} == ends and ".start" not in str(members)
        loaded = load_conversation(tmp_path / "a", fresh(model), MODEL)
        for name, state in states.items():
            loaded.switch(name)
            np.testing.assert_array_equal(loaded.state().data, state)
        for at in (loaded, chat):
            at.switch("main")
        assert loaded.undo() and loaded.state().data.tobytes() == chat.begin().data.tobytes()
        chat.switch("b")


def test_a_file_from_which_nothing_is_left_out_can_be_read_by_older_programs(chat, tmp_path):
    say(chat, "one")
    chat.fork("side")
    chat.reset("New.")
    save_conversation(chat, tmp_path / "a", MODEL)
    with zipfile.ZipFile(tmp_path / "a") as archive:
        text = json.loads(archive.read("conversation.json"))
        parts = {name.rsplit(".", 2)[0] for name in archive.namelist()[1:]}
    assert text["version"] == 1 and "states" not in text and parts == {"0.start", "0.end", "1.start"}


def test_saving_makes_no_states_of_other_branches_again(chat, model, tmp_path, monkeypatch):
    say(chat, "one")
    chat.fork("side")
    say(chat, "two")
    chat.branches["main"].turns[-1].after_answer = None  # as for old turns
    monkeypatch.setattr("rwkv_np.chat.conversation.prefill", None)
    save_conversation(chat, tmp_path / "a", MODEL)
    assert version(tmp_path / "a")[0] == 2


def test_a_conversation_of_single_rounds_and_an_empty_one_are_saved_too(model, tmp_path):
    chat = fresh(model, "qa", "")
    say(chat, "one")
    save_conversation(chat, tmp_path / "a", MODEL)
    loaded = load_conversation(tmp_path / "a", fresh(model), MODEL)
    assert say(loaded, "two") == say(chat, "two")
    save_conversation(fresh(model), tmp_path / "b", MODEL)
    assert load_conversation(tmp_path / "b", chat, MODEL).turns == []


def test_what_was_said_can_be_read_in_the_file(chat, tmp_path):
    say(chat, "你好")
    save_conversation(chat, tmp_path / "a", MODEL)
    with zipfile.ZipFile(tmp_path / "a") as archive:
        text = archive.read("conversation.json").decode()
    assert '"message": "你好"' in text and json.loads(text)["model"] == MODEL


def test_another_model_is_refused_and_named(chat, tmp_path):
    save_conversation(chat, tmp_path / "a", MODEL)
    with pytest.raises(ConversationFileError, match="was saved with m.bin, but n.bin is loaded"):
        load_conversation(tmp_path / "a", chat, {"name": "n.bin", "fingerprint": "0"})


@pytest.fixture
def saved(chat, tmp_path):
    say(chat, "one")
    save_conversation(chat, tmp_path / "a", MODEL)
    return tmp_path / "a"


def test_a_file_cut_short_anywhere_is_refused(chat, saved):
    data = saved.read_bytes()
    for end in range(0, len(data), 97):
        saved.write_bytes(data[:end])
        with pytest.raises(ConversationFileError, match="is damaged or not a saved conversation"):
            load_conversation(saved, chat, MODEL)


def test_a_changed_byte_is_refused_or_changes_nothing(chat, saved):
    data = saved.read_bytes()
    tokens = chat.turns[-1].tokens
    for at in range(0, len(data), 61):
        saved.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            loaded = load_conversation(saved, chat, MODEL)
        except ConversationFileError:
            continue
        assert loaded.turns[-1].tokens == tokens  # a time stamp, for example
        np.testing.assert_array_equal(loaded.state().wkv, chat.state().wkv)


@pytest.mark.parametrize("change", [
    {"format": "other"}, {"version": 2}, {"version": 3}, {"version": 2, "states": ["7.end"]},
    {"version": 2, "states": ["1.end"]}, {"branches": []}, {"branch": "none"}, {"template": {}}, {"model": None},
    {"settings": {}}, {"branches": {"main": [{}]}}, {"n_asked": "x"},
])  # fmt: skip
def test_a_file_that_says_impossible_things_is_refused(chat, saved, change):
    rewrite(saved, change)
    with pytest.raises(ConversationFileError):
        load_conversation(saved, chat, MODEL)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("message",), {}, r"turns\[0\].message is {}; expected a string"),
        (("message",), "\ud800", "without lone surrogates"),
        (("prompt",), [], r"prompt is \[\]; expected at least one id"),
        (("prompt", 1), True, r"prompt\[1\] is True; expected an id below 256"),
        (("tokens", 0), 256, r"branches.main.turns\[0\].tokens\[0\] is 256; expected an id below 256"),
        (("tokens", 0), [[1]], "expected an id below 256"),
        (("stop", 0), 5, r"stop\[0\] is 5; expected a string that is not empty"),
        (("stop",), "abc", "stop is 'abc'; expected a list"),
        (("text",), None, "text is None; expected a string"),
        (("stop_reason",), "x", "expected one of stop, stop_id, length, interrupted"),
        (("lead",), 5, "lead is 5; expected a string"),
        (("lead",), " <think", "has no plain"),
    ],
)
def test_a_turn_of_which_anything_is_impossible_is_refused_with_its_place(chat, saved, place, value, message):
    """Some of these were only noticed at /undo or /regen, where they ended the chat."""
    said = text_of(saved)
    at = said["branches"]["main"]["turns"][0]
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = value
    rewrite(saved, said)
    with pytest.raises(ConversationFileError, match=message) as error:
        load_conversation(saved, chat, MODEL)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 0.5), ("top_k", 1.5), ("temperature", "hot"), ("top_p", True), ("top_p", float("nan"))],
)
def test_settings_of_another_type_are_refused(chat, saved, name, value):
    rewrite(saved, {"settings": text_of(saved)["settings"] | {name: value}})
    with pytest.raises(ConversationFileError, match=name):
        load_conversation(saved, chat, MODEL)


@pytest.mark.parametrize("role", ["user", "bot"])
def test_a_name_that_no_speaker_has_is_refused(chat, saved, role):
    """Each prompt repeats it: of 100,000 characters in a file of 65 KB, a turn took 28 MB."""
    rewrite(saved, {"template": text_of(saved)["template"] | {role: 201 * "y"}})
    with pytest.raises(ConversationFileError, match=f"template.{role} is 'yyy.*expected at most 200 characters"):
        load_conversation(saved, chat, MODEL)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"\xff", b'{"format": ' + b"9" * 5000 + b"}", b"null", b""])
def test_a_text_that_is_no_object_is_refused(chat, saved, text):
    replace_member(saved, "conversation.json", text)
    with pytest.raises(ConversationFileError, match="is damaged or not a saved conversation"):
        load_conversation(saved, chat, MODEL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["0.start.wkv", "0.end.shift", "0.end.logits"])
def test_a_memory_of_which_anything_is_no_number_is_refused(chat, saved, part, value):
    array = array_of(saved, part)
    array.flat[-1] = value
    replace_member(saved, f"{part}.npy", as_npy(array))
    with pytest.raises(ConversationFileError, match="that are not finite"):
        load_conversation(saved, chat, MODEL)


@pytest.mark.parametrize("change", [
    lambda x: x[1:], lambda x: x.astype(np.float64), lambda x: x.astype("u1"), lambda x: x.astype("?"),
    lambda x: x.astype("M8[s]"), lambda x: x[..., None],
])  # fmt: skip
@pytest.mark.parametrize("part", ["0.start.shift", "0.end.wkv", "0.end.logits"])
def test_a_memory_of_another_shape_or_type_is_refused(chat, saved, part, change):
    replace_member(saved, f"{part}.npy", as_npy(change(array_of(saved, part))))
    with pytest.raises(ConversationFileError, match="is damaged or not a saved conversation"):
        load_conversation(saved, chat, MODEL)


def test_a_memory_in_another_order_of_bytes_or_of_rows_is_the_same(chat, saved):
    for part in ("0.end.wkv", "0.end.shift", "0.end.logits"):
        replace_member(saved, f"{part}.npy", as_npy(np.asfortranarray(array_of(saved, part).astype(">f4"))))
    loaded = load_conversation(saved, chat, MODEL)
    np.testing.assert_array_equal(loaded.state().wkv, chat.state().wkv)
    assert say(loaded, "two") == say(chat, "two")


def test_a_member_that_would_unpack_to_more_than_it_may_is_refused_by_its_size_alone(chat, saved, monkeypatch):
    """A file of 3 MB took 6 GB. The size in the directory is enough to refuse it: nothing is unpacked."""
    monkeypatch.setattr("rwkv_np.chat.transcript.LIMIT", 100_000)
    replace_member(saved, "conversation.json", b" " * 100_001)
    monkeypatch.setattr("zipfile.ZipFile.open", None)
    with pytest.raises(ConversationFileError, match="conversation.json has 100,001 bytes; expected at most 100,000"):
        load_conversation(saved, chat, MODEL)


def test_an_array_that_says_it_is_larger_than_the_models_is_not_unpacked(chat, saved, monkeypatch):
    large = np.zeros((2, 2, 300_000), np.float32)
    replace_member(saved, "0.end.shift.npy", as_npy(large))
    read = []
    unzip = zipfile.ZipExtFile.read

    def count(self, n=-1):
        read.append(unzip(self, n))
        return read[-1]

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    with pytest.raises(ConversationFileError, match=r"its shift is \(2, 2, 300000\); this model"):
        load_conversation(saved, chat, MODEL)
    assert sum(map(len, read)) < large.nbytes / 100


def test_states_without_number_are_read_as_far_as_the_budget_goes(chat, model, tmp_path, monkeypatch):
    say(chat, "one")
    for name in "abc":
        chat.fork(name)
        say(chat, name)
    save_conversation(chat, tmp_path / "a", MODEL)
    monkeypatch.setattr("rwkv_np.chat.saved.BUDGET", 5 * chat.position().n_bytes // 2)
    loaded = load_conversation(tmp_path / "a", fresh(model), MODEL)
    kept = [branch.start is not None for branch in loaded.branches.values()]
    assert loaded.turns[-1].end and sum(kept) + sum(bool(b.turns[-1].end) for b in loaded.branches.values()) == 2
    loaded.switch("a")
    chat.switch("a")
    np.testing.assert_array_equal(loaded.state().wkv, chat.state().wkv)


def test_a_text_that_is_too_long_to_be_read_again_is_not_written(chat, tmp_path, monkeypatch):
    say(chat, "one")
    monkeypatch.setattr("rwkv_np.chat.transcript.LIMIT", 500)
    with pytest.raises(InputError, match="bytes of text; the limit of a file is 500. Make it shorter: /undo N"):
        save_conversation(chat, tmp_path / "a", MODEL)
    assert not list(tmp_path.glob("*"))


def test_ids_stand_side_by_side_in_the_text_and_strings_are_as_they_were(chat, model, tmp_path):
    say(chat, "[\n 1,\n  2\n]")
    save_conversation(chat, tmp_path / "a", MODEL)
    with zipfile.ZipFile(tmp_path / "a") as archive:
        text = archive.read("conversation.json").decode()
    assert ", ".join(map(str, chat.turns[0].prompt)) in text
    assert load_conversation(tmp_path / "a", fresh(model), MODEL).turns[0].message == chat.turns[0].message


def test_a_memory_that_could_not_be_read_again_is_left_out(chat, model, tmp_path):
    say(chat, "one")
    chat.turns[-1].end.state.data[0] = np.inf
    save_conversation(chat, tmp_path / "a", MODEL)
    loaded = load_conversation(tmp_path / "a", fresh(model), MODEL)
    assert loaded.turns[-1].end is None and np.isfinite(loaded.state().data).all()


def text_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("conversation.json"))


def array_of(path, name):
    with np.load(path) as members:
        return members[name].copy()


def as_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_impossible_settings_are_named(chat, saved):
    rewrite(saved, {"settings": dict.fromkeys(SETTINGS, 0) | {"top_p": 3}})
    with pytest.raises(ConversationFileError, match="the settings are invalid: top_p is 3"):
        load_conversation(saved, chat, MODEL)


def rewrite(path, change):
    """Change the text in a saved conversation."""
    replace_member(path, "conversation.json", json.dumps(text_of(path) | change).encode())


def replace_member(path, name, new):
    """Replace a member of a saved conversation by `new`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[name] = new
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_full_disk_leaves_the_file_that_was_there(chat, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="could not be written: No space left on device"):
        save_conversation(chat, saved, MODEL, overwrite=True)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_fingerprints_tell_models_apart(tmp_path):
    arrays = random_parameters(np.random.default_rng(0))
    same = [write_model(tmp_path / name, arrays) for name in "ab"]
    quantized = write_model(tmp_path / "q", arrays, "Q8_0")
    arrays["blocks.1.ffn.value.weight"][3:] += 1e-3
    tuned = write_model(tmp_path / "t", arrays)
    assert fingerprint(same[0]) == fingerprint(same[1])
    assert len({fingerprint(path) for path in (same[0], quantized, tuned)}) == 3
