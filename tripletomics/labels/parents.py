"""Files that say which name of a cell type lies below which: tables of two columns, and ontologies (.obo)."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tripletomics.notices import warn

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
ENDINGS = ", ".join([*SEPARATORS, ".obo"])
EXAMPLE = "a name and its parent, as in 'CD4 naive,CD4 T'"


def read_file(path: str, names: Iterable[str]) -> dict[str, str]:
    """Return the parent of each name that has one, from a file.

    Parameters
    ----------
    path
        A table of two columns, a name and its parent, with or without a line of headers: .csv, .tsv or .txt. Or an
        ontology, .obo, as `read_ontology`.
    names
        The names of the cells.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or a name has two parents.
    """
    file = Path(path)
    ending = file.suffix.lower()
    if ending not in (*SEPARATORS, ".obo"):
        raise ValueError(
            f"parents={path!r} is neither a dict nor a file that can be read: name a table of {EXAMPLE}, or an "
            f"ontology. Endings: {ENDINGS}."
        )
    if not file.is_file():
        raise FileNotFoundError(f"parents={path!r} does not exist, or is not a file.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"parents={path!r} is not text in UTF-8: save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"parents={path!r} holds the character NUL, so it is no table of text: save it as text.")
    if ending != ".obo":
        return _read_table(text, SEPARATORS[ending], path)
    if not (parents := read_ontology(text, names, path)):
        raise ValueError(
            f"parents={path!r} groups none of the names: each of its terms stands above all of them or above one. "
            "Leave parents out."
        )
    return parents


def _read_table(text: str, separator: str, path: str) -> dict[str, str]:
    """Return the parent of each name in a table of two columns."""
    parents: dict[str, str] = {}
    lines = csv.reader(text.splitlines(), delimiter=separator)
    try:
        rows = [row for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(
            f"parents={path!r} cannot be read at line {lines.line_num}: {error}. Write {EXAMPLE}."
        ) from None
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            named = {",": "commas", "\t": "tabs"}[separator]
            raise ValueError(
                f"parents={path!r} has {len(row)} columns in row {number} ({separator.join(row)[:60]!r}): write "
                f"{EXAMPLE}, two columns with {named} between them."
            )
        name, parent = map(str.strip, row)
        if not name or not parent:  # a name of the top level, as some tables list it
            continue
        if parents.setdefault(name, parent) != parent:
            raise ValueError(
                f"parents={path!r}: {name!r} has the parents {parents[name]!r} and {parent!r}, and a name has one "
                "parent. Keep one of the two rows, or give two types two names."
            )
    if not parents:
        raise ValueError(f"parents={path!r} is empty: write {EXAMPLE}, one row for each name.")
    return parents


def read_ontology(text: str, names: Iterable[str], path: str = "") -> dict[str, str]:
    """Return the parents of names in an ontology, as far as they group these names.

    Parameters
    ----------
    text
        Terms, each with `id`, `name` and `is_a`, in the format OBO.
    names
        The names of the cells: names of terms or their ids.
    path
        The file, for messages.

    Returns
    -------
    The parent of each name that has one. The names of the cells are kept, and each term above two or more of them; a
    term above all of them is left out. A term may have several `is_a`. Its parent is the one that is a name of the
    cells or lies below one. If there is none, it is the one with the fewest other names below it, but at least one.

    Raises
    ------
    ValueError
        If there are no terms, none of the names is a term, or a term lies below two names of which neither is above
        the other.
    """
    terms, names = dict(_terms(text)), list(names)
    if not terms:
        raise ValueError(f"parents={path!r} has no [Term]: is it an ontology in the format OBO?")
    ids = {name: one for one, (name, _) in reversed(terms.items())}
    known = {one: name for name in names for one in [name if name in terms else ids.get(name)] if one is not None}
    if not known:
        raise ValueError(
            f"parents={path!r}: none of the names (first: {', '.join(names[:3])}) is the name or the id of one "
            f"of its {len(terms):,} terms (first: {', '.join(list(ids)[:3])})."
        )
    if odd := sorted({*names} - {*known.values()}):
        warn(
            f"parents={path!r}: the ontology lacks {len(odd)} of the names (first: {', '.join(odd[:3])}), so these "
            "have no parent."
        )
    below: dict[str, set[str]] = {}  # of each term, the terms of cells that it is or stands above
    for one in known:
        for term in _above(one, terms):
            below.setdefault(term, set()).add(one)
    up = _parents(terms, known, below, path)
    by_id = sum(name in terms for name in known.values()) * 2 > len(known)
    called = {one: one if by_id else terms[one][0] for one in up.keys() | {*up.values()}} | known
    return {called[one]: called[parent] for one, parent in _grouping(up, known, whole=not odd).items()}


def _terms(text: str) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Yield the id, the name and the parents of each term that is in use."""
    for stanza in text.split("\n[")[0 if text.startswith("[") else 1 :]:
        head, _, body = stanza.partition("\n")
        if head.strip().strip("[]") != "Term":
            continue
        lines = [line.partition(":")[::2] for line in body.splitlines()]
        fields: dict[str, list[str]] = {}
        for key, value in lines:
            fields.setdefault(key.strip(), []).append(value.partition(" ! ")[0].partition("{")[0].strip())
        if fields.get("id") and fields.get("is_obsolete", ["false"])[0] != "true":
            (one, *_) = fields["id"]
            yield one, (fields.get("name", [one])[0], [parent for parent in fields.get("is_a", []) if parent != one])


def _parents(
    terms: Mapping[str, tuple[str, list[str]]], known: Mapping[str, str], below: Mapping[str, set[str]], path: str
) -> dict[str, str]:
    """Return one parent of each term; raise if it lies below two names of cells of which neither is above the other."""
    up = {}
    for one in below:
        parents = [parent for parent in terms[one][1] if parent in terms]
        above = [{*_above(parent, terms)} & known.keys() for parent in parents]
        most = max(above, key=len, default=set())
        for those in above:
            if odd := sorted(those - most):
                other = sorted(most - those)
                raise ValueError(
                    f"parents={path!r}: {terms[one][0]!r} lies below {known[odd[0]]!r} and below "
                    f"{known[other[0]]!r}, both names of cells, and a name has one parent. Say which one in a "
                    f"table of {EXAMPLE}, or rename one of the two in the column."
                )
        others = {parent: len(below[parent] - below[one]) for parent in parents if _above(parent, terms) >= most}
        if others:
            up[one] = min(others, key=lambda parent: (not others[parent], others[parent]))
    return up


def _above(one: str, terms: Mapping[str, tuple[str, list[str]]]) -> set[str]:
    """Return a term and all terms above it."""
    found, todo = set(), [one]
    while todo:
        term = todo.pop()
        if term not in found and term in terms:
            found.add(term)
            todo += terms[term][1]
    return found


def _grouping(up: Mapping[str, str], known: Mapping[str, str], *, whole: bool) -> dict[str, str]:
    """Return the parents of the terms that are names of cells or stand directly above two branches with such names.

    A single top is left out if it stands above all names: `whole` says that all of them are known terms. If they are
    not, it stays if nothing else groups them.
    """
    paths = {one: _path(one, up) for one in known}
    below: dict[str, set[str]] = {}  # of each term, the terms right below it on the ways from the names
    for path in paths.values():
        for one, parent in itertools.pairwise(path):
            below.setdefault(parent, set()).add(one)
    kept = {*known} | {one for one, children in below.items() if len(children) > 1}
    tops = {next(one for one in reversed(path) if one in kept) for path in paths.values()}
    found = _pairs_among(kept, paths)
    if len(tops) > 1 or tops & known.keys():
        return found
    rest = _pairs_among(kept - tops, paths)
    return rest if whole or rest else found


def _pairs_among(kept: set[str], paths: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the parent of each term among those that are kept, along paths that go up."""
    found: dict[str, str] = {}
    for path in paths.values():
        found |= dict(itertools.pairwise(one for one in path if one in kept))
    return found


def _path(one: str, up: Mapping[str, str]) -> list[str]:
    """Return a term and those above it, up to the top or to where a circle closes."""
    found = [one]
    while (parent := up.get(found[-1])) is not None and parent not in found:
        found.append(parent)
    return found
