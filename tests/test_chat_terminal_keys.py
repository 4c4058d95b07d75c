"""The chat's keyboard and screen: keys, history, pastes, sizes and colours, as a user sees them."""

import shlex
import sys

import pytest
from terminal import (  # noqa: F401 (a fixture)
    ENTER,
    ESCAPE,
    TAB,
    UP,
    Terminal,
    chat_starter,
    environment,
    speaker,
)

GREEDY = ("--temperature", 0, "--presence-penalty", 0, "--frequency-penalty", 0)


@pytest.fixture
def english(tmp_path):
    return speaker(tmp_path / "english.bin", "Hello! I am fine.")


@pytest.fixture
def endless(tmp_path):
    return speaker(tmp_path / "endless.bin", "aaa", ends=False)


# --- while an answer is written --------------------------------------------------------------------------


def test_ctrl_c_ends_an_answer_and_not_the_chat_however_often_it_is_pressed(sit_down, endless):
    chat = sit_down(endless, *GREEDY, "--max-tokens", 2_000_000)
    for _ in range(2):
        chat.start("hello")
        chat.see("Alice: aaaaaaaaaa")
        for _ in range(3):
            chat.interrupt()
        shown = chat.ready()
        assert shown.startswith("Alice: aaaaaaaaaa")
        assert "a\n[stopped: /continue to continue, /regen to start over]" in shown
    assert "2 turns," in chat.say("/stats"), "what was shown of an answer counts"
    chat.start("/continue")
    chat.see("aaaaaaaaaa")
    chat.interrupt()
    chat.ready()
    assert chat.leave() == 0


def test_what_is_typed_during_an_answer_waits_for_the_next_line(sit_down, endless):
    chat = sit_down(endless, *GREEDY, "--quiet", "--max-tokens", 800)
    chat.start("hello")
    chat.see("Alice: aaaaaaaaaa")
    chat.press("meanwhile")
    assert "meanwhile" not in chat.ready(draft="meanwhile")


def test_ctrl_c_in_an_answer_keeps_what_was_typed_and_all_that_was_shown(sit_down, endless):
    chat = sit_down(endless, *GREEDY, "--quiet", "--max-tokens", 2_000_000)
    chat.start("hello")
    chat.see("Alice: aaaaaaaaaa")
    chat.press("meanwhile\x03")
    assert chat.ready(draft="meanwhile").endswith("a\n[stopped: /continue to continue, /regen to start over]")


def test_a_resize_during_an_answer_and_while_typing_breaks_neither(sit_down, endless):
    chat = sit_down(endless, *GREEDY, "--max-tokens", 2_000_000)
    chat.start("hello")
    chat.see("Alice: aaaaaaaaaa")
    chat.resize(60)
    chat.see("\n" + "a" * 60 + "\n")
    chat.interrupt()
    chat.ready()
    chat.press("a" * 30, shown="Bob: " + "a" * 30)
    chat.resize(20)
    chat.until(lambda: "\nBob: {0}\n     {0}".format("a" * 15) in chat.shown, "the line, wrapped again")
    chat.resize(70)
    chat.until(lambda: chat.screen.rows[-1] == "Bob: " + "a" * 30, "the line, on one row again")
    chat.enter()
    chat.see("Alice: aaaa")


@pytest.mark.parametrize("typed", ["abcdefghij" * 3 + "klm", "word " * 21, "床前明月光疑是地上霜" * 6])
def test_a_window_that_becomes_narrower_step_by_step_leaves_no_pieces_of_the_line(sit_down, english, typed):
    chat = sit_down(english, *GREEDY, "--quiet")
    chat.say("hi")
    chat.press(typed)
    joined = "Bob:" + "".join(typed.split())
    chat.until(lambda: rest(chat) == joined, "the line")
    for columns in (61, 40, 37, 25):
        chat.resize(columns)
        # A key that is shown and deleted again: by then the program has painted the line at the new size.
        for key, line in (("z", joined + "z"), ("\x7f", joined)):
            chat.press(key)
            chat.until(lambda line=line: rest(chat) == line, f"the line, alone, in {columns} columns")
    chat.press("\x15")
    chat.until(lambda: rest(chat) == "Bob:", "the line, empty")
    assert "Alice: Hello! I am fine." in chat.screen.rows


def rest(chat):
    """The text below the answer, without white space."""
    rows = chat.screen.rows
    end = max((i for i, row in enumerate(rows) if row.endswith("fine.")), default=len(rows))
    return "".join("".join(rows[end + 1 :]).split())


# --- while typing ----------------------------------------------------------------------------------------


def test_ctrl_c_at_the_prompt_does_not_leave_and_drops_the_line(sit_down, english):
    chat = sit_down(english, *GREEDY)
    for line in ("", "half a thou"):
        chat.press(line, shown=f"Bob: {line}".rstrip())
        chat.begin()
        chat.interrupt()
        assert chat.ready() == "Ctrl-C does not exit; use Ctrl-D or /exit."
    assert chat.leave() == 0


def test_a_draft_takes_the_place_of_the_last_message_unless_ctrl_c_gives_it_up(sit_down, english):
    chat = sit_down(english, *GREEDY, "--quiet")
    chat.say("How are yuo")
    for keys in ("\x03", "\x7f\x7fou?\r"):
        chat.start("/edit")
        assert "Edit the message" in chat.ready(draft="How are yuo")
        chat.begin()
        chat.press(keys)
        shown = chat.ready()
    assert shown == "Alice: Hello! I am fine."
    assert chat.say("/undo") == "Undone: How are you? (turns left: 0)"


@pytest.mark.parametrize("keys", [ESCAPE + ENTER, "\\" + ENTER])
def test_a_message_of_two_lines_can_be_typed(sit_down, english, keys):
    chat = sit_down(english, *GREEDY, "--quiet")
    chat.press("first")
    chat.press(keys)
    chat.press("second", shown="     second")
    assert chat.screen.rows[-2] == "Bob: first"
    chat.enter()
    assert chat.ready() == "Alice: Hello! I am fine."
    assert chat.say("/undo") == "Undone: first second (turns left: 0)"


def test_a_paste_of_many_lines_is_one_message_and_waits_for_enter(sit_down, english):
    chat = sit_down(english, *GREEDY, "--quiet")
    lines = [f"line {i}: 粘贴" for i in range(40)]
    assert "\x1b[?2004h" in chat.raw, "the terminal was asked to mark pastes"
    chat.press("\x1b[200~" + "\r\n".join(lines) + "\x1b[201~", shown=lines[-1])
    chat.enter()
    assert chat.ready() == "Alice: Hello! I am fine."
    assert chat.say("/switch") == "* main (1)  line 0: 粘贴 line 1: 粘贴 line 2: 粘贴 line 3…"


def test_tab_completes_commands_files_branches_and_settings(sit_down, english, tmp_path):
    (tmp_path / "conversation-of-may.chat").touch()
    chat = sit_down(english, *GREEDY)
    chat.say("/fork experiment")
    chat.say("/switch main")
    for typed, whole in (
        ("/reg", "/regen"), ("/load conv", "/load conversation-of-may.chat"), ("/switch exp", "/switch experiment"),
        ("/set temp", "/set temperature"),
    ):  # fmt: skip
        chat.press(typed)
        chat.press(TAB, shown=f"Bob: {whole}")
        clear_line(chat)
    chat.press("/s" + TAB)
    chat.until(lambda: any("save the conversation" in line for line in chat.screen.display), "what they do")


def test_what_was_typed_is_there_in_the_next_sitting_for_its_user_alone(sit_down, english, tmp_path):
    chat = sit_down(english, *GREEDY)
    chat.say("remember the 茶")
    chat.say("something else")
    assert chat.leave() == 0
    chat = sit_down(english, *GREEDY)
    chat.press(UP, shown="Bob: something else")
    chat.press(UP, shown="Bob: remember the 茶")
    clear_line(chat)
    chat.press("\x12")
    chat.press("remem", shown="`remem': remember the 茶")
    chat.press(ENTER, shown="Bob: remember the 茶")
    chat.enter()
    assert chat.ready().startswith("Alice: Hello! I am fine.")
    history = tmp_path / "state" / "rwkv-np" / "history"
    assert "remember the 茶" in history.read_text(encoding="utf-8") and history.stat().st_mode & 0o077 == 0


def test_ctrl_z_suspends_and_fg_goes_on(sit_down, english, tmp_path):
    command = shlex.join([sys.executable, "-m", "rwkv_np.chat", str(english), *map(str, GREEDY), "--quiet"])
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], environment(tmp_path) | {"PS1": "$ "}, tmp_path)
    shell.until(lambda: shell.screen.rows[-1] == "$", "the shell")
    shell.child.send(command + ENTER)
    shell.ready()
    shell.press("half", shown="Bob: half")
    shell.press("\x1a", shown="$")
    shell.child.send("fg" + ENTER)
    shell.ready(draft="half")
    assert shell.say(" done") == "Alice: Hello! I am fine."
    shell.press("\x04", shown="$")
    shell.child.close(force=True)


# --- figures and colours ---------------------------------------------------------------------------------


def test_figures_stand_in_the_bottom_line_and_below_each_answer_where_that_is_asked_for(sit_down, english):
    chat = sit_down(english, *GREEDY)
    assert chat.say("hi") == "Alice: Hello! I am fine."
    chat.until(lambda: below(chat).startswith("english.bin · 18 tokens, "), "model and speed at the bottom")
    assert "\x1b[1;36mAlice:\x1b[0m" in chat.raw
    chat.start("/set quiet on")
    assert chat.ready() == "quiet = True"
    chat.until(lambda: not below(chat), "no bottom line")
    chat = sit_down(english, *GREEDY, "--figures")
    assert chat.say("hi").startswith("Alice: Hello! I am fine.\n[18 tokens, ") and "\x1b[2m[18 tokens, " in chat.raw
    quiet = sit_down(english, *GREEDY, "--figures", "--quiet")
    assert quiet.say("hi") == "Alice: Hello! I am fine." and not below(quiet)


def below(chat):
    """What stands below the line that is typed."""
    return "".join(chat.screen.display[chat.screen.cursor.y + 1 :]).strip()


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nothing_is_coloured_where_colour_is_not_welcome(sit_down, english, env):
    chat = sit_down(english, *GREEDY, **env)
    chat.say("hi")
    assert "Error: " in chat.say("/nonsense")
    coloured = ("\x1b[2m", "\x1b[31m", "\x1b[1;3", "\x1b[0;3", "\x1b[3")
    assert not [code for code in coloured if code in chat.raw]


def clear_line(chat):
    chat.begin()
    chat.interrupt()
    chat.ready()
