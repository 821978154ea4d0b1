"""What the book and the package lean on has an entry in the bibliography, and each entry has a use."""

from __future__ import annotations

import re
import unicodedata

from builder import BOOK, ROOT

AUTHORS_AND_YEAR = re.compile(
    r"""\b([A-Z][a-z]\w*)                            # the first author's name
        (?:,\s+[A-Z][a-z]\w*)*                       # others
        (?:,?\s+et\s+al\.|,?\s+(?:and|&)\s+[A-Z]\w+)?
        ,?\s+\(?((?:19|20)\d\d)[a-z]?\b             # the year""",
    re.VERBOSE,
)
KNOWN_OTHERWISE = {
    ("Behrens", "1935"),  # the solution has two names, the paper is Fisher's
    ("Giraud", "2005"),  # two papers of that year would do, and which is meant is not said
}
QUOTED = "paper_tables.py"  # in the paper's words, whose own reference list has the entries


def _entries() -> dict[str, str]:
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    return dict(re.findall(r"^@\w+\{(\w+),$(.*?)^\}$", text, re.MULTILINE | re.DOTALL))


def _plain(name: str) -> str:
    name = re.sub(r"\{?\\\W\{?(\w)\}*", r"\1", name)
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def test_each_entry_is_complete_and_cited_on_a_page() -> None:
    cited = {
        key
        for path in BOOK.glob("*.md")
        for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", path.read_text(encoding="utf-8"))
        for key in keys.split(",")
    }
    entries = _entries()
    assert entries.keys() == cited
    for key, entry in entries.items():
        fields = dict(re.findall(r"^\s+(\w+)\s+= \{+(.*?)\}+,?$", entry, re.MULTILINE))
        assert {"title", "author", "year"} < fields.keys(), key
        assert fields.keys() & {"booktitle", "journal", "note"}, key


def test_sources_that_the_package_names_by_year_have_an_entry() -> None:
    known = {
        (_plain(author[1]), year[1])
        for entry in _entries().values()
        if (author := re.search(r"author\s+= \{(.+?),", entry)) and (year := re.search(r"year\s+= \{(\d+)\}", entry))
    }
    named = {
        (_plain(author), year)
        for path in (ROOT / "sharp_maml_core").rglob("*.py")
        if path.name != QUOTED
        for author, year in AUTHORS_AND_YEAR.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 30
    assert named - known <= KNOWN_OTHERWISE
