"""A model of types on several levels: what predict, evaluate, compare and the file of the model do with names."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
from samples import BRIEF, FAST, NEW, make_cells, predicted

import tripletomics as tt
from tripletomics import evaluation, metrics
from tripletomics.cli.printing import mapping_sentences
from tripletomics.labels import nodes
from tripletomics.model import inspection
from tripletomics.model.assembly import assemble, disassemble
from tripletomics.pl import style

PARENTS = {
    "a": "ab",
    "b": "ab",
    "ab": "left",
    "c": "left",
    "d": "right",
    "e": "ef",
    "f": "ef",
    "ef": "right",
    "g": "right",
}
TYPES = list("abcdefg")
ABOVE = ["ab", "ef", "left", "right"]


def blurred(n=420, seed=1):
    """Cells of which a share is so shallow that only a coarse name can be told."""
    adata = make_cells(n, seed)
    shallow = np.random.default_rng(seed).random(n) < 0.3
    x = adata.X.toarray()
    x[shallow] = np.random.default_rng(seed).binomial(x[shallow].astype(int), 0.06)
    adata.X = x
    return adata


@pytest.fixture(scope="module")
def fitted():
    """Cells, a third of them known only to the name above their type, and their model."""
    adata = blurred()
    adata.obs["known"] = np.where(np.arange(420) % 3 == 0, adata.obs["kind"].map(PARENTS), adata.obs["kind"])
    adata.obs.loc[adata.obs_names[:20], "known"] = None
    return adata, tt.fit(adata, "known", parents=PARENTS, hold_out=0.3, **FAST)


@pytest.fixture(scope="module")
def query(fitted):
    return predicted(blurred(300, 2), fitted[1])


def test_the_names_of_the_model(fitted):
    model = fitted[1]
    assert model.types == TYPES
    assert model.names == TYPES + ABOVE
    assert [model.tree.names[up] if up >= 0 else None for up in model.tree.parents[7:]] == ["left", "right", None, None]


def test_the_deepest_likely_name_is_written_with_its_probability(fitted, query):
    model = fitted[1]
    found, _, _ = model.predict(query.X)
    p = found.probabilities.astype(float) @ model.tree.leaves_below().T
    assert {*query.obs["tt_label"]} - {*TYPES, "unassigned"}
    for i, (name, confidence) in enumerate(zip(query.obs["tt_label"], query.obs["tt_confidence"], strict=True)):
        likely = [code for code in range(11) if p[i, code] >= 0.5]
        if name != "unassigned":
            deepest = max(likely, key=lambda code: len(model.tree.path(code)))
            assert name == model.names[deepest]
            assert confidence == pytest.approx(p[i, deepest], abs=1e-5)
    assert query.obs["tt_label"].cat.categories.tolist() == [*TYPES, *ABOVE, "unassigned"]


def test_reject_0_names_every_cell(fitted):
    adata = blurred(100, 3)
    adata.X = adata.X * 0 + 1  # like no cell of the fit
    found = predicted(adata, fitted[1], reject=0).obs
    assert "unassigned" not in {*found["tt_label"]}
    assert {*found["tt_label"][found["tt_confidence"] < 0.5]} <= {"left", "right"}
    assert {*predicted(adata, fitted[1]).obs["tt_label"]} == {"unassigned"}


def test_label_sets_are_written_as_names_and_hold_the_types_as_often_as_asked_for(fitted, query):
    tree, truth = fitted[1].tree, query.obs["kind"].map(TYPES.index).to_numpy()
    below = tree.leaves_below()
    texts = [[] if not text else text.split(" | ") for text in query.obs["tt_label_set"]]
    sets = np.array([
        np.ones(7, dtype=bool) if text == ["any"] else below[[tree.names.index(name) for name in text]].any(axis=0)
        for text in texts
    ])  # fmt: skip
    np.testing.assert_array_equal(sets, fitted[1].predict(query.X)[0].sets)
    assert 0.8 < sets[np.arange(300), truth].mean() < 1
    assert sets.mean() < 0.6
    assert any(name in ABOVE for text in texts for name in text)


def test_a_label_agrees_with_the_map_if_a_type_below_it_is_near(fitted, query):
    model = fitted[1]
    found, _, m = model.predict(query.X)
    near = np.argsort(((m[:, None] - model.reference.map[None]) ** 2).sum(axis=2), axis=1)[:, :15]
    below = model.tree.leaves_below()
    expected = [below[code, model.reference.codes[rows]].any() for code, rows in zip(found.nodes, near, strict=True)]
    assert (query.obs["tt_agrees"] == expected).mean() > 0.99  # ties aside


def test_groups_have_names_of_all_levels(fitted):
    adata = blurred(300, 2)
    adata.obs["cluster"] = np.where(adata.obs["kind"].isin(["a", "b"]), "1", adata.obs["kind"])
    found = predicted(adata, fitted[1], groups="cluster", reject=0).obs.groupby("cluster").first()
    assert found.loc["1", "tt_group_label"] == "ab"
    assert found.loc["d", "tt_group_label"] == "d"
    assert found["tt_group_label"].cat.categories.tolist() == [*TYPES, *ABOVE, "unassigned"]


def test_a_file_keeps_the_tree_and_the_predictions(fitted, query, tmp_path):
    model = fitted[1]
    model.save(tmp_path / "levels.tt")
    loaded = tt.load(tmp_path / "levels.tt")
    assert loaded.tree.names == model.tree.names
    np.testing.assert_array_equal(loaded.tree.parents, model.tree.parents)
    assert loaded.checks == model.checks
    pd.testing.assert_frame_equal(predicted(blurred(300, 2), loaded).obs, query.obs)


def test_enrolled_types_are_types_of_the_top_level(fitted, tmp_path):
    model = copy.deepcopy(fitted[1])
    with pytest.raises(ValueError, match="'left' is a type of the model already"):
        model.enroll(make_cells(3, 5, NEW).X, ["left"] * 3)
    model.enroll(make_cells(20, 5, NEW).X, [NEW] * 20)
    assert model.names == [*TYPES, NEW, *ABOVE]
    assert model.nodes.parents[7] == -1
    model.save(tmp_path / "levels.tt")
    found = predicted(make_cells(60, 6, [*TYPES, NEW]), tt.load(tmp_path / "levels.tt"), reject=0)
    named = metrics.recall_per_type(
        (found.obs["kind"] == NEW).to_numpy(int), (found.obs["tt_label"] == NEW).to_numpy(int), 2
    )
    assert (named > 0.7).all()


def broken(model, **changes):
    """Raise as the reading of a model file with this content does."""
    other = copy.deepcopy(model)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    inspection.check_model(other)


def assembled(model, **changes):
    """Return the model of a file with this content."""
    header, tensors = disassemble(model, index=False)
    return assemble(tt.Model, json.loads(json.dumps(header, default=np.ndarray.tolist)) | changes, tensors)


def test_damage_of_the_tree_is_seen(fitted, tmp_path):
    model = fitted[1]
    broken(model)
    with pytest.raises(ValueError, match="the types of the tree are not the classes"):
        broken(model, tree=nodes.with_types(model.tree, ["z"]))
    with pytest.raises(ValueError, match="an enrolled type is a name of the tree"):
        broken(model, enrolled=["left"])
    with pytest.raises(ValueError, match="costs do not belong to the tree"):
        broken(model, tree=None)


@pytest.mark.parametrize(
    "given", [[], None, "tree", {"names": "ab", "parents": [-1, -1]}, {"names": [1], "parents": [-1]}]
)
def test_a_tree_that_is_none_is_refused_in_words(fitted, given):
    with pytest.raises(ValueError, match="tree does not hold names and the position"):
        assembled(fitted[1], tree=given)


@pytest.mark.parametrize("name", ["node_f1", "node_held"])
def test_findings_of_names_are_numbers_one_for_each(fitted, name):
    findings = {key: np.asarray(value).tolist() for key, value in fitted[1].findings.items()}
    with pytest.raises(ValueError, match=rf"findings\['{name}'\]=\['x'"):
        assembled(fitted[1], findings=findings | {name: ["x"] * 11})
    with pytest.raises(ValueError, match="findings does not have one number for each name of the tree"):
        assembled(fitted[1], findings=findings | {name: [1.0] * 10})


def test_a_name_above_the_types_is_not_unassigned():
    adata = make_cells(70, 1)
    with pytest.raises(ValueError, match="has a type 'unassigned', which is what predict calls"):
        tt.fit(adata, "kind", parents={"a": "unassigned", "b": "unassigned"}, unlabelled="?", **BRIEF)


def test_a_tree_with_a_name_that_predict_gives_to_cells_like_no_type_is_refused(fitted):
    tree = nodes.Tree.of({**PARENTS, **dict.fromkeys("abc", "unassigned"), "ef": "right", "right": None})
    with pytest.raises(ValueError, match="a name of the tree is 'unassigned'"):
        assembled(fitted[1], tree={"names": tree.names, "parents": tree.parents.tolist()})


def test_the_checks_and_the_summary_tell_of_levels(fitted):
    model = fitted[1]
    checks, summary = model.checks, model.summary()
    for level, names in (("level 1", 2), ("level 2", 5), ("level 3", 7)):
        assert checks[f"f1_{level}"] > checks[f"f1_{level}_null"] + 0.1
        assert f"{level} of {names} names {checks[f'f1_{level}']:.3f} ({checks[f'f1_{level}_null']:.3f})" in summary
    assert checks["f1_level 3"] == pytest.approx(checks["macro_f1"])
    assert checks["hierarchical_f1"] > checks["hierarchical_f1_null"]
    assert checks["coarse_cells"] > 20
    assert f"{checks['set_names']:.2f} names" in summary
    assert "held-out cells are known only to a name above the types" in summary


def test_levels_of_columns_have_their_names():
    adata = make_cells(210, 1)
    adata.obs["class"] = adata.obs["kind"].replace({"a": "x", "b": "x"}).replace(list("cdef"), "y")
    model = tt.fit(adata, ["class", "kind"], hold_out=0.3, **BRIEF)
    assert {"f1_class", "f1_kind", "f1_class_null"} <= {*model.checks}
    assert "class of 3 names " in model.summary()


def test_evaluate_and_compare_score_each_level(fitted):
    adata, _ = fitted
    given = {"parents": PARENTS, "cache": None, "progress": False}
    table = tt.evaluate(adata, "known", **given)
    rows = table[table["metric"].isin(["level_f1", "hierarchical_f1"]) & (table["space"] == "X_tt_metric")]
    held, null = (
        rows[rows["split"] == split].set_index(["metric", "type"])["value"] for split in ("held-out", "permuted")
    )
    assert held.index.tolist() == null.index.tolist()
    assert [level for _, level in held.index] == ["level 1", "level 2", "level 3", ""]
    assert (held > null + 0.05).all()
    said = [
        f"{name} {held[key]:.3f} ({null[key]:.3f})" for key in held.index for name in (key[1] or "hierarchical F1",)
    ]
    assert (
        f"X_tt_metric, metric space: held-out macro-F1 on levels: {', '.join(said)}.\nIn brackets"
        in table.attrs["summary"]
    )
    assert "hierarchical_f1" in evaluation.overview(table, ["space"])
    train = (adata.obs["tt_split"] == "train").to_numpy()
    leaf = adata.obs["known"].isin(TYPES).to_numpy()
    code = adata.obs["known"].map(lambda name: TYPES.index(name) if name in TYPES else -1).to_numpy()
    z = adata.obsm["X_tt_metric"]
    expected = metrics.knn_macro_f1(z[train & leaf], code[train & leaf], z[~train & leaf], code[~train & leaf])
    assert held["level_f1", "level 3"] == pytest.approx(expected)

    result = tt.compare(adata[:210].copy(), "known", ["tt:steps=5", "lda"], seeds=1, **given)
    found = result.table[result.table["metric"] == "hierarchical_f1"]
    assert {*found["method"]} == {"tt:steps=5", "lda"}
    assert {*found["split"]} == {"train", "held-out", "permuted"}
    assert result.label == "known"
    assert "LDA, metric space: held-out macro-F1 on levels: level 1 " in result.summary()
    drawn = result.adata.obs["known"]  # cells known coarsely have their coarse name, and colours are those of branches
    assert drawn.dropna().astype(str).equals(adata.obs["known"][:210].dropna().astype(str))
    assert style.style_of(result.adata, "known", None, None).branches is not None


def test_permuted_types_score_as_chance_below_the_right_parents():
    adata = make_cells(280, 1)
    tree = nodes.Tree.of(PARENTS | {"left": None, "right": None})
    codes = np.array([tree.names.index(name) for name in adata.obs["kind"]])
    wrong = metrics.permute_within_parents(codes, tree.parents, np.random.default_rng(0))
    adata.obs["kind"] = np.array(tree.names)[wrong]
    checks = tt.fit(adata, "kind", parents=PARENTS, hold_out=0.4, **FAST).checks
    assert checks["f1_level 1"] > checks["f1_level 1_null"] + 0.3
    assert checks["f1_level 3"] == pytest.approx(checks["f1_level 3_null"], abs=0.1)
    assert checks["hierarchical_f1"] == pytest.approx(checks["hierarchical_f1_null"], abs=0.06)


def test_relate_takes_a_model_with_levels(fitted):
    a, b = blurred(100, 4), blurred(100, 5)
    table = tt.relate(a, b, fitted[1], label_a="kind", label_b="kind")
    best = table.groupby("label_a", observed=True).first()
    assert (best.index.astype(str) == best["label_b"].astype(str)).mean() > 0.7


def test_the_two_reasons_of_unassigned_cells_are_printed_apart(query):
    found = query.copy()
    found.uns["tt_mapping"] = dict(found.uns["tt_mapping"]) | {"rejected": 41, "unlikely": 3}
    said = "\n".join(mapping_sentences(found, "tt", ""))
    assert "38 of 300 cells lie too far from all known types and are unassigned.\n3 more are unassigned because" in said
