"""Scores stand in docs/tables/*.csv and nowhere else, so that no number has two values."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = {path.stem: list(csv.reader(path.open())) for path in (ROOT / "docs" / "tables").glob("*.csv")}
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in ("experiments", "changelog")]
SCORE = r"(?<![\w.])[+-]?0?\.\d{2,}(?![\w.]*\w)"  # .93 or 0.932; not 0.5, 2.13.0, 3.14 or 0.02s


def prose(text):
    """Return the text of a page without code, links, formulas and tables."""
    text = re.sub(r"^(```|:::|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]+`|\]\([^)]*\)", "", text, flags=re.DOTALL)


def scores(text):
    return re.findall(SCORE, text)


def rows_of(text):
    """Return the Markdown tables of a text, each as rows of cells without marks."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [
        [[re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def test_score_like_numbers_are_told_from_others():
    text = "It is .93 or 0.932, +0.01, torch 2.13.0, Python 3.11, 0.5, v0.20, 0.04s\n`0.99`\n| 0.98 |\n```\n0.97\n```\n"
    assert scores(prose(text)) == [".93", "0.932", "+0.01"]


def test_scores_of_the_readme_are_in_its_tables_and_these_in_the_csv_files():
    text = (ROOT / "README.md").read_text()
    assert not scores(prose(text))
    for header, _, *rows in rows_of(text):
        tables = [table for table in TABLES.values() if set(header) <= set(table[0])]
        assert tables or not scores(str(rows)), f"README: no file of docs/tables has the columns {header}"
        kept = [[row[table[0].index(name)] for name in header] for table in tables for row in table[1:]]
        for row in rows:
            assert not tables or row in kept, f"README: {row} is no row of docs/tables"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scores_in_prose_are_in_a_table_that_the_page_includes(page):
    text = page.read_text()
    included = re.findall(r"^:file: tables/(.+)\.csv$", text, re.MULTILINE)
    assert not set(included) - set(TABLES), f"{page.name}: these tables are not in docs/tables"
    known = {score.lstrip("+-0") for name in included for row in TABLES[name] for score in scores(" ".join(row))}
    unknown = {score for score in scores(prose(text)) if score.lstrip("+-0") not in known}
    assert not unknown, f"{page.name}: put these in a table of docs/tables, or say what they mean in words: {unknown}"


def test_every_table_is_shown_and_says_when_and_with_what_it_was_measured():
    shown = " ".join(page.read_text() for page in PAGES)
    for name, (header, *rows) in TABLES.items():
        assert f"tables/{name}.csv" in shown, f"{name}.csv is on no page"
        column = header.index("measured")
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d, tripletomics \S+", row[column]) for row in rows), name
