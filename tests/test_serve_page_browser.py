"""The page in a real browser: with the demo model, and with a scripted server."""

import json
import re

import pytest

pytest.importorskip("uvicorn")

from browsing import Visitor, chromium  # noqa: E402
from scripted_server import Frame, HangUp, Hold, Pause, Refuse, ScriptedServer, Thought  # noqa: E402
from serving import NAME, running  # noqa: E402

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def real():
    with running() as made:
        yield made.url.removesuffix("/v1").rstrip("/") + "/"


@pytest.fixture
def visit(browser):
    """Visitors: at the end, the console must be empty, and no other server was contacted."""
    made = []

    def visit(url, is_ready=True, **options):
        made.append(Visitor(browser, url, **options))
        return made[-1].ready() if is_ready else made[-1]

    yield visit
    for visitor in made:
        assert visitor.errors == [] and visitor.foreign == []
        visitor.context.close()


@pytest.fixture
def scripted():
    """A server that answers with `reply` if it is set, otherwise with one word."""
    with ScriptedServer(lambda body: ["Yes."]) as server:
        yield server


# --- with the demo model


def test_a_conversation_in_chinese_is_kept_when_the_page_is_loaded_again(real, visit):
    visitor = visit(real, locale="zh-CN")
    assert "巴黎" in visitor.ask("法国的首都是哪里？")
    assert "北京" in visitor.ask("中国的首都是哪里？")
    assert visitor.page.locator("#line").inner_text() == NAME
    assert visitor.titles() == ["法国的首都是哪里？"]
    before = visitor.texts()
    visitor.page.reload()
    visitor.see(".turn")
    assert visitor.texts() == before and len(before) == 4
    assert visitor.page.locator("html").get_attribute("lang") == "zh-Hans"
    assert visitor.page.locator(".turn.assistant .body").first.get_attribute("lang") == "zh-Hans"


def test_the_number_of_tokens_is_shown(real, visit):
    visitor = visit(real)
    visitor.ask("What is the capital of France?")
    assert re.match(r"\d+ tokens.* · prompt \d+", visitor.page.locator(".figures").inner_text())


def test_regenerate_and_edit_make_versions(real, visit):
    visitor = visit(real)
    visitor.ask("What is the capital of France?")
    visitor.act(1, "regenerate")
    visitor.see(".turn.assistant .versions >> text=2/2")
    visitor.idle()
    visitor.act(0, "edit")
    visitor.page.fill(".editor textarea", "What is the capital of Peru?")
    visitor.page.press(".editor textarea", "Control+Enter")
    visitor.see(".turn.user .versions >> text=2/2")
    visitor.idle()
    assert "Lima" in visitor.texts()[1]
    visitor.act(0, "earlier")
    assert visitor.texts()[0] == "What is the capital of France?" and "Paris" in visitor.texts()[1]
    visitor.page.reload()
    visitor.see(".turn.user .versions >> text=1/2")
    assert "Paris" in visitor.texts()[1]


def test_an_edited_answer_is_what_the_model_reads(real, visit):
    visitor = visit(real)
    visitor.ask("What is the capital of France?")
    visitor.act(1, "edit")
    visitor.page.fill(".editor textarea", "The capital of France is")
    visitor.page.click(".editor .main")
    assert visitor.texts()[1] == "The capital of France is"
    visitor.act(1, "goOn")
    visitor.until("document.querySelectorAll('.turn')[1].innerText.includes('Paris')")
    assert visitor.texts()[1].startswith("The capital of France is Paris")
    assert visitor.turn(1).locator(".versions").inner_text().strip() == "2/2"


def test_stop_ends_a_story_and_continue_continues_it(real, visit):
    visitor = visit(real)
    visitor.page.click("#settings")
    visitor.page.fill("#set-max_tokens", "8")
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Escape")
    cut = visitor.ask("Tell me a story.")
    assert "limit" in visitor.page.locator(".figures").inner_text()
    visitor.act(1, "goOn")
    visitor.until(f"document.querySelector('.assistant .body').innerText.length > {len(cut) + 5}")
    visitor.idle()
    assert visitor.texts()[1].startswith(cut)


# --- requests


def test_the_request_has_the_settings_the_system_text_and_the_shown_versions(scripted, visit):
    scripted.thinks = True
    visitor = visit(scripted.url)
    visitor.page.click(".system summary")
    visitor.page.fill("#system-text", "Be brief.")
    visitor.page.click("#settings")
    for name, value in (("temperature", "0.3"), ("top_k", "20"), ("seed", "5"), ("max_tokens", "99")):
        visitor.page.fill(f"#set-{name}", value)
    visitor.page.select_option("#set-think", "short")
    visitor.page.keyboard.press("Escape")
    visitor.ask("one")
    body = scripted.asked[-1]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    expected = {"temperature": 0.3, "top_k": 20, "seed": 5, "max_completion_tokens": 99, "think": "short"}
    assert {name: body[name] for name in expected} == expected
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True} and body["model"] == "scripted"
    visitor.act(1, "goOn")
    visitor.until("document.querySelector('.assistant .body').innerText === 'Yes.Yes.'")
    body = scripted.asked[-1]
    assert body["continue_final_message"] is True and body["messages"][-1] == {"role": "assistant", "content": "Yes."}
    visitor.page.reload()
    visitor.see(".turn")
    assert visitor.page.locator("#system-text").input_value() == "Be brief."


def test_enter_of_an_input_method_sends_nothing(scripted, visit):
    visitor = visit(scripted.url, locale="ja")
    page = visitor.page
    page.click("#input")
    session = visitor.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3})
    # The Enter that accepts a candidate, as sent by Chrome and by Safari.
    for fields in ("key: 'Enter', isComposing: true", "key: 'Enter', keyCode: 229"):
        page.evaluate(
            f"document.querySelector('#input').dispatchEvent(new KeyboardEvent('keydown', "
            f"{{{fields}, bubbles: true, cancelable: true}}))"
        )
    assert page.locator(".turn").count() == 0 and page.input_value("#input") == "にほん"
    session.send("Input.insertText", {"text": "日本"})
    assert page.input_value("#input") == "日本" and scripted.asked == []
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("x")
    page.keyboard.press("Enter")
    visitor.see(".turn.assistant")
    assert visitor.texts()[0] == "日本\nx"


def test_enter_of_an_input_method_does_not_end_renaming_or_editing(scripted, visit):
    visitor = visit(scripted.url)
    visitor.ask("one")
    visitor.menu("Rename")
    page = visitor.page
    enter = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, ctrlKey: true, bubbles: true})"
    page.evaluate(f"document.querySelector('.rename').dispatchEvent({enter})")
    page.fill(".rename", "名前")
    page.press(".rename", "Enter")
    assert visitor.titles() == ["名前"]
    visitor.act(0, "edit")
    page.fill(".editor textarea", "two")
    page.evaluate(f"document.querySelector('.editor textarea').dispatchEvent({enter})")
    assert page.locator(".editor").count() == 1 and len(scripted.asked) == 1


# --- streams


def test_stop_keeps_the_text_so_far_and_cancels_the_request(scripted, visit):
    scripted.reply = lambda body: ["Some words", Hold()]
    visitor = visit(scripted.url)
    visitor.write("go")
    visitor.see(".assistant >> text=Some words")
    assert visitor.page.locator("#send").get_attribute("aria-label") == "Stop"
    visitor.page.keyboard.press("Escape")
    visitor.idle()
    assert visitor.texts()[1] == "Some words" and "Stopped" in visitor.page.locator(".figures").inner_text()
    visitor.page.wait_for_timeout(300)
    assert scripted.hung_up
    visitor.page.reload()
    visitor.see(".turn.assistant")
    assert visitor.texts()[1] == "Some words"


def test_nothing_changes_while_an_answer_is_generated_and_no_edit_is_lost(scripted, visit):
    visitor = visit(scripted.url)
    visitor.ask("one")
    visitor.act(0, "edit")
    visitor.page.fill(".editor textarea", "another one")
    scripted.reply = lambda body: ["wait", Hold()]
    visitor.write("two")
    visitor.see(".assistant >> text=wait")
    assert visitor.page.locator('.foot [data-act="edit"], .foot [data-act="regenerate"]').count() == 0
    visitor.page.click(".editor .main")
    assert visitor.page.locator(".editor textarea").input_value() == "another one"
    scripted.release.set()
    visitor.idle()
    visitor.page.click(".editor .main")
    visitor.see(".turn.user .versions >> text=2/2")
    visitor.idle()
    assert visitor.texts() == ["another one", "wait"]


def test_an_answer_continues_while_another_conversation_is_shown(scripted, visit):
    scripted.reply = lambda body: ["slow ", Hold(), "end"] if "first" in str(body) else ["quick"]
    visitor = visit(scripted.url)
    visitor.write("first")
    visitor.see(".assistant >> text=slow")
    visitor.page.keyboard.press("Control+Shift+O")
    assert visitor.ask("second") == "quick"
    visitor.see("#list .running")
    scripted.release.set()
    visitor.see("#list .running", state="detached")
    visitor.page.click("#list >> text=first")
    assert visitor.texts() == ["first", "slow end"]


def test_thinking_is_collapsed_and_shows_its_seconds(scripted, visit):
    scripted.thinks = True
    scripted.reply = lambda body: [Thought("Let me **see**."), Pause(1.1), Hold(), "Done."]
    visitor = visit(scripted.url)
    visitor.write("think")
    visitor.see("summary >> text=Thinking…")
    assert visitor.page.locator(".thought").get_attribute("open") is None
    scripted.release.set()
    visitor.see("summary >> text=/Thought for [1-9][.0-9]* s/")
    visitor.page.click(".thought summary")
    assert visitor.page.locator(".thought strong").inner_text() == "see"
    assert visitor.texts()[1] == "Done."


def test_the_page_stays_where_the_reader_scrolls_to(scripted, visit):
    scripted.reply = lambda body: [*("line\n\n" for _ in range(60)), Hold(), *("more\n\n" for _ in range(60))]
    visitor = visit(scripted.url)
    page = visitor.page
    visitor.write("go")
    visitor.until("document.querySelectorAll('.assistant p').length >= 60")
    gap = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroller'))"
    visitor.until(f"{gap} < 5")
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -600)
    visitor.see("#latest:not([hidden])")
    page.wait_for_timeout(300)
    top = page.evaluate("document.querySelector('#scroller').scrollTop")
    scripted.release.set()
    visitor.idle()
    assert page.evaluate("document.querySelector('#scroller').scrollTop") == top
    page.click("#latest")
    assert page.evaluate(gap) < 5


def test_markdown_is_the_same_however_the_text_is_split(scripted, visit):
    text = (
        "# Title\n\n- a\n  1. b **c**\n- d\n\n| x | y |\n|--|:-:|\n| `1` | *2* |\n\n```py\nif a < b:\n    pass\n```\n\n"
        "> q\n> r\n\nline\nnext [l](https://example.org) ~~s~~\n\n$$\na*b*c\n$$\n"
    )
    shapes = []
    visitor = visit(scripted.url)
    for size in (1, 7, len(text)):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        scripted.reply = lambda body: [step for piece in pieces for step in (piece, Pause(0.003))]
        visitor.ask("go")
        shapes.append(visitor.page.locator(".markdown").last.evaluate("node => node.innerHTML"))
    assert shapes[0] == shapes[1] == shapes[2]
    found = visitor.page.locator(".markdown").last
    for selector in ("h3", "ul > li ol strong", "table th.center", "td code", "pre code", "blockquote", "del", ".math"):
        assert found.locator(selector).count() >= 1, selector
    link = found.locator("a")
    assert link.get_attribute("href") == "https://example.org/" and "noopener" in link.get_attribute("rel")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    found.locator(".code button").click()
    visitor.see('.code button[aria-label="Copied"]')
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "if a < b:\n    pass"


def test_a_settled_block_is_not_touched_while_the_next_one_grows(scripted, visit):
    scripted.reply = lambda body: ["first\n\n", "second", Hold(), *(f" word{i}" for i in range(50)), "\n\nthird"]
    visitor = visit(scripted.url)
    visitor.write("go")
    visitor.see(".assistant >> text=second")
    visitor.page.evaluate("""() => {
        window.changed = 0;
        const look = new MutationObserver((changes) => { window.changed += changes.length; });
        look.observe(document.querySelector('.assistant p'), {childList: true, characterData: true, subtree: true});
        window.second = document.querySelectorAll('.assistant p')[1].firstChild;
    }""")
    scripted.release.set()
    visitor.idle()
    assert visitor.page.evaluate("window.changed") == 0
    assert visitor.page.evaluate("window.second.isConnected && window.second.data.endsWith('word49')")


# --- errors


def test_a_key_is_requested_and_kept_as_long_as_chosen(scripted, visit):
    scripted.key = "secret-key"
    for is_kept in (False, True):
        visitor = visit(scripted.url, is_ready=False)
        visitor.see("#key-field")
        visitor.page.fill("#key-field", "wrong-key")
        visitor.page.keyboard.press("Enter")
        visitor.see(".key .wrong")
        visitor.page.fill("#key-field", "secret-key")
        visitor.page.set_checked("#key-keep", is_kept)
        visitor.page.keyboard.press("Enter")
        visitor.ready()
        assert visitor.ask("hello") == "Yes."
        kept = visitor.page.evaluate("[sessionStorage['rwkv-np.key'] ?? null, localStorage['rwkv-np.key'] ?? null]")
        assert kept == ([None, "secret-key"] if is_kept else ["secret-key", None])
        visitor.page.click("#settings")
        visitor.page.click("text=Forget the key")
        assert visitor.page.evaluate("'rwkv-np.key' in sessionStorage || 'rwkv-np.key' in localStorage") is False


@pytest.mark.parametrize(("status", "seconds"), [(429, 3), (503, 1)])
def test_a_busy_server_is_retried_after_the_time_that_it_gives(scripted, visit, status, seconds):
    answers = iter([[Refuse(status, "too much", {"Retry-After": str(seconds)})], ["There."]])
    scripted.reply = lambda body: next(answers)
    visitor = visit(scripted.url)
    visitor.write("go")
    for left in range(seconds, 0, -1):
        visitor.see(f"#line >> text=The server is busy. Trying again in {left} s.")
    visitor.see(".assistant >> text=There.")
    assert len(scripted.asked) == 2


def test_waiting_for_a_busy_server_can_be_stopped(scripted, visit):
    scripted.reply = lambda body: [Refuse(429, "too much", {"Retry-After": "60"})]
    visitor = visit(scripted.url)
    visitor.write("go")
    visitor.see("#line >> text=The server is busy.")
    visitor.page.click("#send")
    visitor.idle()
    assert visitor.texts() == ["go"] and len(scripted.asked) == 1


@pytest.mark.parametrize(
    ("steps", "title", "words"),
    [
        ([Refuse(400, "temperature is 9; expected 0 to 2")], "No answer", "temperature is 9; expected 0 to 2"),
        ([Refuse(502, "")], "No answer", "status 502"),
        (["half", Frame({"error": {"message": "out of memory"}})], "The answer is incomplete", "out of memory"),
        (["half", HangUp()], "The answer is incomplete", "The connection was lost."),
    ],
)
def test_an_error_shows_the_servers_message_and_a_retry_button(scripted, visit, steps, title, words):
    scripted.reply = lambda body: steps
    visitor = visit(scripted.url)
    visitor.write("go")
    error = visitor.see(".error").inner_text()
    assert title in error and words in error
    assert visitor.texts() == (["go", "half"] if steps[0] == "half" else ["go"])
    scripted.reply = lambda body: [" whole"]
    visitor.page.click(".error button")
    visitor.until("document.querySelector('.assistant')?.innerText.includes('whole')")
    assert visitor.page.locator(".error").count() == 0
    assert scripted.asked[-1].get("continue_final_message", False) == (steps[0] == "half")


def test_a_stopped_server_is_reported(browser):
    with ScriptedServer(lambda body: ["Yes."]) as server:
        visitor = Visitor(browser, server.url).ready()
    visitor.write("hello")
    assert "cannot be reached" in visitor.see(".error").inner_text()
    visitor.context.close()


def test_a_server_that_was_not_reachable_at_the_start_is_retried(scripted, visit):
    visitor = visit(scripted.url)
    page = visitor.page
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    assert "cannot be reached" in visitor.see(".error").inner_text()
    page.unroute("**/v1/models")
    page.click(".error button")
    visitor.ready()
    assert page.locator(".error").count() == 0


# --- the list


def test_conversations_can_be_searched_renamed_removed_and_restored(scripted, visit):
    visitor = visit(scripted.url)
    page = visitor.page
    for text in ("apples", "pears", "plums"):
        visitor.ask(text)
        page.click("#new")
    assert visitor.titles() == ["plums", "pears", "apples"]
    page.fill("#search", "yes PEAR")
    assert visitor.titles() == ["pears"]
    page.fill("#search", "no such")
    assert page.locator("#list").inner_text() == "Nothing found."
    page.fill("#search", "")
    visitor.menu("Rename", row=2)
    page.fill(".rename", "Fruit")
    page.press(".rename", "Enter")
    assert visitor.titles() == ["plums", "pears", "Fruit"]
    visitor.menu("Delete", row=1)
    assert visitor.titles() == ["plums", "Fruit"]
    page.click(".notice >> text=Undo")
    assert sorted(visitor.titles()) == ["Fruit", "pears", "plums"] and visitor.texts() == ["pears", "Yes."]
    visitor.menu("Delete", row=[*visitor.titles()].index("plums"))
    page.reload()
    visitor.see("#list .title")
    assert sorted(visitor.titles()) == ["Fruit", "pears"]


def test_what_is_exported_can_be_imported(scripted, visit):
    visitor = visit(scripted.url)
    visitor.ask("**one** / two")
    visitor.act(1, "regenerate")
    visitor.see(".versions >> text=2/2")
    visitor.idle()
    text, name = visitor.saved(lambda: visitor.menu("Export as JSON"))
    markdown, other = visitor.saved(lambda: visitor.menu("Export as Markdown"))
    assert (name, other) == ("one two.json", "one two.md") and "**You**\n\n**one** / two" in markdown
    everything, _ = visitor.saved(lambda: (visitor.page.click("#settings"), visitor.page.click("text=Export all")))
    assert json.loads(everything)["conversations"] == json.loads(text)["conversations"]
    guest = visit(scripted.url)
    guest.bring("talk.json", text)
    guest.see(".versions >> text=2/2")
    guest.bring("talk.md", markdown)
    assert guest.texts() == ["**one** / two", "Yes."] and len(guest.titles()) == 2
    guest.bring("talk.txt", "nothing of ours")
    assert "talk.txt was not imported" in guest.page.locator(".notice").last.inner_text()
    guest.page.reload()
    guest.see("#list .title")
    assert len(guest.titles()) == 2


def test_another_tab_has_the_same_conversations(scripted, visit):
    visitor = visit(scripted.url)
    other = visitor.context.new_page()
    other.goto(scripted.url)
    other.wait_for_selector("#line:not(:empty)")
    visitor.ask("hello")
    other.wait_for_selector("#list .title >> text=hello")


def test_without_a_database_the_page_works_and_shows_a_note(scripted, browser):
    context = browser.new_context(locale="en")
    context.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    page = context.new_page()
    page.goto(scripted.url)
    page.wait_for_selector(".notice >> text=does not let the page store anything")
    page.fill("#input", "hello")
    page.press("#input", "Enter")
    page.wait_for_selector(".assistant >> text=Yes.")
    assert page.locator("#list .title").count() == 1
    context.close()


# --- untrusted text


def test_nothing_in_a_text_is_run_or_loaded(scripted, visit):
    evil = (
        f"{EVIL}\n\n[x](javascript:alert(4)) ![p](https://example.org/p.png) <a href=javascript:alert(5)>y</a>\n\n"
        f"```{EVIL.replace('`', '')}\n{EVIL}\n```\n\n| {EVIL} |\n|---|\n| {EVIL} |\n\n# {EVIL}\n\n- {EVIL}\n"
    )
    scripted.reply = lambda body: [Thought(EVIL), *evil]
    visitor = visit(scripted.url)
    visitor.ask(EVIL)
    turns = [{"id": "1", "parent": "", "role": "user", "text": EVIL, "model": EVIL, "finish": EVIL}]
    turns.append({"id": "2", "parent": "1", "role": "assistant", "text": evil, "model": EVIL, "thought": EVIL})
    visitor.bring(f"{EVIL}.json".replace("/", ""), json.dumps({"turns": turns, "title": EVIL, "system": EVIL}))
    visitor.bring(f"{EVIL}.txt".replace("/", ""), EVIL)
    visitor.menu("Rename")
    visitor.page.fill(".rename", EVIL)
    visitor.page.press(".rename", "Enter")
    visitor.menu("Delete")
    visitor.page.click(".notice >> text=Undo")
    scripted.reply = lambda body: [Refuse(400, EVIL)]
    visitor.write(EVIL)
    assert EVIL in visitor.see(".error").inner_text()
    page = visitor.page
    assert page.locator("#frame script, #frame iframe, #frame object, #frame img:not([src='icon.svg'])").count() == 0
    hrefs = page.eval_on_selector_all("#frame a", "nodes => nodes.map((node) => node.href)")
    assert all(href.startswith("https://example.org/") for href in hrefs) and hrefs


def test_the_policy_blocks_what_an_attack_would_need(scripted, visit):
    visitor = visit(scripted.url)
    page = visitor.page
    assert page.evaluate("() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; } }")
    # With a delay: the policy does not apply to code that a debugger runs directly.
    later = "new Promise((done) => setTimeout(() => { try { done(eval('1')); } catch (error) { done(error.name); } }))"
    assert page.evaluate(later) == "EvalError"
    page.evaluate("""() => {
        const node = document.createElement("button");
        try { node.setAttribute("onclick", "window.ran = true"); } catch { }
        const script = document.createElement("script");
        try { script.textContent = "window.ran = true"; } catch { }
        document.body.append(node, script);
        node.click();
    }""")
    assert page.evaluate("window.ran ?? null") is None
    refused = page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert refused == "refused" and any("Content Security Policy" in error for error in visitor.errors)
    visitor.errors.clear()


# --- looks


@pytest.mark.parametrize("locale", ["en-US", "zh-CN", "ja-JP"])
def test_a_phones_width_needs_no_scrolling_sideways(scripted, visit, locale):
    table = "| a " * 30 + "|\n" + "|---" * 30 + "|"
    wide = "word" * 100 + "\n\n```\n" + "x" * 300 + f"\n```\n\n{table}\n\n`" + "y" * 200 + "`"
    scripted.reply = lambda body: [Thought("z" * 200), wide]
    visitor = visit(scripted.url, locale=locale, **PHONE)
    page = visitor.page
    fits = "document.documentElement.scrollWidth <= 360 && document.querySelector('#scroller').scrollWidth <= 360"
    assert page.evaluate(fits)
    page.fill("#input", "w" * 200)
    page.keyboard.press("Enter")  # a new line: phones have no Shift+Enter
    assert page.input_value("#input").endswith("\n") and scripted.asked == []
    page.click("#send")
    visitor.see(".assistant .wide")
    visitor.idle()
    page.click(".thought summary")
    assert page.evaluate(fits)
    page.click("#settings")
    assert page.evaluate(f"{fits} && document.querySelector('dialog').scrollWidth <= 360")
    page.keyboard.press("Escape")
    page.click("#open-list")
    visitor.see("#list .title")
    assert page.evaluate(fits) and page.evaluate("document.querySelector('#page').inert")
    page.keyboard.press("Escape")
    visitor.see("#open-list[aria-expanded=false]")


def test_dark_and_light_follow_the_system_until_the_user_chooses(scripted, visit):
    visitor = visit(scripted.url, color_scheme="dark")
    page = visitor.page
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert dark != light
    page.click("#theme")
    assert page.evaluate(ground) == dark
    page.reload()
    visitor.ready()
    assert page.evaluate(ground) == dark
    page.click("#settings")
    page.select_option("#set-theme", "auto")
    assert page.evaluate(ground) == light


def test_three_languages_and_a_switch(scripted, visit):
    for locale, send in (("en-GB", "Send"), ("zh-TW", "发送"), ("ja-JP", "送信"), ("fr-FR", "Send")):
        assert visit(scripted.url, locale=locale).page.locator("#send").get_attribute("aria-label") == send
    visitor = visit(scripted.url)
    visitor.page.click("#settings")
    visitor.page.select_option("#set-language", "ja")
    assert visitor.page.locator("#dialog-title").inner_text() == "設定"
    assert visitor.page.evaluate("document.activeElement.id") == "set-language"
    visitor.page.keyboard.press("Escape")
    visitor.page.reload()
    visitor.ready()
    assert visitor.page.get_attribute("html", "lang") == "ja"
    assert visitor.page.get_attribute("#input", "placeholder") == "メッセージを入力"


def test_everything_can_be_reached_with_the_keyboard(scripted, visit):
    visitor = visit(scripted.url)
    page = visitor.page
    focused = "document.activeElement.id"
    visitor.ask("hello")
    page.keyboard.press("Control+k")
    assert page.evaluate(focused) == "search"
    page.locator("#theme").focus()
    page.keyboard.press("/")
    assert page.evaluate(focused) == "input" and page.input_value("#input") == ""
    page.keyboard.press("ArrowUp")
    assert page.locator(".editor textarea").input_value() == "hello"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.act") == "edit"
    page.locator("#settings").focus()
    page.keyboard.press("Enter")
    visitor.see("dialog[open]")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "settings"
    page.locator("#list .more").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Rename"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.textContent") == "Delete"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").endswith("more")


def test_each_button_and_field_has_a_name(scripted, visit):
    scripted.thinks = True
    scripted.reply = lambda body: [Thought("hm"), "```\nx\n```"]
    visitor = visit(scripted.url)
    visitor.ask("hello")
    visitor.page.click("#settings")
    nameless = visitor.page.evaluate("""() => [...document.querySelectorAll('button, input, textarea, select')].filter(
        (node) => !(node.hidden || node.textContent.trim() && node.tagName === 'BUTTON' || node.ariaLabel
            || node.labels?.length)).map((node) => node.outerHTML)""")
    assert nameless == []
