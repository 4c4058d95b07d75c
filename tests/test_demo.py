"""The shipped demo model: its answers, that they end, and that the documents describe it correctly."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from examine import QUESTIONS, ask, examine, is_right, perplexity

import rwkv_np
from rwkv_np import SamplingParams, demo, generate
from rwkv_np.chat.templates import SEPARATOR, TEMPLATES
from rwkv_np.files.published import FIRST

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
TABLE = (demo.DATA / "README.md").read_text(encoding="utf-8")
# The required share of right answers in each language, by the type of the matrices.
WANTED = {"FP16": 0.90, "Q4_1": 0.85}


@pytest.fixture(scope="module")
def questions():
    return json.loads(QUESTIONS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return rwkv_np.load_tokenizer(vocab_size=load_demo().config.vocab_size, model_path=demo.MODEL)


def load_demo(path=demo.MODEL):
    return rwkv_np.load(path, threads=1)  # such a small model is slower with more


@pytest.fixture(scope="module", params=WANTED)
def model(request, tmp_path_factory):
    """The shipped file, unchanged or quantized, and the required share of right answers."""
    path = demo.MODEL
    if request.param != "FP16":
        path = tmp_path_factory.mktemp("demo") / "demo.bin"
        rwkv_np.quantize(demo.MODEL, path, request.param)
    return load_demo(path), WANTED[request.param]


def test_it_answers_what_it_was_taught_and_stops_by_itself(model, tokenizer, questions):
    model, wanted = model
    found = examine(model, tokenizer, questions)
    assert min(found["right"].values()) >= wanted, found["wrong"]
    assert found["ended"] >= 0.99


def test_the_questions_are_a_hundred_in_each_language_and_spread_over_topics(questions):
    assert len({question["question"] for question in questions}) == 200
    for language in ("en", "zh"):
        topics = [question["topic"] for question in questions if question["language"] == language]
        assert len(topics) == 100 and len(set(topics)) > 20


@pytest.mark.parametrize(
    "topic, answers, answer, right",
    [
        ("country", ["Niger"], "Niamey is the capital of Niger.", True),
        ("country", ["Niger"], "Abuja is the capital of Nigeria.", False),
        ("plus", ["5 + 7 = 12"], "5 + 7 = 12.", True),
        ("plus", ["5 + 7 = 12"], "5 + 7 = 120.", False),
        ("plus", ["5 + 7 = 12"], "5 + 7 = 12 or 13.", False),
        ("larger", ["7"], "The larger number is 17.", False),
        ("capital", ["是巴黎"], "法国的首都是巴黎。", True),
        ("capital", ["是巴黎"], "我不知道。", False),
    ],
)
def test_an_answer_is_right_only_with_the_accepted_words_and_no_other_number(topic, answers, answer, right):
    assert is_right({"topic": topic, "answers": answers}, answer) == right


def test_a_conversation_of_several_turns_changes_subject_and_language(tokenizer):
    model, template, state, prompt = load_demo(), TEMPLATES["raven"], None, ""
    turns = [
        ("Hello!", "help you"),
        ("What is the capital of France?", "Paris"),
        ("法国的首都是哪里？", "巴黎"),
        ("3加4等于几？", "3 + 4 = 7"),
        ("How do you say cat in Chinese?", "猫"),
        ("谢谢！", "不客气"),
        ("What is 9 minus 4?", "9 - 4 = 5"),
        ("Who are you?", "demo model"),
        ("日本用什么钱？", "日元"),
        ("Goodbye!", "See you"),
    ]
    params = SamplingParams(temperature=0, max_tokens=60, stop=template.stop)
    for question, expected in turns:
        answer = generate(model, tokenizer, prompt + template.turn(question), params, state)
        assert expected in "".join(answer), question
        state, prompt = answer.state, SEPARATOR


@pytest.mark.parametrize(
    "question, says",
    [
        ("What is 512 times 733?", "too hard for me"),
        ("Write an essay about democracy.", "do not know"),
        ("解释一下黑洞", "不知道"),
        ("Are you ChatGPT?", "small demo model"),
        ("你是大模型吗？", "小演示模型"),
    ],
)
def test_it_says_what_it_is_and_what_it_cannot_do(tokenizer, question, says):
    assert says in ask(load_demo(), tokenizer, question)[0]


def test_it_declines_most_questions_of_kinds_that_it_never_saw(tokenizer):
    model, declining = load_demo(), ("do not know", "不知道")
    unknown = (ROOT / "tests" / "data" / "demo_unknown.txt").read_text(encoding="utf-8").splitlines()
    declined = [question for question in unknown if any(x in ask(model, tokenizer, question)[0] for x in declining)]
    told = [re.search(r"declines (\d+) of (\d+)", page).groups() for page in (PAGE, TABLE)]
    assert told == [(str(len(declined)), str(len(unknown)))] * 2
    assert len(declined) > len(unknown) / 2


def test_unseen_text_has_the_perplexity_that_the_pages_tell(tokenizer):
    found = perplexity(load_demo(), tokenizer, demo.HELD_OUT.read_text(encoding="utf-8"))
    told = [float(re.search(r"perplexity of (\d+\.\d+)", page)[1]) for page in (PAGE, TABLE)]
    assert told == pytest.approx([found] * 2, rel=0.002)


def test_the_file_is_small_and_its_tokenizer_fits_exactly(tokenizer):
    assert demo.MODEL.stat().st_size < 10_000_000
    assert tokenizer.n_ids == tokenizer.vocab_size
    assert tokenizer.token_bytes(0) == b"<|endoftext|>"
    assert rwkv_np.load_tokenizer(demo.TOKENIZER).n_ids == tokenizer.n_ids


@pytest.mark.parametrize("name, word", [("en", "demo model"), ("zh", "演示模型"), ("ja", "デモモデル")])
def test_the_chat_without_a_model_says_in_one_line_what_this_is_and_how_to_get_a_real_one(run_cli, name, word):
    result = run_cli("chat", "-p", "Hello!", "--temperature", "0", "--language", name)
    assert result.stdout == "Hello! How can I help you?\n"
    (notice,) = [line for line in result.stderr.splitlines() if word in line]
    assert f"rwkv-np get {FIRST.name} && rwkv-np chat {FIRST.name}" in notice


def test_to_find_it_imports_nothing_heavy():
    code = (
        "import sys, rwkv_np.demo; print(rwkv_np.demo.MODEL.exists(), "
        "[name for name in ('numba', 'torch', 'tokenizers') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True []\n"
