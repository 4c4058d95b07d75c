"""A real browser for the page's tests: Debian's chromium, or the one that RWKV_NP_BROWSER names, and playwright."""

import contextlib
import os
import shutil
import time

import pytest

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 60_000  # milliseconds: only a failure takes that long
BROWSER = os.environ.get("RWKV_NP_BROWSER") or shutil.which("chromium")


@contextlib.contextmanager
def chromium():
    """The browser; the test is skipped where there is none."""
    if not BROWSER:
        pytest.skip("no chromium here: apt-get install chromium, or name one in RWKV_NP_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (no browser of its own)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody at the page. What the console says, other than of a status, is an error of the page's."""

    def __init__(self, browser, url, **options):
        settings = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US", "accept_downloads": True, **options}
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE)
        self.errors, self.foreign = [], []
        self.context.on("request", lambda request: self._note(request.url, url))
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.accept()))
        self.page.goto(url)
        self.see("#input")

    def _hear(self, message):
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _note(self, asked, url):
        if not asked.startswith((url, "blob:", "data:")):
            self.foreign.append(asked)

    def see(self, selector, **options):
        return self.page.wait_for_selector(selector, **options)

    def ready(self):
        """Until the page knows the model."""
        self.see("#line:not(:empty)")
        return self

    def until(self, expression):
        """Until an expression is true. (The driver's own way needs `eval`, which the page's policy forbids.)"""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never so: {expression}"
            self.page.wait_for_timeout(20)

    def write(self, text):
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")

    def ask(self, text):
        """Say something and wait for the whole answer, which is returned."""
        self.write(text)
        self.see("#send.stop", state="detached")
        return self.texts()[-1]

    def idle(self):
        self.see("#send:not(.stop)")

    def texts(self):
        """What the turns say, first to last."""
        return self.page.locator(".turn > .body").all_inner_texts()

    def turn(self, i):
        return self.page.locator(".turn").nth(i)

    def act(self, i, name):
        """Use a button of the turn."""
        self.turn(i).hover()
        self.turn(i).locator(f'[data-act="{name}"]').click()

    def titles(self):
        return self.page.locator("#list .title").all_inner_texts()

    def menu(self, label, row=0):
        self.page.locator("#list li").nth(row).hover()
        self.page.locator("#list .more").nth(row).click()
        self.page.get_by_role("menuitem", name=label, exact=True).click()

    def saved(self, act):
        """The text of the file that `act` lets the browser save, and its name."""
        with self.page.expect_download() as download:
            act()
        return download.value.path().read_text(encoding="utf-8"), download.value.suggested_filename

    def bring(self, name, text):
        """Import a file of that name."""
        files = [{"name": name, "mimeType": "text/plain", "buffer": text.encode()}]
        self.page.set_input_files("#import-file", files=files)
        self.see(".notice")
