"""The real chat on an emulated screen: conversations in two languages, every command, and what survives.

Keys, history, sizes and colours are in test_chat_terminal_keys.py.
"""

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from terminal import chat_starter, environment, holds, rambler, speaker  # noqa: F401 (a fixture)

import rwkv_np
from rwkv_np.chat.commands import COMMANDS

ENGLISH, CHINESE = "Hello! I am fine.", "您好！我爱喝茶。"
GREEDY = ("--temperature", 0, "--presence-penalty", 0, "--frequency-penalty", 0)
OPENINGS = Path(rwkv_np.__file__).parent / "chat" / "openings"
RANDOM = ("--temperature", 1.5, "--top-p", 1, "--seed", 4, "--max-tokens", 40, "--quiet")


@pytest.fixture
def english(tmp_path):
    return speaker(tmp_path / "english.bin", ENGLISH)


@pytest.fixture
def random_model(tmp_path):
    return rambler(tmp_path / "random.bin")


# --- conversations ---------------------------------------------------------------------------------------


def test_an_english_conversation_can_be_gone_back_in_and_gone_on_with(sit_down, english):
    chat = sit_down(english, *GREEDY, "--figures")
    answer, figures = chat.say("How are you?").split("\n")
    assert answer == f"Alice: {ENGLISH}"
    assert figures.startswith("[18 tokens, ") and "/s · prompt " in figures
    for line in ("/regen", "+", "/edit And you?"):
        assert chat.say(line).startswith(f"Alice: {ENGLISH}\n"), line
    for line in ("/continue", "+++"):
        assert ENGLISH in chat.say(line), line
    assert chat.say("/undo") == "Undone: And you? (turns left: 0)"
    assert "there are 0" in chat.say("/undo 2") and "there is no message" in chat.say("/edit")
    chat.say("one")
    assert chat.say("/reset") == "Conversation reset."
    assert "0 turns," in chat.say("/stats")
    chat.start("/exit")
    assert chat.wait() == 0


def test_a_chinese_conversation_is_chinese_and_its_characters_whole(sit_down, tmp_path):
    model = speaker(tmp_path / "chinese.bin", CHINESE)
    chat = sit_down(model, *GREEDY, "--figures", "--opening", "none", LANG="zh_CN.UTF-8")
    assert "输入 /help 查看命令" in chat.screen.rows[1]
    assert chat.say("你好，请问你喜欢什么？").startswith(f"Alice: {CHINESE}\n[25 个 token，")
    assert chat.screen.rows[2:4] == ["", "Bob: 你好，请问你喜欢什么？"]
    assert chat.say("/undo") == "已撤回：你好，请问你喜欢什么？（还剩 0 轮）"
    # A line wider than the screen, in which a wide character does not fit into the last column.
    long = "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 2
    chat.press(long)
    chat.until(lambda: "".join(chat.screen.rows[-2:]).replace("     ", "") == f"Bob: {long}", "the poem, wrapped")
    chat.enter()
    assert chat.ready().startswith(f"Alice: {CHINESE}\n[25 个 token，")
    for line, text in (
        ("/help", "重新回答上一条消息"), ("/reset", "对话已重置。"),
        ("/save 谈话.chat", "已保存到 谈话.chat：共 0 轮。"),
        ("/load 谈话.chat", "已从 谈话.chat 载入：共 0 轮。"),
        ("/tokens 茶", "3 个 token，1 个字符"),
    ):  # fmt: skip
        assert text in chat.say(line)
    assert chat.leave() == 0


def test_a_language_that_is_asked_for_wins_over_the_locale_and_an_opening_may_be_chinese(sit_down, english):
    chat = sit_down(english, *GREEDY, "--figures", "--language", "zh", "--opening", OPENINGS / "raven-zh.toml")
    assert holds(chat.say("/system"), "以下是Bob与朋友Alice之间的一段详细对话")
    assert f"Alice: {ENGLISH}\n[18 个 token，" in chat.say("你好")


# --- commands --------------------------------------------------------------------------------------------


def test_help_tells_of_every_command_and_of_one(sit_down, english):
    chat = sit_down(english)
    shown = chat.say("/help")
    for command in COMMANDS:
        assert f"/{command.name} " in shown and (f"({command.old})" in shown or not command.old)
    assert chat.say("/help undo") == "/undo [N]             undo the last turn, or the last N turns"
    assert "did you mean /regen?" in chat.say("/regne")
    assert "/load needs an argument: /load FILE" in chat.say("/load")
    assert holds(chat.say("/set temprature 1"), "no setting 'temprature'; did you mean temperature?")
    assert chat.say("//help").startswith("Alice: "), "two slashes begin a message"


def test_asides_are_answered_and_leave_the_conversation_as_it_was(sit_down, english):
    chat = sit_down(english, *GREEDY, "--max-tokens", 30)
    for line in ("/gen Once upon", "+gen Once upon", "/i Say hello", "+i Say hello", "/qa Well?", "+qa Well?",
                 "/qq Well?", "+qq Well?", "++"):  # fmt: skip
        assert ENGLISH in chat.say(line), line
    assert "0 turns," in chat.say("/stats")


def test_settings_hold_until_they_are_changed_or_for_one_message(sit_down, random_model):
    chat = sit_down(random_model, *RANDOM)
    greedy = chat.say("hi -temp=0 -top_p=0.5")
    assert chat.say("/regen") != greedy and chat.say("/regen -temp=0") == greedy
    assert chat.say("/set temperature 0") == "temperature = 0.0"
    assert chat.say("/regen") == greedy
    assert "temperature       0.0   (default 1.0; set by /set)" in chat.say("/settings")
    chat.say("/set max_tokens 7")
    assert "[stopped after 7 tokens: /continue to continue" in chat.say("/regen")
    chat.say("/set quiet off")
    assert chat.say("/set figures on") == "figures = True"
    assert "[7 tokens, " in chat.say("/regen")
    assert "expected 0 to 1" in chat.say("/set top_p 2") and "expected a number" in chat.say("x -temp=hot")


def test_texts_can_be_looked_at_read_from_files_and_put_at_the_beginning(sit_down, english, tmp_path):
    chat = sit_down(english, *GREEDY, "--quiet")
    assert chat.say("/tokens tea") == "116 't'  101 'e'  97 'a'\n3 tokens, 3 characters"
    assert "No opening:" in chat.say("/system")
    assert "New conversation" in chat.say("/system Alice is a cat.") and chat.say("/system") == "Alice is a cat."
    (tmp_path / "note.txt").write_text("A long story.\n")
    assert "13 tokens" in chat.say("/read note.txt") and "No such file" in chat.say("/read none.txt")
    chat.say("What is it about?")
    assert chat.say("/undo") == "Undone: A long story. What is it about? (turns left: 0)"


def test_branches_of_a_conversation_can_be_gone_between(sit_down, random_model):
    chat = sit_down(random_model, *RANDOM, "--temperature", 0)
    chat.say("one")
    assert "Switched to other, a copy" in chat.say("/fork other")
    branched = chat.say("two")
    assert chat.say("/switch") == "  main (1)  one\n* other (2)  two" == chat.say("/fork")
    assert "Bob: one" in chat.say("/switch main")
    assert chat.say("two") == branched
    assert chat.say("/switch nowhere") == "Error: there is no branch 'nowhere'; there are main, other"
    assert "Switched to other.\nBob: two\nAlice:" in chat.say("/switch other")


def test_an_answer_at_its_limit_says_so_and_goes_on_as_if_there_had_been_none(sit_down, random_model):
    chat = sit_down(random_model, *RANDOM, "--temperature", 0, "--max-tokens", 60)
    whole = chat.say("hi").removeprefix("Alice: ").split("\n[")[0]
    chat.say("/set max_tokens 30")
    first, why = chat.say("/regen").removeprefix("Alice: ").split("\n[")
    assert "stopped after 30 tokens" in why
    assert first + chat.say("/continue").split("\n[")[0] == whole


def test_control_characters_of_the_model_are_shown_and_not_obeyed(sit_down, tmp_path):
    model = speaker(tmp_path / "rude.bin", "ok\x1b]0;owned\x07\x1b[2Jready\x7f.")
    chat = sit_down(model, *GREEDY, "--quiet")
    assert chat.say("hi") == r"Alice: ok\x1b]0;owned\x07\x1b[2Jready\x7f."
    assert chat.screen.title == "" and "Bob: hi" in chat.screen.rows


# --- what survives ---------------------------------------------------------------------------------------


def test_after_a_save_and_a_kill_the_very_same_tokens_come_next(sit_down, random_model):
    talk = ("Hello", "你好吗", "And then?")
    uninterrupted = sit_down(random_model, *RANDOM)
    expected = [uninterrupted.say(message) for message in talk]
    first = sit_down(random_model, *RANDOM)
    assert first.say(talk[0]) == expected[0] and first.say(talk[1]) == expected[1]
    assert first.say("/save talk.chat") == "Saved to talk.chat (turns: 2)."
    first.start("lost with the power")
    first.child.kill(signal.SIGKILL)
    loaded = sit_down(random_model, "--load", "talk.chat", "--quiet")
    assert loaded.say(talk[2]) == expected[2], "--load"
    shown = loaded.say("/load talk.chat")
    assert "Loaded from talk.chat (turns: 2)." in shown and "Bob: 你好吗\nAlice:" in shown
    assert loaded.say(talk[2]) == expected[2], "/load"


def test_no_answer_is_lost_to_a_kill_where_each_is_saved(sit_down, random_model):
    chat = sit_down(random_model, *RANDOM, "--save", "kept.chat")
    chat.say("one")
    chat.say("two")
    chat.child.kill(signal.SIGKILL)
    assert "Bob: two" in sit_down(random_model, *RANDOM).say("/load kept.chat")


def test_a_file_of_another_model_or_a_damaged_one_changes_nothing(sit_down, random_model, english, tmp_path):
    save(random_model, tmp_path / "other.chat", tmp_path)
    data = (tmp_path / "other.chat").read_bytes()
    (tmp_path / "short.chat").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.chat").write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    chat = sit_down(english, *GREEDY)
    chat.say("Stay")
    refused = "Error: other.chat: was saved with random.bin, but english.bin is loaded"
    assert holds(chat.say("/load other.chat"), refused)
    for name in ("short.chat", "flipped.chat"):
        assert chat.say(f"/load {name}").startswith(f"Error: {name}: is damaged")
    assert chat.say("/load none.chat") == "Error: none.chat: No such file or directory"
    assert chat.say("/undo") == "Undone: Stay (turns left: 0)"


def test_a_save_that_finds_no_room_leaves_the_old_file_and_the_chat_goes_on(sit_down, random_model, tmp_path):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("needs Linux's prlimit")
    chat = sit_down(random_model, *RANDOM, "--history", "none")
    chat.say("one")
    chat.say("/save talk.chat")
    old = (tmp_path / "talk.chat").read_bytes()
    chat.say("two")
    _, hard = resource.prlimit(chat.child.pid, resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
    assert holds(chat.say("/save"), f"Error: {tmp_path}/talk.chat: could not be written: File too large")
    assert (tmp_path / "talk.chat").read_bytes() == old and not list(tmp_path.glob("*.part"))
    assert chat.say("three").startswith("Alice: ")
    resource.prlimit(chat.child.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert chat.say("/save") == "Saved to talk.chat (turns: 3)."


def test_a_file_of_somebody_else_is_not_replaced(sit_down, english, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    chat = sit_down(english)
    refused = f"Error: {tmp_path}/mine.txt: already exists; /save! mine.txt overwrites it, or choose another name"
    assert holds(chat.say("/save mine.txt"), refused)
    assert holds(chat.say("/save"), "name a file")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert chat.say("/save! mine.txt") == "Saved to mine.txt (turns: 0)."
    for line in ("/save mine.txt", "/save", "/save ./mine.txt", "/save ~/mine.txt", "/load mine.txt", "/save mine.txt"):
        assert "(turns: 0)." in chat.say(line), line
    assert chat.say("/save other.chat") == "Saved to other.chat (turns: 0)."
    assert holds(chat.say("/save mine.txt"), "already exists"), "it is the file of what was said before"


def test_ctrl_c_while_the_opening_is_read_goes_on_without_it(sit_down, english, tmp_path):
    opening = tmp_path / "long.toml"
    opening.write_text('text = "' + "A very long story. " * 100_000 + '"')
    chat = sit_down(english, *GREEDY, "--quiet", "--opening", opening, waits=False)
    chat.see("reading: ")
    chat.interrupt()
    assert "[reading the opening was stopped:" in chat.ready()
    assert chat.say("hi") == f"Alice: {ENGLISH}"
    assert holds(chat.say("/system"), "No opening:")
    assert chat.leave() == 0


def test_lines_end_between_words_in_answers_notes_errors_and_help(sit_down, tmp_path):
    # No pair of letters occurs twice, so that the model knows the next letter.
    long = "abcde fghij klmno pqrst uvwxy zABCD EFGHI JKLMN OPQRS TUVWX YZ012 34567 89acf bdgi hjln, np."
    chat = sit_down(speaker(tmp_path / "long.bin", long), *GREEDY, "--quiet")
    for columns in (80, 33):
        chat.resize(columns)
        for line, label in (("hi", "Alice:"), ("/help save", "/save"), ("/help edit", "/edit"), ("/xyzzy", "Error:")):
            rows = chat.say(line).split("\n")
            assert len(rows) > 1 or columns == 80
            said = " ".join(rows).split()
            assert said[0] == label and max(map(len, rows)) <= columns
            if label == "Alice:":
                assert said[1:] == long.split()
            for row, after in zip(rows, rows[1:]):
                assert len(row) + 1 + len(after.split()[0]) > columns, "no row ends before it must"


def test_what_a_file_holds_is_shown_and_not_obeyed(sit_down, english, tmp_path):
    chat = sit_down(english, *GREEDY, "--quiet")
    chat.say("hi")
    chat.say("/save a.chat")
    with zipfile.ZipFile(tmp_path / "a.chat") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["conversation.json"].replace(b'"message": "hi"', rb'"message": "\u001b[2J\u001b]0;owned\u0007"')
    with zipfile.ZipFile(tmp_path / "a.chat", "w") as archive:
        for name, data in (members | {"conversation.json": text}).items():
            archive.writestr(name, data)
    assert r"Bob: \x1b[2J\x1b]0;owned\x07" in chat.say("/load a.chat")
    assert chat.screen.title == "" and "Bob: hi" in chat.screen.rows


def save(model, path, home):
    """A conversation of one turn, saved without a terminal."""
    command = [sys.executable, "-m", "rwkv_np.chat", str(model), "-p", "hi", "--max-tokens", "9", "--save", str(path)]
    subprocess.run(command, env=environment(home), check=True, capture_output=True, stdin=subprocess.DEVNULL)
