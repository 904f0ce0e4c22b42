"""`tt.relate`: which label of one dataset is which of another; its command and what it refuses."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import make_cells, make_pair, plain, refusal, state

import tripletomics as tt
from tripletomics import cli
from tripletomics.cli.answers import COMMON

COLUMNS = ["label_a", "label_b", "share", "lower", "upper"]


@pytest.fixture
def two():
    """New cells of the types of the model, with the labels of two authors."""
    a, b = make_cells(210, 11), make_cells(180, 12)
    a.obs["author"] = a.obs["kind"].str.upper()
    b.obs["other author"] = b.obs["kind"].map({"a": "x", "b": "x"}).fillna(b.obs["kind"])
    return a, b


def related(model, a, b, label_a="author", label_b="other author", **given):
    return tt.relate(a, b, model, label_a=label_a, label_b=label_b, **given)


def matches(table):
    """The label of b with the largest share, by label of a."""
    best = table.loc[table.groupby("label_a", observed=True)["share"].idxmax()]
    return dict(zip(best["label_a"], best["label_b"], strict=True))


def test_what_is_returned(trained, two):
    a, b = two
    before = state(a), state(b)
    table = related(trained[0], a, b)
    assert (state(a), state(b)) == before
    assert list(table) == COLUMNS
    assert len(table) == 7 * 7
    assert table["label_a"].cat.categories.tolist() == list("ABCDEFG")
    assert table["label_b"].cat.categories.tolist() == [*"cdefgx", "none"]
    np.testing.assert_allclose(table.groupby("label_a", observed=True)["share"].sum(), 1)
    assert ((table["lower"] <= table["share"]) & (table["share"] <= table["upper"])).all()
    assert table[["share", "lower", "upper"]].stack().between(0, 1).all()
    assert table["label_a"].is_monotonic_increasing
    assert (table.groupby("label_a", observed=True)["share"].diff().fillna(0) <= 0).all()


def test_names_of_another_author_are_found_and_so_is_the_way_back(trained, two):
    a, b = two
    table = related(trained[0], a, b)
    assert matches(table) == {"A": "x", "B": "x", **{name.upper(): name for name in "cdefg"}}
    assert table.groupby("label_a", observed=True)["share"].max().min() > 0.9
    back = related(trained[0], b, a, "other author", "author")
    assert matches(back) == {"x": matches(back)["x"], **{name: name.upper() for name in "cdefg"}}
    halves = back[(back["label_a"] == "x") & back["label_b"].isin(["A", "B"])]["share"]
    np.testing.assert_allclose(halves, 0.5, atol=0.1)


def test_what_the_other_lacks_is_none_and_few_cells_have_a_wide_interval(trained, two):
    a, b = two
    b = b[b.obs["kind"] != "e"].copy()
    a = a[(a.obs["kind"] != "c") | (np.arange(210) < 16)].copy()
    table = related(trained[0], a, b)
    assert matches(table)["E"] == "none"
    top = table.groupby("label_a", observed=True).first()
    width = top["upper"] - top["lower"]
    assert width["C"] > 2 * width.drop(index="C").max()


def test_a_type_that_the_model_does_not_know_is_related_if_both_have_it(trained):
    a, b = make_cells(200, 13, "abch"), make_cells(200, 14, "abch")
    same = {name: name for name in "abc"}
    assert matches(related(trained[0], a, b, "kind", "kind")) == {**same, "h": "h"}
    assert matches(related(trained[0], a, b[b.obs["kind"] != "h"], "kind", "kind")) == {**same, "h": "none"}


def test_cells_without_a_label_are_left_out(trained, two):
    a, b = two
    plain_table = related(trained[0], a[20:], b[20:])
    for cells, label in ((a, "author"), (b, "other author")):
        cells.obs.loc[cells.obs_names[:20], label] = np.resize(np.array([None, "Unknown"], dtype=object), 20)
        cells.obs[label] = pd.Categorical(cells.obs[label])
    pd.testing.assert_frame_equal(related(trained[0], a, b), plain_table, atol=1e-6)


def test_the_kind_of_matrix_and_the_order_of_the_genes_do_not_matter(trained, two):
    a, b = two
    table = related(trained[0], a, b)
    a.X, b = a.X.toarray(), b[:, ::-1].copy()
    b.X = sp.csc_matrix(b.X)
    b.layers["raw"], a.layers["raw"] = b.X.copy(), a.X.copy()
    b.X = b.X * 0
    pd.testing.assert_frame_equal(related(trained[0], a, b, layer="raw"), table, atol=1e-4)


def test_one_label_on_either_side(trained, two):
    a, b = two
    a.obs["one"], b.obs["one"] = "all", 1
    table = related(trained[0], a, b, "one", "one")
    assert table["label_b"].tolist() == ["1", "none"]
    assert table["share"].iloc[0] > 0.9


def test_two_modalities_one_in_each(both):
    rna, protein = map(plain, make_pair(140, 3))
    rna.obs["kind"] = protein.obs["kind"] = make_pair(140, 3)[0].obs["kind"]
    table = tt.relate(rna, protein, both.model, label_a="kind", label_b="kind")
    assert len(matches(table)) == 7
    with pytest.raises(TypeError, match="a is tuple, not AnnData"):
        tt.relate((rna, protein), protein, both.model, label_a="kind", label_b="kind")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"label_a": "auther"},
            r"KeyError: label_a='auther' is not a column of a.obs. Did you mean 'author'\? Columns: ",
        ),
        ({"label_b": "kin"}, r"KeyError: label_b='kin' is not a column of b.obs. Did you mean 'kind'\? Columns: "),
        (
            {"label_b": "empty"},
            "ValueError: label_b='empty': fewer than two cells of b are labelled. Missing",
        ),
        ({"layer": "raw"}, "KeyError: a: layer='raw' is not a layer of adata"),
        ({"missing": "fill"}, "ValueError: a: missing='fill' is not known. Allowed: error, zero, impute"),
        (
            {"label_a": "size"},
            r"ValueError: label_a='size' holds numbers that are not whole.*types\. If each .* a.obs\[",
        ),
        ({"label_a": None}, "ValueError: label_a=None: name the column of a.obs with the cell types"),
    ],
)
def test_what_cannot_be_used_is_refused(trained, two, change, message):
    a, b = two
    b.obs["empty"], a.obs["size"] = np.nan, np.linspace(0, 1, a.n_obs)
    found = refusal(related, trained[0], a, b, **{"label_a": "author", "label_b": "other author"} | change)
    assert re.match(message, found), found


def test_other_genes_and_what_is_no_dataset_or_model_are_refused(trained, two):
    a, b = two
    assert refusal(related, trained[0], a, b[:, 5:].copy()).startswith(
        "ValueError: b: The query is missing 5 of the model"
    )
    assert refusal(related, trained[0], "a.h5ad", b).startswith("TypeError: a is str, not AnnData")
    assert refusal(related, "m.tt", a, b).startswith("TypeError: model is str, not a Model")


@pytest.mark.filterwarnings("ignore:Types of one training cell", "ignore:Predictions cannot be calibrated")
def test_a_model_without_labels_or_calibration_is_refused(made, two):
    a = made.copy()
    a.obs["author"] = a.obs["other author"] = a.obs["kind"]
    model = tt.fit(made.copy(), hold_out=0, steps=2, progress=False)
    assert refusal(related, model, a, a).startswith("ValueError: The model was fitted without labels")
    few = made[:20].copy()
    few.obs["name"] = ["pair", "pair", *few.obs_names[2:]]
    model = tt.fit(few, "name", hold_out=0, steps=2, progress=False)
    assert "could not be calibrated" in refusal(related, model, a, a)


# ------------------------------------------------------------------------------------------------- command


def test_the_command_has_every_keyword_of_the_function():
    own = {"out", "figure", *COMMON}
    assert set(inspect.signature(cli.relate).parameters) == {*own, *inspect.signature(tt.relate).parameters}


@pytest.fixture
def folder(trained, two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained[0].save("m.tt")
    for name, cells in zip("ab", two, strict=True):
        cells.write_h5ad(f"{name}.h5ad")
    return tmp_path


WORDS = ["relate", "a.h5ad", "b.h5ad", "--model", "m.tt", "--label-a", "author", "--label-b", "other author"]


def test_the_command_writes_a_table_and_a_figure_and_says_what_is_which(run, folder, two):
    status, said, error = run(*WORDS, "--out", "t.csv", "--figure", "t.png")
    assert (status, error) == (0, "")
    expected = related(tt.load("m.tt"), *two)
    found = pd.read_csv("t.csv")
    pd.testing.assert_frame_equal(found, expected.astype({"label_a": str, "label_b": str}), check_dtype=False)
    assert (folder / "t.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^A: \d+ % are x \(\d+ % to \d+ %\)\.$", said, re.MULTILINE)
    assert said.endswith("Wrote t.csv, t.png\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([*WORDS, "--out", "t.txt"], 1, r"'t\.txt' does not end in \.csv: name the file 't\.csv'\."),
        ([*WORDS, "--out", "t.csv", "--figure", "t.jpg"], 1, r"'t\.jpg' does not end in \.png.*"),
        ([*WORDS[:-1], "kin", "--out", "t.csv"], 1, r"--label-b kin is not a column of b\.obs\..*"),
        (["relate", "a.h5ad", "c.h5ad", *WORDS[3:], "--out", "t.csv"], 1, ".*'c.h5ad'.*"),
        (WORDS, 2, r"relate needs --out\."),
    ],
)  # fmt: skip
def test_refusals_of_the_command_are_one_line_and_leave_no_file(run, folder, words, status, message):
    given = run(*words)
    assert given[:2] == (status, "")
    assert re.fullmatch(f"error: {message}\n", given[2]), given[2]
    assert sorted(path.name for path in folder.iterdir()) == ["a.h5ad", "b.h5ad", "m.tt"]
