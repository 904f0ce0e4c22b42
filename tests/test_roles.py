"""What each column of labels is for, and files that say which name lies below which. Nothing is fitted here."""

import numpy as np
import pandas as pd
import pytest

import tripletomics as tt
from tripletomics import losses
from tripletomics.labels.parents import read_file, read_ontology
from tripletomics.labels.roles import as_text, read_roles, without_loss
from tripletomics.notices import TripletomicsWarning

COLUMNS = ["class", "type", "day", "state", "phase", "a=b", "x:period=2"]


def roles(label=None, order=None, loss=None):
    return read_roles(label, order, None if loss is None else losses.make(loss), COLUMNS)


def told(found):
    own = None if found.loss is None else losses.spec(found.loss)
    return found.levels, own, {name: (losses.spec(loss), weight) for name, (loss, weight) in found.further.items()}


@pytest.mark.parametrize(
    ("label", "order", "expected"),
    [
        (None, None, ([], None, {})),
        ("type", None, (["type"], None, {})),
        (["class", "type"], None, (["class", "type"], None, {})),
        (("class", "type"), "day", (["class", "type"], None, {"day": ("rnc", 1)})),
        (None, "phase:period=24", ([], None, {"phase": ("rnc:period=24.0", 1)})),
        ("type", "x:period=2", (["type"], None, {"x:period=2": ("rnc", 1)})),
        ({"type": None, "day": "rnc"}, None, (["type"], None, {"day": ("rnc", 1)})),
        ({"type": "triplet:margin=0.3"}, None, (["type"], "triplet:margin=0.3", {})),
        ({"day": "0.5*rnc:period=24"}, None, ([], None, {"day": ("rnc:period=24.0", 0.5)})),
        (
            {"day": "coral", "type": "softmax + simclr", "state": "2*proxynca"},
            "phase",
            (["type"], "softmax + simclr", {"day": ("coral", 1), "state": ("proxynca", 2), "phase": ("rnc", 1)}),
        ),
        ({"type": None, "state": None}, None, (["type"], None, {"state": ("softmax", 1)})),
        (["type=softmax", "day=rnc:period=24"], None, (["type"], "softmax", {"day": ("rnc:period=24.0", 1)})),
        (["type", "day=0.5*rnc"], None, (["type"], None, {"day": ("rnc", 0.5)})),
        ("type=softmax", None, (["type"], "softmax", {})),
        ("a=b", None, (["a=b"], None, {})),
        (["a=b=softmax"], None, (["a=b"], "softmax", {})),
    ],
)
def test_roles(label, order, expected):
    assert told(roles(label, order)) == expected


def test_order_and_dict_say_the_same():
    assert told(roles("type", "day")) == told(roles({"type": None, "day": "rnc"}))
    assert told(roles({"type": None, "day": "rnc"}, loss="triplet")) == told(roles("type", "day", loss="triplet"))


@pytest.mark.parametrize("label", ["type", ["class", "type"], {"type": None, "day": "0.5*rnc:period=24"}])
def test_the_text_of_labels_reads_as_the_labels(label):
    assert told(roles(as_text(label).split(", "))) == told(roles(label))


@pytest.mark.parametrize(
    ("label", "order", "loss", "message"),
    [
        ({"type", "class"}, None, None, r"label is a set \(class, type\), and a set has no order: .* coarse to fine"),
        ([], None, None, r"label=\[\] is empty: name the columns"),
        ({}, None, None, "label={} is empty: name the column"),
        (["class", "type", "class"], None, None, "names the column 'class' twice"),
        (["type=softmax", "type=rnc"], None, None, "names a column twice: each column has one loss"),
        (["class", "type", "day=rnc"], None, None, r"columns without a loss \(class, type\) .* in order= or in a dict"),
        (["class", 3], None, None, "holds 3, which is not the name of a column"),
        ("day=", None, None, "'day=' cannot be read: write column=loss, as in day=rnc"),
        ("type", "type", None, "'type' is both label and order: .* Leave one of the two out"),
        ({"type": None, "day": "rnc"}, "day", None, "'day' is both label and order"),
        ({"type": "softmax"}, None, "triplet", "loss='triplet' is the loss .*='type=softmax' gives it one: leave loss"),
        ({"day": "rnc"}, None, "softmax", "='day=rnc' has no such column: leave loss out"),
        ("type", None, "rnc", "loss='rnc' learns values that have an order, .* as in order='day'"),
        ({"type": "softmaxx"}, None, None, "the loss of 'type' cannot be read. .* Did you mean 'softmax'"),
        ({"type": 3}, None, None, "the loss of 'type' is 3: write its name"),
        ({"day": "rnc + coral"}, None, None, "'day' has 2 losses"),
        ({"day": "rnc + softmax"}, None, None, "'day' has 2 losses"),
        ({"type": None, "state": "softmax + triplet"}, None, None, "'state' is a sum .* which only the first column"),
        ({"type": None, "state": "simclr"}, None, None, "'simclr' cannot learn the further .*'state'.* one of: adacos"),
        ({"type": None, "state": "center"}, None, None, "'center' cannot learn the further column 'state'"),
        ({"type": None, "state": "hierarchical_triplet"}, None, None, "'hierarchical_triplet' cannot learn"),
        ({"type": None, "label": "rnc"}, None, None, "'label' would be predicted as obs.'tt_label'.*, .* rename it"),
        ({"type": None, "split": "softmax"}, None, None, "obs.'tt_split'"),
        ({"type": None, "group_label": "softmax"}, None, None, "obs.'tt_group_label'"),
        ({"day": "rnc", "day_low": "rnc"}, None, None, "obs.'tt_day_low'.*a prediction of the column 'day'"),
    ],
)
def test_what_is_refused(label, order, loss, message):
    with pytest.raises((TypeError, ValueError), match=message):
        roles(label, order, loss)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ({"day": "rnc", "type": "softmax", "state": "triplet"}, {"day": "rnc", "type": None, "state": "triplet"}),
        (["type=softmax", "day=rnc"], {"type": None, "day": "rnc"}),
        ({"day": "rnc"}, {"day": "rnc"}),
        (["class", "type"], ["class", "type"]),
    ],
)
def test_a_loss_that_is_given_besides_replaces_that_of_the_types(label, expected):
    assert without_loss(label, COLUMNS) == expected


# ---------------------------------------------------------------------------------------------------- columns, no fit


@pytest.fixture(scope="module")
def cells(made):
    cells = made[:60].copy()
    kind = cells.obs["kind"].astype(str)
    cells.obs["class"] = np.where(kind < "d", "low", "high")
    cells.obs["bad"] = np.where(np.arange(60) % 2, "x", "y")
    cells.obs["none"] = "Unknown"
    cells.obs["few"] = np.where(np.arange(60) < 8, kind + "1", "")
    cells.obs["one"] = "T"
    cells.obs["area"] = np.linspace(0, 7.3, 60)
    cells.obs["many"] = np.arange(60) % 20
    cells.obs["infinite"] = np.where(np.arange(60) % 3, np.inf, 1.0)
    return cells


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": ["bad", "kind"]}, r"in 'kind' lies below .* give them two names(?!.*Or are)"),
        ({"label": ["kind", "class"]}, r"Or are the columns not from coarse to fine\? label=\['class', 'kind'\] would"),
        ({"label": "kind", "parents": {"a": "any", "b": "any"}}, "'any' cannot be a name, .*: rename it"),
        ({"label": "kind", "parents": {"a": "x | y"}}, r"'x \| y' cannot be a name"),
        ({"label": "kind", "parents": {"a": ["x", "y"]}}, r"'a' has the parent \['x', 'y'\], which is not a name"),
        ({"label": ["class", "kinds"]}, "label='kinds' is not a column of adata.obs. Did you mean 'kind'"),
        ({"label": {"kinds": "softmax"}}, "Did you mean 'kind'"),
        ({"label": ["class", "none"]}, "'none' has no name for any cell: leave this level out"),
        ({"label": ["one", "one"]}, "names the column 'one' twice"),
        ({"label": "one", "parents": {"T": "lymphoid"}}, "label='one' has one type, 'T'"),
        ({"label": ["class", "kind"], "parents": {"a": "x"}}, r"a list of columns \(class, kind\) both say"),
        ({"label": None, "parents": {"a": "x"}}, "no column of cell types is named"),
        ({"label": "kind", "parents": {"a": "b", "b": "a"}}, "levels go in a circle: 'a' below 'b' below 'a'"),
        ({"label": "kind", "parents": {"a": "Unknown"}}, "'a' has the parent 'Unknown', which means unlabelled"),
        ({"label": "kind", "parents": {"A": "x"}}, "none of its names .* Did you mean 'a'"),
        ({"label": "kind", "parents": 3}, "parents is int: pass a dict"),
        ({"label": "kind", "parents": "tree.csv"}, "parents='tree.csv' does not exist"),
        ({"label": "area"}, r"label='area' holds .* not whole, such as 0.12.*order='area'.*astype\(\"category\"\)"),
        ({"label": "many"}, r"label='many' holds 20 different numbers, .*order='many'.*astype\(\"category\"\)"),
        ({"label": "infinite"}, "not whole, such as inf"),
        ({"label": {"kind": None, "area": "softmax"}}, "label='area' holds numbers that are not whole"),
        ({"label": {"kind": None, "class": "rnc"}}, "label='class' holds .*, not numbers"),
        ({"label": {"kind": None, "one": "softmax"}}, "label='one' has one type"),
        ({"label": {"day": "rnc"}, "loss": "softmax"}, "='day=rnc' has no such column: leave loss out"),
        ({"label": {"area": "rnc"}, "self_training": True}, "label='area=rnc' gives none"),
    ],
)
def test_columns_that_are_refused(cells, given, message):
    before = cells.obs.copy()
    with pytest.raises((KeyError, OSError, TypeError, ValueError), match=message):
        tt.fit(cells, **given, progress=False)
    pd.testing.assert_frame_equal(cells.obs, before)
    assert not cells.uns


@pytest.mark.parametrize("kept", [lambda x: x.astype(str), lambda x: x.astype("category"), lambda x: x % 12])
def test_numbers_that_are_types(cells, kept):
    from tripletomics import pp

    cells = cells.copy()
    cells.obs["many"] = kept(cells.obs["many"])
    assert pp.checks.types(cells, "many", ()).equals(cells.obs["many"])


def test_a_level_that_most_cells_lack_is_told(cells):
    from tripletomics import pp
    from tripletomics.problem import Settings

    settings = Settings(label=["kind", "few"])
    with pytest.warns(TripletomicsWarning, match="52 of 60 cells have no name in 'few'"):
        found = pp.read_columns(cells, settings, pp.roles_of(cells.obs, settings))
    assert [found.names[code] for code in found.nodes[:9]] == [*cells.obs["few"][:8], cells.obs["kind"].iloc[8]]


# ---------------------------------------------------------------------------------------------------- files of parents

TABLE = {"CD4 naive": "CD4 T", "CD8": "T cell", "CD4 T": "T cell"}
NAMES = ["CD4 naive", "CD8", "B cell"]


@pytest.mark.parametrize("header", ["", "name,parent\n", "\n"])
@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t"), (".TXT", "\t")])
def test_a_table_of_parents(tmp_path, header, ending, separator):
    path = tmp_path / f"parents{ending}"
    rows = [*TABLE.items(), ("T cell", ""), ("CD8", "T cell")]
    text = header.replace(",", separator) + "".join(f'"{name}"{separator}{parent} \n' for name, parent in rows)
    path.write_text("\ufeff" + text)
    found = read_file(str(path), NAMES)
    found.pop("name", None)
    assert found == TABLE


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("one.csv", "CD4 naive\nCD8\n", "has 1 columns in row 1 .'CD4 naive'.: write a name and its parent"),
        ("semicolon.csv", "CD8;T cell\n", "two columns with commas between them"),
        ("three.tsv", "a\tb\n\na\tb\tc\n", "has 3 columns in row 2"),
        ("two.csv", "a,b\na,c\n", "'a' has the parents 'b' and 'c', and a name has one parent"),
        ("empty.csv", "\n", "is empty: write a name and its parent"),
        ("long.csv", "a,b\nc," + "x" * 131_073, "cannot be read at line 2: field larger than field limit"),
        ("nul.csv", "a,b\0\n", "holds the character NUL"),
        (
            "top.obo",
            "[Term]\nid: CD8\nis_a: T\n\n[Term]\nid: B cell\nis_a: T\n\n[Term]\nid: T\n\n[Term]\nid: CD4 naive\n"
            "is_a: T\n",
            "groups none of the names: .* Leave parents out",
        ),
        ("latin.csv", b"a,\xe9\n", "is not text in UTF-8"),
        ("tree.json", "{}", "neither a dict nor a file that can be read: .* Endings: .csv, .tsv, .txt, .obo"),
        ("empty.obo", "format-version: 1.2\n", r"has no \[Term\]"),
        ("other.obo", "[Term]\nid: X:1\nname: x\n", "none of the names .first: CD4 naive, CD8, B cell. is the name or"),
    ],
)
def test_files_that_are_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_file(str(path), NAMES)


TERMS = {
    "cell": [], "blood": ["cell"], "lymphoid": ["blood"], "T": ["motile", "lymphoid"], "motile": ["cell"],
    "CD4": ["T"], "CD8": ["cytotoxic", "T"], "cytotoxic": ["motile"], "B": ["lymphoid"], "mono": ["blood"],
    "CD4 naive": ["CD4"],
}  # fmt: skip
HEADER = "format-version: 1.2\nontology: cl\n\n[Term]\nid: X:0\nname: old\nis_obsolete: true\nis_a: X:B ! B\n\n"


def ontology(terms=TERMS):
    stanzas = ["\n".join([
        "[Term]", f"id: X:{name}", f"name: {name}", f'def: "{name}: a cell" []',
        *(f'is_a: X:{parent} {{source="x"}} ! {parent}' for parent in parents), "relationship: part_of X:cell ! cell",
    ]) for name, parents in terms.items()]  # fmt: skip
    return HEADER + "\n\n".join([*stanzas, "[Typedef]\nid: part_of\nname: part of\nis_a: X:T\n"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # terms above two branches are kept, those above all are not; of several is_a the one counts that groups ...
        (["CD4 naive", "B", "mono"], {"CD4 naive": "lymphoid", "B": "lymphoid"}),
        (["CD4 naive", "CD8", "B"], {"CD4 naive": "T", "CD8": "T"}),
        (["mono", "motile"], {}),
        # ... or the one that is, or lies below, a name of the cells
        (["CD4 naive", "CD8", "B", "T"], {"CD4 naive": "T", "CD8": "T"}),
        (["CD4 naive", "T", "B", "lymphoid"], {"CD4 naive": "T", "T": "lymphoid", "B": "lymphoid"}),
        (["X:CD4 naive", "X:CD4", "X:B"], {"X:CD4 naive": "X:CD4"}),
        (["CD4 naive", "blood"], {"CD4 naive": "blood"}),
    ],
)
def test_an_ontology(names, expected):
    assert read_ontology(ontology(), names) == expected


def test_names_that_are_no_terms_are_told():
    with pytest.warns(TripletomicsWarning, match=r"the ontology lacks 1 of the names \(first: mine\)"):
        assert read_ontology(ontology(), ["CD4 naive", "T", "B", "mine"]) == {"CD4 naive": "T"}


def test_a_term_above_all_names_but_unknown_ones_stays_if_nothing_else_groups_them():
    with pytest.warns(TripletomicsWarning, match="lacks 1 of the names"):
        assert read_ontology(ontology(), ["CD4", "CD8", "mine"]) == {"CD4": "T", "CD8": "T"}


def test_a_term_below_two_names_is_refused():
    with pytest.raises(ValueError, match="'CD8' lies below 'T' and below 'cytotoxic', both names of cells"):
        read_ontology(ontology(), ["CD8", "T", "cytotoxic", "B"])


def test_a_circle_in_an_ontology_ends():
    assert read_ontology(ontology({"a": ["b"], "b": ["a"], "c": ["a"], "d": ["a"]}), ["c", "d", "e"][:2]) == {}
