"""The page's files: read once at the start into a table of fixed names, so that no path in a request reaches a file."""

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
# Scripts, styles and requests of this server alone, and no text ever becomes markup or a script: whatever a model
# writes, it can run and load nothing. index.html says the same for who puts another server before this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = (
    (b"content-security-policy", f"{POLICY}; frame-ancestors 'none'".encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # asked every time, and sent only where it changed
)


class PageFile(NamedTuple):
    """A file of the page."""

    data: bytes
    content_type: bytes
    tag: bytes


def read_page(folder: Path = FOLDER) -> dict[str, PageFile]:
    """The files by their paths on the server, "/" for index.html; a file of an unknown kind is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            data = path.read_bytes()
            name = "/" + path.relative_to(folder).as_posix()
            tag = b'"%b"' % hashlib.sha256(data).hexdigest()[:20].encode()
            found["/" if name == "/index.html" else name] = PageFile(data, _TYPES[path.suffix], tag)
    return found
