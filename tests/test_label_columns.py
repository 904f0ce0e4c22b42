"""Fits on several columns: in memory, from disk, of two modalities, and from the command line."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from samples import BRIEF, make_cells, make_pair, predicted

import tripletomics as tt
from tripletomics import crossfit, pp
from tripletomics.experiment.bases import Basis
from tripletomics.experiment.fits import Fit
from tripletomics.experiment.settings import read_settings
from tripletomics.experiment.splits import make_splits, make_task
from tripletomics.problem import Settings
from tripletomics.training import train_encoder

COARSE = dict.fromkeys("abc", "low") | dict.fromkeys("defg", "high")


def with_columns(adata, seed=0):
    """Cells of a type, a class above it, a state that is missing for some cells, and a day."""
    random, kind = np.random.default_rng(seed), adata.obs["kind"].astype(str)
    adata.obs["class"] = kind.map(COARSE)
    adata.obs["fine"] = kind.where(random.random(len(kind)) < 0.5, "Unknown")
    adata.obs["state"] = pd.Categorical(np.where(kind.isin(["a", "d", "g"]), "on", "off"))
    adata.obs.loc[adata.obs_names[::5], "state"] = np.nan
    days = kind.map({name: i for i, name in enumerate("abcdefg")}) + random.normal(0, 0.1, len(kind))
    adata.obs["day"] = days.where(random.random(len(kind)) < 0.8)
    return adata


SEVERAL = {"kind": "softmax", "state": "proxynca", "day": "0.5*rnc"}


@pytest.fixture(scope="module")
def several():
    adata = with_columns(make_cells(210, 1))
    return adata, tt.fit(adata, SEVERAL, steps=60, progress=False)


def test_each_column_is_predicted(several, tmp_path):
    model = several[1]
    new = predicted(make_cells(70, 2), model)
    kind = new.obs["kind"].astype(str)
    assert (new.obs["tt_label"].astype(str) == kind).mean() > 0.85
    assert (new.obs["tt_state"].astype(str) == np.where(kind.isin(["a", "d", "g"]), "on", "off")).mean() > 0.9
    assert new.obs["tt_state"].cat.categories.tolist() == ["off", "on"]
    assert new.obs["tt_state_confidence"].between(0, 1).all()
    assert new.obs["tt_state_confidence"].mean() > 0.8
    assert np.corrcoef(new.obs["tt_day"], kind.map(ord))[0, 1] > 0.9
    model.save(tmp_path / "model.tt")
    again = predicted(make_cells(70, 2), tt.load(tmp_path / "model.tt"))
    pd.testing.assert_frame_equal(again.obs, new.obs)
    assert tt.load(tmp_path / "model.tt").summary() == model.summary()


def test_scores_of_each_column(several):
    adata, model = several
    held = (adata.obs["tt_split"] == "held-out").to_numpy()
    found = predicted(adata[held].copy(), model).obs["tt_state"].astype(str)
    truth = adata.obs["state"][held]
    scores = model.ordered["state"]
    assert scores["cells"] == truth.notna().sum()
    assert scores["accuracy"] == pytest.approx((found == truth.astype(str))[truth.notna()].mean())
    assert 0 <= scores["null_macro_f1"] <= 1
    assert f"of {scores['cells']:.0f} held-out cells right" in model.summary()
    assert dict(adata.uns["X_tt"]["settings"])["label"] == "kind=softmax, state=proxynca, day=0.5*rnc"


def prepared(adata, label, **given):
    return pp.prepare(adata, Settings(label=label, **given))[1:]


def test_a_further_column_moves_the_metric_space():
    adata, spaces = with_columns(make_cells(140, 1)), []
    for label in ("kind", {"kind": None, "state": "softmax"}, {"kind": None, "state": "1e-3*softmax"}):
        settings, problem = prepared(adata, label, steps=5)
        spaces.append(crossfit.embed(train_encoder(problem, settings).encoder, problem.rows))
    far, near = (np.abs(space - spaces[0]).mean() for space in spaces[1:])
    assert far > 2 * near > 0


def test_several_columns_from_disk_and_from_the_command_line(tmp_path, run):
    adata = with_columns(make_cells(140, 1))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "parents.csv").write_text("name,parent\n" + "".join(f"{a},{b}\n" for a, b in COARSE.items()))
    options = ["--label", "fine=softmax", "day=0.5*rnc", "--parents", tmp_path / "parents.csv"]
    words = ["fit", *options, tmp_path / "cells.h5ad", "--out", tmp_path / "out.h5ad", "--steps", 5]
    status, said, _ = run(*words)
    assert status == 0, said
    label = {"fine": "softmax", "day": "0.5*rnc"}
    tt.fit(adata, label, parents=tmp_path / "parents.csv", **BRIEF)
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    tt.fit(tmp_path / "cells.h5ad", label, parents=str(tmp_path / "parents.csv"), **BRIEF)
    for found in (written, ad.read_h5ad(tmp_path / "cells.h5ad")):
        np.testing.assert_array_equal(found.obsm["X_tt"], adata.obsm["X_tt"])
        assert dict(found.uns["X_tt"]["settings"]) == dict(adata.uns["X_tt"]["settings"])
    for verb in ("evaluate", "compare"):
        more = [] if verb == "evaluate" else ["--out", tmp_path / "page.html"]
        status, _, error = run(verb, tmp_path / "out.h5ad", "--label", "day", *more)
        assert (status, "--label day holds numbers that are not whole" in error) == (1, True)


def test_parents_given_in_any_way_are_the_same(tmp_path):
    (tmp_path / "parents.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in COARSE.items()))
    terms = [f"[Term]\nid: {a}\nname: {a}\nis_a: {b} ! {b}\n" for a, b in COARSE.items()]
    terms += [f"[Term]\nid: {b}\nname: {b}\nis_a: cell\n" for b in ("low", "high")] + ["[Term]\nid: cell\n"]
    (tmp_path / "cells.obo").write_text("format-version: 1.2\n\n" + "\n".join(terms))
    adata = with_columns(make_cells(140, 1))
    problems = [
        prepared(adata, "fine", parents=parents)[1]
        for parents in (COARSE, tmp_path / "parents.tsv", str(tmp_path / "cells.obo"))
    ]
    for problem in problems:
        assert problem.tree.names == [*"abcdefg", "high", "low"]
        np.testing.assert_array_equal(problem.nodes, problems[0].nodes)


def test_held_out_cells_do_not_shape_the_tree(tmp_path):
    adata = with_columns(make_cells(140, 1, "abcd"))
    held = np.arange(140) < 20
    kind = adata.obs["kind"].astype(str)
    adata.obs["class"] = kind.map({"a": "low", "b": "low", "c": "high"})  # of d, only a held-out cell has a class
    adata.obs["class"] = adata.obs["class"].where(~((kind == "d") & held), "low").where(np.arange(140) != 1, "high")
    adata.obs["type"] = kind
    one, two, known = (np.flatnonzero(held & (kind == name))[-1] for name in "abd")
    adata.obs.iloc[one, adata.obs.columns.get_indexer(["class", "type"])] = "high", "a"  # another branch
    adata.obs.iloc[two, adata.obs.columns.get_indexer(["class", "type"])] = "low", "new"
    with pytest.warns(UserWarning, match="Types that only held-out cells have: new"):
        problem = prepared(adata, ["class", "type"], hold_out=held)[1]
    alone = prepared(adata[~held].copy(), ["class", "type"], hold_out=0)[1]
    assert problem.tree.names == alone.tree.names == [*"abcd", "high", "low"]
    np.testing.assert_array_equal(problem.tree.parents, alone.tree.parents)
    assert [problem.tree.names[problem.nodes[cell]] for cell in (one, two, known)] == ["a", "low", "d"]
    terms = {"a": "x", "b": "x", "c": "y", "d": "y", "new": "z", "x": "w", "z": "w", "y": "top", "w": "top"}
    text = "".join(f"[Term]\nid: {name}\nis_a: {up}\n\n" for name, up in terms.items()) + "[Term]\nid: top\n"
    (tmp_path / "cells.obo").write_text(text)
    given = {"parents": tmp_path / "cells.obo", "hold_out": held}
    with pytest.warns(UserWarning, match="Types that only held-out cells have: new"):
        problem = prepared(adata, "type", **given)[1]
    assert problem.tree.names == [*"abcd", "x", "y"]


def test_a_name_above_one_type_is_told():
    adata = with_columns(make_cells(140, 1))
    adata.obs["kind"] = adata.obs["kind"].astype(str).replace({"d": "high", "e": "high", "f": "high"})
    with pytest.warns(UserWarning, match="training cells are known only as 'high', and 'g' is the only .*'other high'"):
        prepared(adata, "kind", parents=COARSE)


def test_hierarchical_triplets_take_the_tree_of_coarsely_known_cells():
    adata = with_columns(make_cells(140, 1))
    adata.obs["kind"] = adata.obs["fine"].where(adata.obs["fine"] != "Unknown", adata.obs["class"])
    settings, problem = prepared(adata, "kind", parents=COARSE, loss="hierarchical_triplet:given=true", steps=2)
    assert (problem.nodes >= problem.tree.n_leaves).any()
    fit = train_encoder(problem, settings)
    assert np.isfinite(fit.loss.get_buffer("margins").numpy()).all()


def test_refits_learn_the_columns_of_the_fit_or_say_that_they_do_not(several, recwarn):
    basis = Basis(several[0], "X_tt")

    def task(label, parents=None):
        named = basis.with_columns({"label": label, "parents": parents, "order": None})
        given = {"batch": None, "fine": None, "pseudotime": None, "unseen": False, "device": "cpu"}
        return make_task(several[0], named, reads=basis.reads(None, None), **given)

    for label in ("kind", SEVERAL):
        whole = task(label)
        basis.warn_of_another(whole)
        problem = Fit(make_splits(whole, 0.2, 1)[0], read_settings(basis.written)).problem
        assert [target.name for target in problem.targets] == ["state", "day"]
    assert not recwarn
    for other in (task("state"), task("kind", COARSE)):
        with pytest.warns(UserWarning, match=r"X_tt was fitted with .*, and the refits learn other columns"):
            basis.warn_of_another(other)


def test_finer_types_are_no_measured_values(several):
    with pytest.raises(ValueError, match="fine='day' holds numbers that are not whole"):
        tt.evaluate(several[0], "kind", fine="day")


def test_columns_of_two_modalities():
    rna, protein = make_pair(140, 1)
    whole = with_columns(rna.copy())
    rna.obs["class"], protein.obs["fine"] = whole.obs["class"].to_numpy(), whole.obs["fine"].to_numpy()
    protein.obs["day"] = whole.obs["day"].to_numpy()
    protein.obs["stage"] = pd.Categorical(whole.obs["kind"], list("gfedcba"), ordered=True)
    protein.obs["state"] = whole.obs["state"].to_numpy()
    label = {"class": None, "state": "softmax", "day": "rnc", "stage": "coral"}
    _, problem = prepared((rna[:100].copy(), protein), label)
    names = problem.tree, [target.name for target in problem.targets]
    assert names == (None, ["state", "day", "stage"])
    assert problem.targets[2].categories == list("gfedcba")
    alone = prepared(whole, {"class": None, "state": "softmax", "day": "rnc"})[1].targets
    for target, other in zip(problem.targets, alone, strict=False):
        np.testing.assert_allclose(target.values, other.values)
    _, problem = prepared((rna, protein), ["class", "fine"])
    assert problem.tree.names[-2:] == ["high", "low"]
    protein.obs["class"] = "low"
    with pytest.warns(UserWarning, match="'class': .* have another value in protein"):
        prepared((rna, protein), ["class", "fine"])


def test_evaluate_reads_the_columns_of_the_fit(tmp_path):
    adata = with_columns(make_cells(140, 1))
    tt.fit(adata, "fine", parents=COARSE, order="day", hold_out=0.3, **BRIEF)
    adata.write_h5ad(tmp_path / "out.h5ad")
    for label in ("fine", ["fine"]):
        found = tt.evaluate(ad.read_h5ad(tmp_path / "out.h5ad"), label, progress=False)
        assert {"order_error", "hierarchical_f1"} < {*found["metric"]}
        assert (found.loc[found["metric"] == "knn_macro_f1", "null"] == "fit on permuted labels").any()
