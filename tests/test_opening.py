"""Openings: the bundled ones, and those that a user writes."""

import json

import pytest

from rwkv_np.chat.language import LANGUAGES
from rwkv_np.chat.opening import NO_OPENING, Opening, bundled_opening, read_opening
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.errors import InputError, SettingsFileError

RAVEN, WORLD = TEMPLATES["raven"], TEMPLATES["world"]


def test_an_opening_reads_like_the_conversation_that_follows():
    opening = Opening("{user} meets {bot}.\r\n", (("Hi {bot}", "Hi!\n\nWell?"), ("So", "So.")))
    assert opening.render(RAVEN) == "Bob meets Alice.\n\nBob: Hi Alice\n\nAlice: Hi!\nWell?\n\nBob: So\n\nAlice: So."
    assert NO_OPENING.render(RAVEN) == ""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", [RAVEN, WORLD], ids=lambda template: template.name)
def test_every_language_has_an_opening_of_each_family(template, language):
    opening = bundled_opening(template, language)
    text = opening.render(template)
    assert opening.turns and "{" not in text and text == text.strip() and "\n\n\n" not in text
    assert text.count(f"{template.user}: ") == text.count(f"{template.bot}: ") == len(opening.turns)
    if language != "en":
        assert sum(ord(c) > 0x3000 for c in text) > len(text) / 3


def test_only_g1_reads_a_system_text_by_that_name():
    text = Opening("Be brief.\n\nBe kind.")
    assert text.render(TEMPLATES["g1"]) == "System: Be brief.\nBe kind."
    assert Opening("System: Be brief.").render(TEMPLATES["g1"]) == "System: Be brief."
    assert text.render(WORLD) == "Be brief.\n\nBe kind."


def test_a_file_may_give_the_two_other_names(tmp_path):
    (tmp_path / "o.toml").write_text('turns = [["a", "b"]]\nuser = "甲"\nbot = "乙"\n', encoding="utf-8")
    opening = read_opening(tmp_path / "o.toml")
    template = opening.named(RAVEN)
    assert opening.render(template) == "甲: a\n\n乙: b" and "\n甲:" in template.stop


def test_a_chat_prompt_of_rwkv_cpp_is_understood(tmp_path):
    said = {"user": "User", "assistant": "Bot", "separator": ":", "prompt": "User: hi\n\nBot: Hi!\n\n"}
    (tmp_path / "o.json").write_text(json.dumps(said))
    opening = read_opening(tmp_path / "o.json")
    assert opening == Opening("User: hi\n\nBot: Hi!\n\n", (), "User", "Bot")
    assert opening.render(opening.named(RAVEN)) == "User: hi\n\nBot: Hi!"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("o.toml", "turns = [['a']]", "turns is not a list of pairs"),
        ("o.toml", "turns = 'a'", "turns is not a list of pairs"),
        ("o.toml", "text = 3", "text is 3; expected a string"),
        ("o.toml", f'user = "{201 * "y"}"', "user has 201 characters; expected at most 200"),
        ("o.toml", "txet = 'a'", "has the key 'txet'; expected text, user, bot or turns"),
        ("o.toml", "text =", "is not valid TOML"),
        ("o.json", "{", "is not valid JSON"),
        ("o.json", "[]", "contains a list; expected an object"),
        ("o.json", '{"separator": "-"}', "separator is not a colon"),
        ("o.json", "[" * 100_000, "is not valid JSON: it is nested too deeply$"),
        ("o.json", '{"text": 1' + "0" * 5000 + "}", "is not valid JSON"),
        ("o.json", json.dumps({"k" * 5000: ""}), "has the key 'kkk"),
        ("o.json", json.dumps({"text": ["k" * 5000]}), r"text is \['kkk"),
        ("o.json", r'{"text": "\ud800"}', "contains U.D800, half a surrogate pair"),
        ("o.json", r'{"turns": [["a", "\udfff"]]}', "contains U.DFFF, half a surrogate pair"),
        ("o.toml", "text = " + "[" * 20_000, "is not valid TOML: it is nested too deeply$"),
        ("o.toml", "text = 1" + "0" * 5000, "is not valid TOML"),
    ],
)
def test_a_mistake_in_an_opening_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsFileError, match=message) as caught:
        read_opening(tmp_path / name)
    assert len(caught.value.problem) < 200 and caught.value.problem.isprintable()


def test_a_system_text_of_g1_models_has_its_label():
    g1 = TEMPLATES["g1"]
    for text in ("Be brief.\n\nBe kind. ", "System: Be brief.\nBe kind."):
        assert Opening(text).render(g1) == "System: Be brief.\nBe kind."
    assert Opening("", (("a", "b"),)).render(g1) == "User: a\n\nAssistant: b"
    assert bundled_opening(g1, "en") == NO_OPENING  # these models are trained to chat
    assert Opening("Be brief.").render(WORLD) == "Be brief."


def test_single_rounds_take_no_opening():
    assert bundled_opening(TEMPLATES["qa"], "en") == NO_OPENING
    with pytest.raises(InputError, match="the template qa has single turns"):
        Opening("text").render(TEMPLATES["qa"])
