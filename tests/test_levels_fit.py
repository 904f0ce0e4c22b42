"""What a fit on labels of several levels makes of its map, and what it keeps of each name."""

import re
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
from samples import make_cells

import tripletomics as tt
from tripletomics.labels.tree import Tree
from tripletomics.losses import neighbours
from tripletomics.losses.levels import contained
from tripletomics.model.scoring import f1_of_names
from tripletomics.pl.style import style_of

PARENTS = {"a": "first", "b": "first", "c": "second", "d": "second"}


def test_f1_of_each_name_against_a_plain_loop():
    random = np.random.default_rng(0)
    tree = Tree.of({"a1": "a", "a2": "a", "a": None, "b1": "b", "b2": "b", "b": None, "c": None, "rare": "b"})
    rare = tree.names.index("rare")
    truth = random.choice([node for node in range(len(tree.names)) if node != rare], size=300)
    said = np.where(random.random(300) < 0.5, truth, random.integers(-1, len(tree.names), size=300))
    f1 = f1_of_names(truth, said, contained(tree.leaves_below()))
    below = [{one for one in range(len(tree.names)) if node in tree.path(one)} for node in range(len(tree.names))]
    for node in range(len(tree.names)):
        right = wrong = 0
        for true, found in zip(truth, said, strict=True):
            inside = true in below[node]
            if inside or node not in below[true]:
                right, wrong = right + (inside and found in below[node]), wrong + (inside != (found in below[node]))
        assert f1[node] == pytest.approx(2 * right / (2 * right + wrong)) if node != rare else np.isnan(f1[node])


@pytest.fixture(scope="module")
def leveled():
    """A model of four types below two names, and the cells; the finer name of every third cell is not known."""
    adata = make_cells(160, 1, "abcde")
    known = adata.obs["kind"].where(np.arange(160) % 3 > 0, adata.obs["kind"].map(PARENTS))
    adata.obs["kind"] = known.fillna("e")
    return tt.fit(adata, "kind", parents=PARENTS, steps=20, progress=False), adata


def test_the_map_is_trained_on_all_levels(leveled, monkeypatch):
    _, adata = leveled
    seen, fit = [], neighbours.fit
    monkeypatch.setattr(neighbours, "fit", lambda *given: seen.append(given) or fit(*given))
    tt.fit(adata.copy(), "kind", parents=PARENTS, steps=1, progress=False)
    (_, nodes, *_, below) = seen[0]
    tree = Tree.of({**PARENTS, "e": None, "first": None, "second": None})
    np.testing.assert_array_equal(below, tree.leaves_below())
    names = adata.obs["kind"].to_numpy()[(adata.obs["tt_split"] == "train").to_numpy()]
    assert all(name in [tree.names[up] for up in tree.path(node)] for node, name in zip(nodes, names, strict=True))


def test_a_file_keeps_the_scores_of_names_and_one_with_some_missing_is_refused(leveled, tmp_path):
    model, adata = leveled
    assert model.tree.names == ["a", "b", "c", "d", "e", "first", "second"]
    own = (adata.obs["tt_split"] == "train") & adata.obs["kind"].isin(["first", "a", "b"])
    assert model.findings["node_cells"][5] == own.sum()
    held = (adata.obs["tt_split"] == "held-out") & adata.obs["kind"].isin(["first", "a", "b"])
    assert f"| first | {own.sum()} | {held.sum()} | {model.findings['node_f1'][5]:.3f} |\n" in model.card()
    model.save(tmp_path / "model.tt")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    kept = ad.read_h5ad(tmp_path / "cells.h5ad").uns["X_tt"]["findings"]
    for name in ("node_cells", "node_f1"):
        for found in (tt.load(tmp_path / "model.tt").findings, kept):
            np.testing.assert_array_equal(found[name], model.findings[name])
    broken = replace(model, findings=model.findings | {"node_f1": np.array([0.5])})
    broken.save(tmp_path / "broken.tt")
    with pytest.raises(ValueError, match="is damaged: findings does not have one number for each name of the tree"):
        tt.load(tmp_path / "broken.tt")


def test_new_cells_keep_the_tree_of_the_model_and_have_the_colours_of_the_fit(leveled, tmp_path):
    model, adata = leveled
    query = make_cells(30, 2, "abcde")
    query.write_h5ad(tmp_path / "new.h5ad")
    tt.predict(query, model)
    tt.transform(tmp_path / "new.h5ad", model)
    for new in (query, ad.read_h5ad(tmp_path / "new.h5ad")):
        assert new.uns["X_tt"]["seen"] == model.id
        assert list(new.uns["X_tt"]["tree"]["names"]) == model.tree.names
    own, new = (dict(style_of(cells, color, None, None).types.values()) for cells, color in
                ((adata, "kind"), (query, "tt_label")))  # fmt: skip
    assert {"a", "b"} <= own.keys() & new.keys()
    for name in own.keys() & new.keys():
        np.testing.assert_allclose(own[name], new[name])


def test_what_a_model_of_levels_refuses(leveled):
    model, adata = leveled
    for name in ("any", "a | new"):
        with pytest.raises(ValueError, match=f"{re.escape(repr(name))} cannot be a name, because predict writes"):
            model.enroll(adata.X[:2], [name] * 2)
    assert not model.enrolled
    with pytest.raises(ValueError, match=r"init= is a model of types on several levels, .*: fit old and new cells"):
        tt.fit(make_cells(30, 2, "ef"), "kind", init=model, progress=False)
