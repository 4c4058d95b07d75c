"""The page's files: nothing from other servers, nothing inline, no missing file; and the tests of its modules.

Tests that need a browser are in test_serve_page_browser.py.
"""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rwkv_np.chat.defaults import DEFAULTS
from rwkv_np.serve.page_files import FOLDER, HEADERS, POLICY, read_page

HERE = Path(__file__).parent
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
MODULES = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


class Elements(HTMLParser):
    """The elements of a document, as (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


INDEX = Elements(SOURCES["index.html"]).found


def test_index_has_the_policy_of_the_server_and_nothing_inline():
    metas = [attributes for tag, attributes in INDEX if tag == "meta"]
    assert [each["content"] for each in metas if each.get("http-equiv")] == [POLICY]
    for tag, attributes in INDEX:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")], attributes
        assert tag not in ("style", "iframe", "object", "embed", "base")
        assert tag != "script" or set(attributes) <= {"src", "type"} and attributes["src"]


def test_the_policy_allows_scripts_and_requests_of_this_server_only():
    rules = dict(rule.strip().split(" ", 1) for rule in dict(HEADERS)[b"content-security-policy"].decode().split(";"))
    assert rules["default-src"] == "'none'" and rules["frame-ancestors"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules["img-src"] == "'self' data:"
    assert rules["require-trusted-types-for"] == "'script'" and rules["trusted-types"] == "'none'"


def test_every_referenced_file_exists_and_every_file_is_referenced():
    names = {attributes.get("src") or attributes.get("href") for _, attributes in INDEX} - {None}
    named = {name for name in names if not name.startswith("#")}
    for text in MODULES.values():
        imports = re.findall(r'^(?:import|export) .*?from "\./([\w.]+)";$', text, re.M)
        assert len(imports) == len(re.findall(r"^import ", text, re.M)), "an import that is not of this folder"
        named |= set(imports)
    assert named | {"index.html"} == set(SOURCES)
    assert set(read_page()) == {"/", *(f"/{name}" for name in named)}


def test_nothing_comes_from_another_server():
    for name, text in SOURCES.items():
        plain = text.replace("http://www.w3.org/2000/svg", "")  # a namespace name, which is never requested
        assert not re.findall(r"""(?:https?:|["'(])//[a-z0-9-]+\.[a-z]{2,}""", plain), name
    assert not re.search(r"@import|url\(", SOURCES["style.css"])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_creates_no_markup_and_runs_no_text(name):
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    assert not re.search(rf'{markup}|\beval\(|new Function|\bon\w+ = "', MODULES[name])
    assert max(map(len, MODULES[name].splitlines())) <= 120


def test_every_used_text_exists_and_every_text_is_used():
    keys = set(re.findall(r"^    (\w+):", MODULES["texts_en.js"], re.M))
    code = "\n".join(text for name, text in SOURCES.items() if not name.startswith("texts_"))
    used = set(re.findall(r'\bt\("(\w+)"', code)) | set(re.findall(r'data-(?:t|label|hint)="(\w+)"', code))
    assert used <= keys
    # Some names are composed in the code: `${name}Hint`, think_${value}.
    for key in keys - used:
        made = re.fullmatch(r"(\w+)Hint|(?:think|theme|language|key)_(\w+)", key)
        assert made or re.search(rf'"{key}"|\b{key}: {{', code) or f'? "{key}"' in code, key


def test_the_modules_tests_pass(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here, which runs the tests of the page's modules")
    shutil.copytree(FOLDER, tmp_path / "rwkv_np/serve/page")
    shutil.copytree(HERE / "page", tmp_path / "tests/page")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    files = sorted(str(path) for path in (tmp_path / "tests/page").glob("*.test.mjs"))
    assert len(files) == 6
    done = subprocess.run([node, "--test", *files], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


def test_the_defaults_are_those_of_the_chat(tmp_path):
    """Without node, from the source text: the table is a few lines of numbers."""
    text = MODULES["settings.js"]
    tables = {}
    for name, base, fields in re.findall(r"^const (\w+) = \{(?: \.\.\.(\w+),)?([^}]*)\};", text, re.M):
        if name not in ("RAVEN", "WORLD", "G1"):
            continue
        own = {key: float(value) for key, value in re.findall(r"(\w+): ([\d.]+)", fields)}
        tables[name] = {**tables.get(base, {}), **own}
    families = dict(re.findall(r"(\w+): (RAVEN|WORLD|G1)", text))
    assert set(families) == set(DEFAULTS)
    for family, table in families.items():
        expected = {key: getattr(DEFAULTS[family].params, key) for key in tables[table]}
        assert tables[table] == expected and len(expected) == 7, family


def test_index_gives_each_control_a_name():
    for tag, attributes in INDEX:
        if tag in ("button", "input", "textarea") and attributes.get("id") not in ("send", "theme"):  # named by app.js
            assert "data-label" in attributes, attributes
