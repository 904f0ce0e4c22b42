"""The site of the manual: `sphinx-build -W --keep-going docs out/site`."""

import inspect
import os
import re
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.inspect import stringify_signature

from tripletomics import pl

ROOT = Path(__file__).resolve().parents[1]
PAGES = {ROOT / name: ROOT / "docs" / name.lower() for name in ("CHANGELOG.md", "SECURITY.md")}
PAGES |= {ROOT / folder / "README.md": ROOT / f"docs/{folder}.md" for folder in ("benchmarks", "data")}
PAGES |= {ROOT / "README.md": ROOT / "docs/index.md"}
PAGES |= {path: ROOT / f"docs/tutorials/{path.stem}.ipynb" for path in (ROOT / "examples").glob("*.py")}

project = "tripletomics"
author = "The tripletomics developers"
copyright = author
version = release = version_of(project)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["tables"]
templates_path = ["_templates"]

# Pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs
nb_ipywidgets_js = {}  # no page asks another server for a script
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# API: types stand in the signature, text in the docstring
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Returns"]  # as free text, with a list of the keys that are written
default_role = "py:obj"
add_module_names = False
maximum_signature_line_length = 80

# Look
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_use_index = False  # the search finds more
html_theme_options = {
    "footer_content_items": [],
    "max_navbar_depth": 1,
    "navbar_persistent": [],
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "use_source_button": False,
    "navigation_with_keys": False,
}


def on_site(text: str, at: Path, page: Path) -> str:
    """Return the text of a file at `at` with its links as they are on a page at `page`: to pages, else to files."""

    def moved(link: re.Match[str]) -> str:
        target = (at.parent / link[1]).resolve()
        to = PAGES.get(target, target)
        return f"]({os.path.relpath(to, page.parent)}{link[2] or ''})" if target.exists() else link[0]

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", moved, text)


def read(app: Sphinx, page: str, text: list[str]) -> None:
    """Mend the links of a page."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md":
        text[0] = on_site(text[0], path, path)


def read_included(app: Sphinx, path: Path, page: str, text: list[str]) -> None:
    """Mend the links of a file that a page includes."""
    text[0] = on_site(text[0], ROOT / "docs" / path, ROOT / "docs" / page)


def signature_of(app: Sphinx, what: str, name: str, thing: object, *_: object) -> tuple[str, str] | None:
    """Return the signature with types as they are written; none for classes that only functions make."""
    if name in ("tripletomics.Model", "tripletomics.Comparison", "tripletomics.labels.prediction.Prediction"):
        return "", ""
    if what not in ("class", "function", "method"):
        return None
    signature = inspect.signature(thing.__init__ if what == "class" else thing)
    if what != "function":
        signature = signature.replace(parameters=[*signature.parameters.values()][1:])
    text, arrow, returned = stringify_signature(signature).rpartition(" -> ")
    return (text, returned) if arrow and what != "class" else (text or returned, "")


def escape_names(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep the last letter of attributes such as `classes_`, which else is the mark of a link."""
    lines[:] = [re.sub(r"^:(ivar|vartype) (\w+)_:", r":\1 \2\\_:", line) for line in lines]


VALUE = r"[-+\d][-+\d.,e/ ]*( ?(%|s|MB|ms))?"
NUMBER = re.compile(rf"{VALUE}( ?[±[(] ?[-+–\d.,e ]+[])]?)?(, (better|worse|tie))?( (→|to) {VALUE})?")


def describe_palette(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Describe the palette, a tuple, which has no docstring, by the last words on its module."""
    if name == "tripletomics.pl.PALETTE":
        said = inspect.getdoc(pl).splitlines()
        lines[:] = said[next(i for i, line in enumerate(said) if "PALETTE" in line) :]


def mark_cells(app: Sphinx, page: nodes.document) -> None:
    """Mark cells of tables with numbers, such as `0.95 [0.93, 0.97], tie`, which stay on one line, and those with text.

    When and with what all rows of a table were measured stands once below it, if it is the same.
    """
    for table in list(page.findall(nodes.table)):
        rows = list(table.findall(nodes.row))
        stamps = {row[-1].astext() for row in rows[1:]}
        if rows[0][-1].astext() == "measured":
            if len(stamps) == 1:
                for last in [list(table.findall(nodes.colspec))[-1], *(row[-1] for row in rows)]:
                    last.parent.remove(last)
                table[-1]["cols"] -= 1
                said = nodes.paragraph("", f"Measured {stamps.pop()}.", classes=["measured"])
                table.parent.insert(table.parent.index(table) + 1, said)
            for row in rows[1:] if len(stamps) > 1 else []:
                row[-1]["classes"].append("number")
    for cell in page.findall(nodes.entry):
        text = cell.astext().strip()
        if NUMBER.fullmatch(text):
            cell["classes"].append("number")
        elif len(text) > 25 and "number" not in cell["classes"]:
            cell["classes"].append("text")


def link_images(app: Sphinx, page: nodes.document, name: str) -> None:
    """Make each image a link to its full size: Sphinx does so where a scale is given."""
    for image in page.findall(nodes.image):
        if image["uri"].endswith(".png"):
            image.setdefault("scale", 100)


def name_home(app: Sphinx, page: str, template: str, context: dict[str, object], tree: object) -> None:
    """Give the first page a name of its own in the browser, where the site's name follows."""
    if page == "index":
        context["title"] = "A map of your cells"


def setup(app: Sphinx) -> None:
    """Connect what is above, and name attributes by their usual name."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("doctree-read", mark_cells)
    app.connect("doctree-resolved", link_images)
    app.connect("autodoc-process-signature", signature_of)
    app.connect("autodoc-process-docstring", escape_names, priority=600)  # after napoleon
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", describe_palette)
    app.connect("html-page-context", name_home)
    app.connect("include-read", read_included)
