"""The page's files: read once at the start into a table of fixed names. So a path in a request never opens a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": b"text/html; charset=utf-8", ".js": b"text/javascript; charset=utf-8", ".mjs": b"text/javascript",
    ".css": b"text/css; charset=utf-8", ".json": b"application/json", ".svg": b"image/svg+xml", ".png": b"image/png",
    ".ico": b"image/x-icon", ".webmanifest": b"application/manifest+json", ".woff2": b"font/woff2",
}  # fmt: skip
# Only scripts, styles and requests of this server are allowed, and text never becomes markup or a script: the output of
# a model cannot run or load anything. index.html repeats this, for the case that another server is in front of this
# one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = (
    (b"content-security-policy", f"{POLICY}; frame-ancestors 'none'".encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # checked every time, and sent only if it changed
)


class PageFile(NamedTuple):
    """A file of the page."""

    data: bytes
    content_type: bytes
    tag: bytes


def read_page(folder: Path = FOLDER) -> dict[str, PageFile]:
    """The files by their paths on the server, "/" for index.html; files of an unknown type are skipped."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            data = path.read_bytes()
            name = "/" + path.relative_to(folder).as_posix()
            tag = b'"%b"' % hashlib.sha256(data).hexdigest()[:20].encode()
            found["/" if name == "/index.html" else name] = PageFile(data, _TYPES[path.suffix], tag)
    return found
