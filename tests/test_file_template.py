"""The chat template in a GGUF file: known ones, other names, and programs that must not run for long."""

import dataclasses

import pytest
from test_gguf_commands import model

import rwkv_np
from rwkv_np.chat import file_template
from rwkv_np.chat.file_template import WORLD, template_of
from rwkv_np.chat.templates import TEMPLATES

NAMES = "{% for m in messages %}{{ ('Human: ' if m.role == 'user' else 'Robot: ') + m.content + '\n\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    loaded = rwkv_np.load(model(tmp_path_factory.mktemp("model"))[1], engine="numpy")
    return dataclasses.replace(loaded.config, vocab_size=65536)


def found(folder, config, text):
    notes = []
    return template_of(model(folder, template=text)[1], config.vocab_size, config.architecture, notes.append), notes


@pytest.mark.parametrize("text", ["rwkv-world", "", None, WORLD.read_text(encoding="utf-8")])
def test_the_usual_template_is_recognized_without_running_it(tmp_path, config, text, monkeypatch):
    monkeypatch.setattr(file_template, "_rendered", None)
    assert found(tmp_path, config, text) == (TEMPLATES["g1"], [])


def test_the_usual_template_renders_what_ours_does():
    first, third, *_ = file_template._rendered(WORLD.read_text(encoding="utf-8"))
    assert first == TEMPLATES["g1"].turn(file_template.PROBES[0])
    assert file_template._matched(TEMPLATES["g1"], first, third) == TEMPLATES["g1"]


@pytest.mark.parametrize("lead, think", [("", "auto"), (" <think>", "on"), (" <think>\n</think>", "off")])
def test_names_and_the_beginning_of_an_answer_are_taken_from_it(tmp_path, config, lead, think):
    template, notes = found(tmp_path, config, NAMES + f"{{{{ 'Robot:{lead}' }}}}")
    assert (template.user, template.bot, template.name, template.think, notes) == ("Human", "Robot", "g1", think, [])


@pytest.mark.parametrize("text", ["walrus", NAMES, NAMES + "Robot: so", NAMES.replace(": ", ":\n") + "Robot:"])
def test_another_form_is_named(tmp_path, config, text):
    template, notes = found(tmp_path, config, text)
    assert template == TEMPLATES["g1"] and notes == [
        "The chat template in the file has a form that is not supported; using g1"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{% for", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ messages.append(1) }}", "{% include '/etc/passwd' %}", "{{ 'x' * 10**12 }}", "x" * 100_001,
    ],
)  # fmt: skip
def test_a_template_that_fails_is_named(tmp_path, config, text):
    template, notes = found(tmp_path, config, text)
    assert template == TEMPLATES["g1"] and "could not be rendered; using g1" in notes[0]


def test_an_endless_template_is_stopped(tmp_path, config, monkeypatch):
    monkeypatch.setattr(file_template, "TIME_LIMIT_S", 0.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert "could not be rendered" in found(tmp_path, config, endless)[1][0]
