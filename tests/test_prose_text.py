"""The text of the prose model: what counts as prose, and that held-out pages stay out of the training text."""

import csv

from prose_text import Page, Source, joined, prose, sources, split, unknown, without_repeats, write_sources
from vocabulary import END_OF_TEXT

FREE, OTHER = Source("free-doc", "MIT", True), Source("other-doc", "GPL-3+", False)
SENTENCE = "The state of a model is the memory that it has of the tokens which it has read so far."


def page(name, *paragraphs, source=FREE):
    return Page(source, name, paragraphs)


def about(topic, count=20):
    """Paragraphs of which no sequence of words is that of another topic."""
    return [" ".join(f"{topic}{letter * (i + 1)}" for letter in "abcdefghijklmnopqr") + "." for i in range(count)]


def test_paragraphs_and_items_are_prose_but_not_code_tables_and_names():
    html = f"""<head><title>{SENTENCE}</title></head><body><h1>{SENTENCE}</h1>
    <p class="x">{SENTENCE.replace("model", "<em>model</em>")}</p>
    <pre><p>{SENTENCE}</p></pre><table><tr><td><p>{SENTENCE}</p></table>
    <p>x = f(1, 2); y = g(x)[3]; if x > 4: return {{5: 6, 7: 8}} or raise ValueError(9) now.
    <ul><li>An item of the list that&#8217;s as long as a sentence is, and has the words of one.<li>name</ul>"""
    assert list(prose(html)) == [
        SENTENCE,
        "An item of the list that's as long as a sentence is, and has the words of one.",
    ]


def test_a_language_other_than_english_is_left_out():
    german = "Der Zustand eines Modells ist das, was es von den bisher gelesenen Zeichen noch weiss und nutzen kann."
    assert not list(prose(f"<p>{german}</p>"))


def test_a_paragraph_counts_where_it_occurs_first():
    pages = [page("a", "In version 1 it is so.", "Only here."), page("b", "In version 2 it is so."), page("c", "More.")]
    assert [found.paragraphs for found in without_repeats(pages)] == [pages[0].paragraphs, pages[2].paragraphs]


def test_a_page_whose_words_are_in_the_training_text_is_not_held_out():
    copied, new = page("copied", *about("oak")), page("new", *about("elm"))
    training = [page("training", "Something else.", *about("oak"), source=OTHER)]
    assert unknown([copied, new], training) == [new]


def test_the_sources_name_the_licence_of_every_page(tmp_path):
    parts = {"held-out": [page("a", SENTENCE)], "calibration": [page("b", SENTENCE, SENTENCE)]}
    write_sources(tmp_path / "sources.tsv", parts)
    rows = list(csv.DictReader((tmp_path / "sources.tsv").read_text().splitlines(), delimiter="\t"))
    assert [(row["text"], row["page"], row["licence"]) for row in rows] == [
        ("held-out", "a", "MIT"),
        ("calibration", "b", "MIT"),
    ]
    assert joined(parts["held-out"]) == f"{SENTENCE}\n{END_OF_TEXT}"


def test_no_page_is_in_both_texts():
    chosen = [page(str(i), *about(f"{i}-")) for i in range(400)]
    parts = split(chosen)
    assert not {found.name for found in parts["held-out"]} & {found.name for found in parts["calibration"]}


def test_each_package_is_listed_once_with_a_licence():
    found = sources()
    assert len({source.package for source in found}) == len(found) > 100
    assert all(source.licence for source in found)
    assert not any("GPL" in source.licence and source.may_be_committed for source in found)
