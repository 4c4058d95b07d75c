"""The effect of an input line: commands, old commands, settings, files; with a scripted model."""

import io
import json
import os
import re

import pytest
from scripted import conversation, text_read

from rwkv_np.chat import commands, repl
from rwkv_np.chat.language import LANGUAGES, Language, guess_language
from rwkv_np.chat.line import handle as handle_line
from rwkv_np.chat.screen import JsonScreen, Screen
from rwkv_np.chat.session import Session
from rwkv_np.errors import FileError, InputError, OutputError, TextError


def session(*pieces, screen=Screen, **options):
    chat = conversation(*([pieces] if pieces else []), **options)
    return Session(chat, screen(Language("en")), {"name": "model.bin", "fingerprint": "f"})


@pytest.fixture
def do(capsys):
    """Handle lines in a session; returns (stdout, stderr)."""

    def handle(at, *lines):
        capsys.readouterr()
        for line in lines:
            handle_line(at, line)
        return capsys.readouterr()

    return handle


def test_a_message_is_answered_on_stdout_alone(do):
    at = session()
    assert do(at, "Hi") == ("Hello!\n", "")
    assert do(at, "", "   ") == ("", "")


def test_line_breaks_are_shown_between_words_and_not_at_the_ends(do):
    at = session(b" \n", b" a\n", b"\n", b"b", b"\n\n", template="instruction")
    assert do(at, "/i x").out == "a\n\nb\n"


def test_two_slashes_begin_a_message(do):
    at = session()
    do(at, "//etc/passwd is a file")
    assert at.conversation.turns[-1].message == "/etc/passwd is a file"


@pytest.mark.parametrize("line", ["+1 for that", "+", "++i", "+ 2", "+i", "+genius", "+++ a"])
def test_a_plus_that_is_no_command_begins_a_message(do, line):
    at = session()
    if line == "+":
        with pytest.raises(InputError, match="there is no message"):
            handle_line(at, line)
    else:
        do(at, line)
        assert at.conversation.turns[-1].message == line


def test_an_unknown_command_suggests_the_nearest_and_does_nothing():
    at = session()
    for line, hint in (("/regne", "did you mean /regen?"), ("/sav x", "/save?"), ("/zzz", "/help lists all commands")):
        with pytest.raises(InputError, match=re.escape(hint)):
            handle_line(at, line)
    assert at.conversation.turns == []


def test_a_command_without_what_it_needs_says_how_it_is_written():
    with pytest.raises(InputError, match="/load needs an argument: /load FILE"):
        handle_line(session(), "/load")


def test_each_old_command_does_what_rwkv_cpps_does(do):
    at = session(b" A", b" B", max_tokens=1, opening="Open.")
    chat = at.conversation
    do(at, "Hi", "+")
    assert len(chat.turns) == 1 and text_read(chat) == "Open.\n\nBob: Hi\n\nAlice: A"
    assert do(at, "+gen Once:").out == "A\n" and chat.aside.message == "Once:"
    assert do(at, "+++").out == " B\n" and chat.aside.text == " A B"
    assert do(at, "++").out == "A\n" and chat.aside.text == " A"
    do(at, "+QA why?")
    assert bytes(chat.aside.after_prompt.state) == b"Open.\n\nBob: why?\n\nAlice:"
    do(at, "+qq why?")
    assert bytes(chat.aside.after_prompt.state) == b"Q: why?\n\nA:"
    do(at, "+i Do it.")
    assert b"# Instruction:\nDo it.\n\n# Response:\n" in bytes(chat.aside.after_prompt.state)
    do(at, "+reset")
    assert text_read(chat) == "Open."


def test_regen_and_continue_are_for_what_was_answered_last(do):
    at = session(b" A", b" B", max_tokens=1)
    do(at, "Hi", "/gen Once:", "/continue")
    assert at.conversation.aside.text == " A B" and at.conversation.turns[0].text == " A"
    do(at, "/regen", "/undo")
    assert at.conversation.aside.text == " A" and at.conversation.turns == []


def test_settings_inside_a_message_hold_for_it_alone(do):
    at = session()
    seen = []
    at.conversation.ask = lambda message, progress, **changes: seen.append((message, changes)) or 1 / 0
    for line in ("-temp=0.5 Hi there -top_p=0.3", "co-temp=1 is text", "3 -top_p= 4"):
        with pytest.raises((ZeroDivisionError, InputError)):
            handle_line(at, line)
    assert seen == [("Hi there", {"temperature": 0.5, "top_p": 0.3}), ("co-temp=1 is text", {})]
    with pytest.raises(InputError, match="-temp=hot in the message; expected a number"):
        handle_line(at, "x -temp=hot")


def test_settings_are_set_shown_and_checked(do):
    at = session()
    do(at, "/set temperature 0.7", "/set top-p=0.3", "/set seed 5", "/set max_tokens 9", "/set quiet on")
    p = at.conversation.params
    assert (p.temperature, p.top_p, p.seed, p.max_tokens, at.screen.quiet) == (0.7, 0.3, 5, 9, True)
    shown = do(at, "/settings").err
    assert re.search(r"^top_p +0\.3   \(default 0\.5; set by /set\)$", shown, re.M)
    assert re.search(r"^quiet +on$", shown, re.M) and re.search(r"^min_p +0\.0$", shown, re.M)
    do(at, "/set seed none")
    assert at.conversation.params.seed is None
    for line, message in (
        ("/set temperatur 1", "did you mean temperature?"),
        ("/set temperature", "needs one value, as in /set temperature 1.0"),
        ("/set temperature hot", "temperature cannot be 'hot'"),
        ("/set top_p 2", "top_p is 2.0; expected 0 to 1"),
        ("/set max_tokens 1.5", "max_tokens cannot be '1.5'"),
        ("/set quiet maybe", "quiet cannot be 'maybe'"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            handle_line(at, line)
    assert at.conversation.params.temperature == 0.7


def test_a_file_goes_before_the_next_message(do, tmp_path):
    at = session()
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne.\r\n\r\nTwo: 你好\n".encode())
    assert "a.txt: 19 tokens" in do(at, f"/read {path}").err
    do(at, "What is this?")
    assert at.conversation.turns[-1].message == "One.\r\n\r\nTwo: 你好\nWhat is this?"
    assert "Bob: One.\nTwo: 你好\nWhat is this?\n\nAlice:" in text_read(at.conversation)
    do(at, "And?")
    assert at.conversation.turns[-1].message == "And?"


def test_a_message_given_up_while_it_was_read_keeps_the_file_and_the_edit(do):
    at = session()
    do(at, "one", "/edit")
    at.attached = "a file"
    ask = at.conversation.edit

    def given_up(*args, **changes):
        answer = ask(*args, **changes)
        answer.interrupt()
        return answer

    at.conversation.edit = given_up
    assert do(at, "two").out == ""
    assert at.attached == "a file" and at.draft == "one" and at.was_interrupted
    at.conversation.edit = ask
    do(at, "two")
    assert [turn.message for turn in at.conversation.turns] == ["a file\ntwo"] and at.draft is None


def test_an_answer_that_cannot_be_saved_was_given_all_the_same(do, monkeypatch, tmp_path):
    at = session()
    at.open(None, str(tmp_path / "talk"))
    do(at, "/read " + __file__)

    def full(*_, **__):
        raise OutputError("talk", "no room")

    monkeypatch.setattr("rwkv_np.chat.session.save_conversation", full)
    with pytest.raises(OutputError, match="no room"):
        handle_line(at, "What is this?")
    assert len(at.conversation.turns) == 1 and at.attached == ""
    saved = []
    monkeypatch.setattr("rwkv_np.chat.session.save_conversation", lambda *a, **k: saved.append(1))
    do(at, "/settings", "And?", "/settings")
    assert len(saved) == 2  # the failed one, saved with the next line, and one for the next answer


def test_a_file_that_cannot_be_read_is_said_and_nothing_is_attached(tmp_path):
    at = session()
    (tmp_path / "bad").write_bytes(b"abc\xff")
    (tmp_path / "empty").write_bytes(b" \n")
    with pytest.raises(TextError, match="byte 0xFF at offset 3 is not UTF-8"):
        handle_line(at, f"/read {tmp_path / 'bad'}")
    with pytest.raises(InputError, match="the file is empty"):
        handle_line(at, f"/read {tmp_path / 'empty'}")
    with pytest.raises(FileNotFoundError):
        handle_line(at, f"/read {tmp_path / 'none'}")
    assert at.attached == ""


def test_an_edit_takes_the_place_of_the_last_message(do):
    at = session()
    with pytest.raises(InputError, match="no message to edit"):
        handle_line(at, "/edit")
    do(at, "one", "/edit")
    assert at.draft == "one"
    do(at, "zwei")
    assert [turn.message for turn in at.conversation.turns] == ["zwei"] and at.draft is None
    do(at, "/edit drei", "vier")
    assert [turn.message for turn in at.conversation.turns] == ["drei", "vier"]


def test_branches_are_listed_and_switched(do):
    at = session()
    do(at, "one", "/fork side", "two")
    assert do(at, "/switch").err == "  main (1)  one\n* side (2)  two\n"
    assert "Bob: one\nAlice: Hello!" in do(at, "/switch main").err
    with pytest.raises(InputError, match="there is no branch 'x'; there are main, side"):
        handle_line(at, "/switch x")


def test_a_system_text_begins_anew_and_is_shown(do):
    at = session(opening="Old.")
    do(at, "one", "/system A pirate, {bot}, speaks.")
    assert text_read(at.conversation) == "A pirate, Alice, speaks."
    assert do(at, "/system").err == "A pirate, Alice, speaks.\n"


def test_an_opening_that_was_not_read_to_its_end_changes_nothing(do, monkeypatch):
    at = session(opening="Old.")
    do(at, "one")
    at.conversation.model.advance = None
    with pytest.raises(TypeError):
        handle_line(at, "/system New.")
    assert text_read(at.conversation).startswith("Old.\n\nBob: one") and at.conversation.opening == "Old."


def test_tokens_are_shown_with_what_they_stand_for(do):
    err = do(session(), "/tokens hé").err
    assert err.splitlines() == [r"104 'h'  195 b'\xc3'  169 b'\xa9'", "3 tokens, 2 characters"]


def test_help_names_every_command_and_one(do):
    err = do(session(), "/help").err
    assert all(f"\n/{command.name} " in f"\n{err}" for command in commands.COMMANDS)
    assert do(session(), "/help regen").err.startswith("/regen ")


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_says_everything(name):
    english, language = Language("en"), Language(name)
    assert list(language.help) == [command.name for command in commands.COMMANDS]
    assert list(language._messages) == list(english._messages)
    for key, text in english._messages.items():
        assert sorted(re.findall(r"{(\w+)", text)) == sorted(re.findall(r"{(\w+)", language._messages[key])), key


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(monkeypatch, environment, language):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert guess_language() == language


def test_json_lines_hold_text_tokens_reason_and_timings(do):
    at = session(b" Hel", b"lo\n", b"\nBob", screen=JsonScreen)
    (line,) = do(at, "Hi 你").out.splitlines()
    found = json.loads(line)
    assert found.pop("prompt_seconds") >= 0 and found.pop("seconds") >= 0 and "tokens_per_second" in found
    assert found.pop("tokens_per_pass") == 1
    found.pop("tokens_per_second")
    assert found == {
        "message": "Hi 你",
        "text": "Hello",
        "tokens": [400, *b"lo"],
        "stop_reason": "stop",
        "prompt_tokens": len("Bob: Hi 你\n\nAlice:".encode()),
    }
    assert "你" in line


def test_at_a_terminal_an_error_ends_nothing(capsys):
    at = session()
    lines = iter(["/regne", "/load /none/x", KeyboardInterrupt, "Hi", "/exit", "never"])

    class Typed:
        def read(self):
            line = next(lines)
            if line is KeyboardInterrupt:
                raise KeyboardInterrupt
            return line

    repl.run(at, Typed())
    out, err = capsys.readouterr()
    assert out == "Hello!\n" and "Error: /regne is not a command" in err and "/none/x: No such file" in err
    assert next(lines) == "never"


class Typed:
    """Typed lines; an exception in the list is raised."""

    def __init__(self, *lines):
        self.lines = iter(lines)

    def read(self):
        line = next(self.lines)
        if isinstance(line, BaseException):
            raise line
        return line


def raises(error):
    def act(*_, **__):
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("of\nzero"), "Error: ZeroDivisionError: of zero. This is a bug in rwkv_np; "),
        (RecursionError("deep"), "/traceback shows where it happened: please include it"),
        (MemoryError(), "Error: not enough memory; the conversation is unchanged"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), "Error: UnicodeEncodeError"),
        (KeyboardInterrupt(), "[cancelled: nothing was sent]"),
        (OSError(28, "No space left on device", "x"), "Error: x: No space left on device"),
    ],
)
@pytest.mark.parametrize("line", ["/undo", "/load x", "/save x", "Hi", "/stats", "/set top_p 1", "/regen"])
def test_whatever_a_line_meets_the_chat_goes_on_with_the_conversation_that_it_had(
    capsys, monkeypatch, error, said, line
):
    at = session()
    handle_line(at, "one")
    for name in ("answer_again", "undo", "ask", "state"):
        monkeypatch.setattr(at.conversation, name, raises(error))
    for name in ("load_conversation", "save_conversation"):
        monkeypatch.setattr(f"rwkv_np.chat.session.{name}", raises(error))
    monkeypatch.setattr("rwkv_np.chat.actions.parse_setting", raises(error))
    capsys.readouterr()
    repl.run(at, Typed(line, EOFError()))
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and len(err.splitlines()) == 2  # one is the welcome message
    assert [turn.message for turn in at.conversation.turns] == ["one"]


def test_the_traceback_of_a_mistake_is_shown_to_who_asks(capsys, monkeypatch):
    at = session()
    monkeypatch.setattr(at.conversation, "undo", raises(ZeroDivisionError("here")))
    repl.run(at, Typed("/traceback", "/undo", "/traceback", "/help traceback", EOFError()))
    err = capsys.readouterr().err
    assert "Error: no internal error has occurred" in err and "/traceback" in err
    assert "Traceback (most recent call last)" in err and "ZeroDivisionError: here" in err


def test_ctrl_c_while_an_error_is_shown_ends_nothing(capsys, monkeypatch):
    at = session()
    monkeypatch.setattr(at.screen, "error", raises(KeyboardInterrupt()))
    repl.run(at, Typed("/nonsense", "Hi", EOFError()))
    assert capsys.readouterr().out == "Hello!\n"


def test_an_output_that_nobody_reads_ends_the_chat(monkeypatch):
    at = session()
    monkeypatch.setattr(at.screen, "answer", raises(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        repl.run(at, Typed("Hi"))


def test_an_answer_that_failed_half_way_is_no_part_of_the_conversation(capsys, monkeypatch):
    at = session(b" Hel", b"lo")
    handle_line(at, "one")
    logits = at.conversation.model.logits
    monkeypatch.setattr(at.conversation.model, "logits", lambda after: logits(after) if after[-1] != 400 else 1 / 0)
    repl.run(at, Typed("two", EOFError()))
    assert [turn.message for turn in at.conversation.turns] == ["one"]
    assert text_read(at.conversation) == "Bob: one\n\nAlice: Hello"


@pytest.mark.parametrize("mark", ["\ufeff", " \ufeff", "\ufeff "])
def test_a_byte_order_mark_hides_no_command(do, mark):
    at = session()
    do(at, "one", f"{mark}/undo")
    assert at.conversation.turns == []
    do(at, f"{mark}Hi")
    assert at.conversation.turns[0].message == "Hi"


@pytest.mark.parametrize("line", ["/load a\x00b", "/save a\nb", "/read \x1b[2J", "/read ~nobody-of-that-name/x"])
def test_a_name_that_no_file_can_have_is_refused(line):
    with pytest.raises((InputError, FileNotFoundError)):
        handle_line(session(), line)


def test_files_that_do_not_end_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "is a pipe"), ("/dev/zero", "is a device")):
        for command in ("/read", "/load"):
            with pytest.raises(FileError, match=message):
                handle_line(session(), f"{command} {path}")


def test_a_system_text_for_single_rounds_is_refused_with_what_can_be_done_here(do):
    with pytest.raises(InputError, match="start the chat with --template raven") as error:
        handle_line(session(template="qa"), "/system x")
    assert "--system" not in str(error.value)


@pytest.mark.parametrize(("n", "said"), [(0, "[0 tokens, "), (1, "[1 token, "), (2, "[2 tokens, ")])
def test_one_token_is_no_tokens(n, said):
    assert f"[{Language('en').say('answer_rate', tokens=n, rate=1)}]".startswith(said)
    assert Language("zh").say("answer_rate", tokens=n, rate=1).startswith(f"{n} 个 token")


def test_in_a_pipe_the_first_error_ends_it(capsys):
    with pytest.raises(InputError, match="/regne"):
        repl.run_lines(session(), io.StringIO("Hi\n\n/regne\nHo\n"))
    assert capsys.readouterr().out == "Hello!\n"
