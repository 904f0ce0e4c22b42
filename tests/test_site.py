"""The site of the manual: every public name has a page, and every link leads somewhere. `.ci/run` builds it."""

import inspect
import json
import re
from functools import cache
from pathlib import Path

import pytest

import tripletomics as tt
from tripletomics import metrics

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.ipynb")]
CONSTANTS = {"NEIGHBOURS", "ORDERS"}  # of the metrics: a sentence of the page names them


def listed():
    """Return what the API page lists, by module."""
    names = {}
    for block in re.findall(r"```\{eval-rst\}\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL):
        module = re.search(r"currentmodule:: (.*)", block)[1]
        names.setdefault(module, []).extend(re.findall(r"^ +([\w.]+)$", block, re.MULTILINE))
    return names


def public(cls):
    """Return the methods of a class, as the page lists them."""
    methods = inspect.getmembers(cls, inspect.isfunction)
    return [f"{cls.__name__}.{name}" for name, _ in methods if not name.startswith("_")]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("tripletomics", {name for name in tt.__all__ if not inspect.ismodule(getattr(tt, name))}
            | {*public(tt.Model), *public(tt.Comparison)}),
        *((f"tripletomics.{name}", getattr(tt, name).__all__) for name in ("datasets", "losses", "pl", "sklearn")),
        ("tripletomics.metrics", {*metrics.__all__} - CONSTANTS),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)  # fmt: skip
def test_every_public_name_has_a_page_of_its_own(module, names):
    assert sorted(listed()[module]) == sorted(names)


@cache
def text_of(page):
    """Return the text of a page without code; of a notebook that of its cells of text."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] != "code")
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@cache
def anchors(page):
    """Return the anchors of the headings of a page, as MyST and code hosts make them."""
    titles = re.findall(r"^#+ +(.+)$", text_of(page), re.MULTILINE)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).strip().lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text_of(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
