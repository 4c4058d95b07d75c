"""Gather running prose for the prose model: the documentation in packages of Debian 12.

    python tools/prose_text.py prose/ --debs prose-debs/

writes prose/training.txt, prose/held-out.txt, prose/calibration.txt and prose/sources.tsv. It needs a
Debian 12 with `apt-get` and `dpkg-deb`, no rights of root, 1 GB and the network; packages that already
lie in the folder are not downloaded again.

Only sentences count: what a page has in paragraphs and items of lists. Code, tables, names and whatever
stands in two pages are left out, so that there is nothing to learn by heart. A document is a page; no
paragraph of a held-out page occurs in the training text. Held-out pages come only from packages whose
licence lets us commit them (`prose_sources.tsv`).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from vocabulary import END_OF_TEXT

from rwkv_np.cli import Command

SOURCES = Path(__file__).with_name("prose_sources.tsv")
N_KEPT = 150_000  # characters of the held-out text, and of the text for calibration
PAGE = (2000, 12_000)  # characters of a held-out page: long enough for a context, short enough for variety
IN_TRAINING = 0.02  # a held-out page is dropped if more of its word sequences occur in the training text
N_WORDS = 12  # of such a sequence
SHORTEST = 300  # characters of a page of the training text: most shorter ones are a generator's phrases
PER_PACKAGE = 15_000  # characters of held-out pages from one package, so that no subject rules
PAGES = re.compile(r"\.x?html?(\.gz)?$")
# Lists of names, sources, and what another folder of the package has again.
SKIPPED = re.compile(
    r"/(core|alloc|src|_modules|genindex|search|manual/(?!en))|/[^/]*\.(?!en)[a-z]{2}(-[a-z]{2})?\.html"
)
NOT_TEXT = re.compile(r"<!--.*?-->|<(head|script|style|pre|nav|table|footer)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
BLOCK = re.compile(
    r"<(?:p|li|dd)\b[^>]*>(.*?)(?=</?(?:p|li|ul|ol|dl|dd|dt|div|h[1-6]|td|tr|blockquote|section|body)\b)",
    re.DOTALL | re.IGNORECASE,
)
TAG = re.compile(r"<[^>]*>")
COMMON = frozenset("the of to and a in is it for that be with as are on this by or an if not can will you from".split())
OF_PROSE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.'")


@dataclass(frozen=True)
class Source:
    """A package, and whether pages of it may be committed."""

    package: str
    licence: str
    may_be_committed: bool


@dataclass(frozen=True)
class Page:
    """A page's name inside its package, and its paragraphs of prose."""

    source: Source
    name: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(self.paragraphs) + "\n"

    @property
    def order(self) -> bytes:
        """A random but lasting place among the pages."""
        return hashlib.sha256(f"{self.source.package} {self.name}".encode()).digest()


def sources() -> list[Source]:
    with SOURCES.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [Source(row["package"], row["licence"], row["may_be_committed"] == "yes") for row in rows]


def is_prose(text: str) -> bool:
    """Sentences in English: a full stop, common words, few digits and signs."""
    if len(text) < 60 or text[-1] not in ".!?:)" or not text.isascii():
        return False
    words = text.lower().split()
    n_common = sum(word in COMMON for word in words)
    n_letters = sum(letter in OF_PROSE for letter in text)
    return n_letters >= 0.94 * len(text) and n_common >= max(3, 0.18 * len(words)) and max(map(len, words)) < 60


def prose(page: str) -> Iterator[str]:
    """The paragraphs of prose of an HTML page, each on one line."""
    for block in BLOCK.findall(NOT_TEXT.sub(" ", page)):
        text = " ".join(html.unescape(TAG.sub("", block)).replace("\u2019", "'").replace("\u00b6", "").split())
        text = re.sub("[\u201c\u201d]", '"', text).replace("\u2014", " - ").replace("\u2013", "-")
        if is_prose(text):
            yield text


def pages(source: Source, folder: Path) -> list[Page]:
    """The pages of a package that have prose, in the order of their names."""
    deb = next(folder.glob(f"{source.package}_*.deb"))
    raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, tuple[str, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            if member.isfile() and PAGES.search(member.name) and not SKIPPED.search(member.name):
                data = archive.extractfile(member).read()  # type: ignore[union-attr]
                data = gzip.decompress(data) if member.name.endswith(".gz") else data
                found[member.name.removeprefix("./usr/share/")] = tuple(prose(data.decode("utf-8", "replace")))
    return [Page(source, name, found[name]) for name in sorted(found) if found[name]]


def without_repeats(found: list[Page]) -> list[Page]:
    """Each paragraph only where it occurs first; two that differ in digits alone count as one."""
    seen: set[str] = set()
    left = []
    for page in found:
        new = []
        for paragraph in page.paragraphs:
            key = re.sub(r"[^a-z]+", " ", paragraph.lower())
            if key not in seen:
                seen.add(key)
                new.append(paragraph)
        if new:
            left.append(Page(page.source, page.name, tuple(new)))
    return left


def candidates(found: list[Page]) -> list[Page]:
    """Pages for the held-out text in a random order, twice as many as needed."""
    room = {page.source.package: PER_PACKAGE for page in found}
    chosen: list[Page] = []
    for page in sorted(found, key=lambda page: page.order):
        size = len(page.text)
        if page.source.may_be_committed and PAGE[0] <= size <= PAGE[1] and room[page.source.package] >= size:
            room[page.source.package] -= size
            chosen.append(page)
        if sum(len(page.text) for page in chosen) > 4 * N_KEPT:
            break
    return chosen


def sequences(text: str) -> Iterator[int]:
    """A number for each sequence of N_WORDS words."""
    words = re.findall(r"[a-z]+", text.lower())
    return (hash(tuple(words[i : i + N_WORDS])) for i in range(len(words) - N_WORDS + 1))


def unknown(chosen: list[Page], training: list[Page]) -> list[Page]:
    """The chosen pages of which hardly any sequence of words occurs in the training text."""
    kept = {page.name: set(sequences(page.text)) for page in chosen}
    watched = set().union(*kept.values())
    known = {number for page in training for number in sequences(page.text) if number in watched}
    return [page for page in chosen if len(kept[page.name] & known) <= IN_TRAINING * len(kept[page.name])]


def split(chosen: list[Page]) -> dict[str, list[Page]]:
    """The pages of the two texts; each has N_KEPT characters."""
    parts: dict[str, list[Page]] = {"held-out": [], "calibration": []}
    rest = iter(chosen)
    for part in parts.values():
        while sum(len(page.text) for page in part) < N_KEPT:
            part.append(next(rest))
    return parts


def joined(part: list[Page]) -> str:
    return "".join(page.text + END_OF_TEXT for page in part)


def write_sources(path: Path, parts: dict[str, list[Page]]) -> None:
    """One row for each held-out page: the text that it is in, its characters, package, licence and name."""
    rows = [
        f"{name}\t{len(page.text)}\t{page.source.package}\t{page.source.licence}\t{page.name}\n"
        for name, part in parts.items() for page in part
    ]  # fmt: skip
    path.write_text("text\tcharacters\tpackage\tlicence\tpage\n" + "".join(rows))


def download(packages: list[Source], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [source.package for source in packages if not any(folder.glob(f"{source.package}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)


@click.command(cls=Command, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--debs", default=Path("prose-debs"), type=click.Path(path_type=Path), help="Folder for the packages.")
def command(out: Path, debs: Path) -> None:
    """Gather the text of the prose model into the folder OUT."""
    packages = sources()
    download(packages, debs)
    with ProcessPoolExecutor() as pool:
        lists = pool.map(pages, packages, [debs] * len(packages))
        found = without_repeats([page for several in lists for page in several])
    chosen = candidates(found)
    held_out = {page.order for page in chosen}
    training = [page for page in found if page.order not in held_out and len(page.text) >= SHORTEST]
    parts = split(unknown(chosen, training))
    out.mkdir(parents=True, exist_ok=True)
    for name, part in [*parts.items(), ("training", training)]:
        (out / f"{name}.txt").write_text(joined(part), encoding="ascii")
        click.echo(f"{name}: {len(part)} pages, {sum(len(page.text) for page in part) / 1e6:.2f} MB")
    write_sources(out / "sources.tsv", parts)


if __name__ == "__main__":
    command()
