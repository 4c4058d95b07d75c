"""Formats with marks around messages, as ChatML: what the model reads is what the file's own template renders."""

import json

import pytest
from scripted import GREEDY, PIECE, Echo, PieceTokenizer, text_read
from test_gguf_commands import model

jinja2 = pytest.importorskip("jinja2")

from rwkv_np.chat.conversation import Conversation  # noqa: E402
from rwkv_np.chat.file_template import _rendered, template_of  # noqa: E402
from rwkv_np.chat.marked import Marked, marked  # noqa: E402
from rwkv_np.chat.opening import NO_OPENING, Opening  # noqa: E402
from rwkv_np.chat.said import Impossible  # noqa: E402
from rwkv_np.chat.transcript import read, write  # noqa: E402
from rwkv_np.errors import InputError  # noqa: E402
from rwkv_np.sampling import SamplingParams  # noqa: E402

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helper.<|im_end|>\n' }}{% endif %}" + CHATML
)
LLAMA_3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) "
    "+ '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + '</s>' }}{% else %}{{ raise_exception('no system') }}{% endif %}"
    "{% endfor %}"
)
HEADINGS = (
    "{% for m in messages %}{{ '### ' + {'system': 'System', 'user': 'Human', 'assistant': 'Robot'}[m.role] + ':\n' "
    "+ m.content + '\n\n' }}{% endfor %}{{ '### Robot:\n' }}"
)
FORMATS = {"chatml": CHATML, "qwen": QWEN, "llama 3": LLAMA_3, "mistral": MISTRAL, "headings": HEADINGS}
STOPS = {
    "chatml": "<|im_end|>", "qwen": "<|im_end|>", "llama 3": "<|eot_id|>", "mistral": "</s>",
    "headings": "\n\n### Human:",
}  # fmt: skip
WITH_SYSTEM = [name for name in FORMATS if name != "mistral"]
THOUGHTFUL = CHATML.replace("assistant\n", "assistant\n<think>\n")


def rendered(text, *said, system=None):
    """The prompt of a conversation whose messages alternate, by Jinja."""
    chat = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]
    chat = [{"role": "system", "content": system}, *chat] if system else chat
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(messages=chat, add_generation_prompt=True)


def format_of(name):
    return marked(_rendered(FORMATS[name]))


def chat_in(template, opening=NO_OPENING, answer=b"Hello!"):
    """A conversation with a model that answers every prompt; `:` in a message shows it where to begin."""
    model = Always(answer)
    params = SamplingParams(**GREEDY, max_tokens=50)
    return Conversation(model, PieceTokenizer([answer]), template, params, opening.render(template))


class Always(Echo):
    """Says its piece after everything but the piece itself."""

    def __init__(self, piece):
        super().__init__([PIECE])

    def logits(self, after):
        logits = super().logits([])
        logits[PIECE] = -1 if after[-1] == PIECE else 99
        return logits


@pytest.mark.parametrize("name", FORMATS)
def test_the_chat_reads_what_the_template_renders(name):
    chat = chat_in(format_of(name))
    for message in ("one", "two\n\nlines", "three"):
        assert "".join(chat.ask(message)) == "Hello!"
    expected = rendered(FORMATS[name], "one", "Hello!", "two\n\nlines", "Hello!", "three")
    assert text_read(chat) == expected + "Hello!"


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_text_replaces_the_formats_own(name):
    chat = chat_in(format_of(name), Opening("Be kind.", turns=(("a", "b"),)))
    assert "".join(chat.ask("c")) == "Hello!"
    assert text_read(chat) == rendered(FORMATS[name], "a", "b", "c", system="Be kind.") + "Hello!"


def test_a_format_without_system_texts_says_so():
    with pytest.raises(InputError, match="the template marked of this model has no system text; omit it"):
        Opening("Be kind.").render(format_of("mistral"))


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_ends_at_its_mark(name):
    template = format_of(name)
    assert template.stop == (STOPS[name],)
    chat = chat_in(template, answer=f"Hello!{STOPS[name]} and more".encode())
    assert "".join(chat.ask("one")) == "Hello!" and chat.turns[0].stop_reason == "stop"


@pytest.mark.parametrize("name", FORMATS)
def test_the_server_reads_what_the_template_renders(name):
    bodies = pytest.importorskip("rwkv_np.serve.bodies")
    from rwkv_np.serve.errors import ApiError
    from rwkv_np.serve.prompt import Prompts
    from rwkv_np.serve.tools import ToolChoice

    def text(*said, system=None, goes_on=False):
        messages = [bodies.Message(role=("user", "assistant")[i % 2], content=each) for i, each in enumerate(said)]
        messages = [bodies.Message(role="system", content=system), *messages] if system else messages
        tools = ToolChoice(bodies.ChatRequest(messages=messages))
        made = Prompts(PieceTokenizer(), format_of(name)).of(messages, "auto", tools, goes_on=goes_on)
        return bytes(made.ids.tolist()).decode()

    assert text("one") == rendered(FORMATS[name], "one")
    assert text("one", "two", "three") == rendered(FORMATS[name], "one", "two", "three")
    assert text("one", "two", goes_on=True) == rendered(FORMATS[name], "one") + "two"
    if name in WITH_SYSTEM:
        assert text("one", "two", "three", system="Be.") == rendered(FORMATS[name], "one", "two", "three", system="Be.")
    else:
        with pytest.raises(ApiError, match="has no system text or tools"):
            text("one", system="Be.")


def test_an_answer_over_http_ends_at_its_mark():
    pytest.importorskip("msgspec")
    from concurrent.futures import ThreadPoolExecutor

    from serving import PlayedWorker, demo_tokenizer, running

    worker = PlayedWorker()
    with running(worker=worker, template=format_of("chatml")) as made, ThreadPoolExecutor(1) as pool:
        said = pool.submit(made.chat, [{"role": "system", "content": "Be."}, {"role": "user", "content": "one"}])
        ticket = worker.asked()
        expected = rendered(CHATML, "one", system="Be.")
        assert demo_tokenizer().decode(ticket.request.prompt.tolist()) == expected
        ticket.listener.prompt_read(0, None)
        tokens = demo_tokenizer().encode("Hello!<|im_end|>\n<|im_start|>user\ntwo")
        reason = next(reason for token in tokens if (reason := ticket.listener.take(0, token, None)))
        ticket.listener.end(0, reason)
        worker.outbox.hand_over()
        (choice,) = said.result(10).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello!", "stop")
        assert made.client.get("/v1/models").json()["data"][0]["template"] == "marked"


@pytest.mark.parametrize("name", FORMATS)
def test_a_saved_conversation_keeps_its_format(name):
    chat = chat_in(format_of(name))
    list(chat.ask("one"))
    found = read(write(chat, {"name": "m", "fingerprint": "f"}, []), chat.params, 1000)
    assert vars(found.template) | {"user": "User", "bot": "Assistant"} == vars(chat.template)
    assert type(found.template) is Marked and found.template.stop == chat.template.stop


@pytest.mark.parametrize(
    "text",
    [
        THOUGHTFUL, CHATML.replace("m.content", "m.content + (loop.index | string)"), "{{ messages[-1].content }}",
        CHATML.replace("m.content", "m.content + m.content"), "walrus" * 500 + CHATML, "hello " + CHATML,
        "{% for m in messages %}{{ m.content + '\\n\\n' }}{{ 'Say: ' if m.role == 'user' else '' }}{% endfor %}",
        CHATML.replace("+ '<|im_end|>'", ""), CHATML.replace("messages", "messages | reverse"),
    ],
)  # fmt: skip
def test_another_format_is_not_taken_for_one(text):
    assert marked(_rendered(text) or [None] * 4) is None


def test_a_saved_format_without_an_end_is_refused():
    chat = chat_in(format_of("chatml"))
    data = write(chat, {"name": "m", "fingerprint": "f"}, [])
    for mark in (b"<|im_end|>", b"<|im_start|>user"):
        data = data.replace(mark, b"")
    with pytest.raises(Impossible, match="after_answer.*expected what ends an answer"):
        read(data, chat.params, 1000)


def test_the_programs_name_the_format(tmp_path, run_cli):
    _, path = model(tmp_path, template=CHATML)
    done = run_cli("chat", path, "-p", "hello", "--max-tokens", "3", "--seed", "1")
    assert "marked template" in done.stderr and "not supported" not in done.stderr
    shown = "marked, with '<|im_start|>user' before a message, as the file says"
    assert f"chat template: {shown}" in run_cli("inspect", path).stdout
    found = json.loads(run_cli("inspect", path, "--json").stdout)
    assert (found["template"], found["template_notes"]) == (shown, [])


def test_inspect_says_what_the_chat_would_say(tmp_path, run_cli):
    _, path = model(tmp_path, template="walrus")
    assert "has a form that is not supported; using raven" in run_cli("inspect", path).stdout


def test_names_come_first(tmp_path):
    """World's own form is recognized as such, although its messages have marks too."""
    from test_file_template import NAMES

    _, path = model(tmp_path, template=NAMES + "{{ 'Robot:' }}")
    assert template_of(path, 65536, "v7", [].append).name == "g1"
