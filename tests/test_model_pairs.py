"""A model of two modalities: arrays in, arrays out, by one of them, the other, or both; and its file."""

import copy
import json
import re
from dataclasses import fields, replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from safetensors import safe_open
from samples import (
    KEYS,
    KNOWN,
    MODALITIES,
    assert_same_coordinates,
    held_out,
    make_cells,
    make_pair,
    plain,
    predicted,
)
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

import tripletomics as tt
from tripletomics.features import Pair
from tripletomics.labels.prediction import Prediction, predict
from tripletomics.networks import Encoder

ONE, OTHER, BOTH = (True, False), (False, True), (True, True)
WAYS = pytest.mark.parametrize("names", [["rna"], ["protein"], ["rna", "protein"]])


def ordered(model, **tables):
    """The arrays of tables, by the features of the model."""
    return {name: table[:, model.part(name).genes].copy().X for name, table in tables.items()}


@pytest.fixture(scope="module")
def given(partly, fresh):
    """60 new cells with both, as arrays."""
    return ordered(partly.model, rna=fresh.rna[:60], protein=fresh.protein[:60])


def mixed(model, given):
    """Every cell by the first, the second, or both, in turn."""
    table = model.table(**given)
    return Pair(table.sides, np.array([(ONE, OTHER, BOTH)[i % 3] for i in range(table.shape[0])]))


def assert_same_fields(one, other):
    for field in fields(other):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def assert_same_predictions(one, other, rows=slice(None), **tolerance):
    for field in fields(Prediction):
        found, expected = getattr(one, field.name), getattr(other[rows], field.name)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))
        else:
            np.testing.assert_array_equal(found, expected)


EXACT = {"rtol": 0, "atol": 0}


def test_the_model_knows_its_modalities(partly):
    model = partly.model
    assert model.modalities == MODALITIES
    assert repr(model) == "<tripletomics.Model: 150 rna and 12 protein, 7 types, loss=softmax + clip>"
    assert model.settings["modalities"] == "rna, protein"
    assert model.settings["counts"] == "True, False"
    for name, part in zip(MODALITIES, model.features.parts, strict=True):
        assert sorted(part.genes) == sorted(getattr(partly, name).var_names)
    assert set(model.alone) == set(MODALITIES)


@WAYS
def test_two_modalities_in_arrays_out(partly, given, names):
    model, some = partly.model, {name: given[name] for name in names}
    z, m = model.place(**some)
    assert z.dtype == m.dtype == np.float32
    assert z.shape == (60, 32)
    assert m.shape == (60, 2)
    np.testing.assert_array_equal(model.embed(**some), z)
    np.testing.assert_array_equal(model.map(**some), m)
    np.testing.assert_array_equal(model.embed(model.table(**some)), z)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 32**0.5, rtol=1e-5)
    turned = {name: sp.csr_matrix(x) if name == "protein" else x.toarray() for name, x in some.items()}
    np.testing.assert_allclose(model.embed(**turned), z, atol=1e-4)
    np.testing.assert_allclose(model.map(**turned), m, atol=1e-4)
    np.testing.assert_allclose(model.embed(**{name: x[5:8] for name, x in some.items()}), z[5:8], atol=1e-4)
    none = {name: x[:0] for name, x in some.items()}
    assert model.embed(**none).shape == (0, 32)
    assert model.map(**none).shape == (0, 2)
    found, z, m = model.predict(**none)
    assert [x.shape for x in (found.codes, found.sets, z, m)] == [(0,), (0, 7), (0, 32), (0, 2)]


def test_a_cell_with_both_lies_between_its_coordinates_by_each(partly, given):
    model = partly.model
    a, b = (model.embed(**{name: x}) for name, x in given.items())
    middle = sum(part.width * z for part, z in zip(model.features.parts, (a, b), strict=True))
    expected = middle / np.linalg.norm(middle, axis=1, keepdims=True) * 32**0.5
    np.testing.assert_allclose(model.embed(**given), expected, atol=1e-4)
    assert np.linalg.norm(a - b, axis=1).min() > 0.01


@pytest.mark.parametrize("which", ["both", "partly"])
def test_arrays_lie_where_their_tables_do(request, which):
    """By all that was measured of a cell, wherever it stands."""
    fit = request.getfixturevalue(which)
    model, shared = fit.model, fit.rna.obs_names.intersection(fit.protein.obs_names)
    assert len(shared) >= 100
    z, m = model.place(**ordered(model, rna=fit.rna[shared], protein=fit.protein[shared]))
    for name in MODALITIES:
        adata = getattr(fit, name)
        np.testing.assert_allclose(adata[shared].obsm["X_tt_metric"], z, atol=1e-4)
        np.testing.assert_allclose(adata[shared].obsm["X_tt"], m, atol=1e-4)
        alone = adata[~adata.obs_names.isin(shared)]
        assert (alone.n_obs >= 100) == (which == "partly")
        x = ordered(model, **{name: alone})
        np.testing.assert_allclose(alone.obsm["X_tt_metric"], model.embed(**x), atol=1e-4)
    query = plain(fit.protein)
    tt.transform(query, model)
    np.testing.assert_allclose(model.embed(**ordered(model, protein=query)), query.obsm["X_tt_metric"], atol=1e-5)


def test_every_row_of_a_mixed_table_is_embedded_and_named_as_if_asked_alone(partly, given):
    model, table = partly.model, mixed(partly.model, given)
    found, z, m = model.predict(table)
    np.testing.assert_array_equal(z, model.embed(table))
    np.testing.assert_array_equal(m, model.map(table))
    assert found.sets.shape == (60, 7)
    for i, way in enumerate(({"rna": given["rna"]}, {"protein": given["protein"]}, given)):
        some = {name: x[i::3] for name, x in way.items()}
        np.testing.assert_allclose(z[i::3], model.embed(**some), atol=1e-4)
        np.testing.assert_allclose(m[i::3], model.map(**some), atol=1e-4)
        assert_same_predictions(found[np.arange(i, 60, 3)], model.predict(**way)[0], slice(i, None, 3))
    turn = np.random.default_rng(0).permutation(60)
    assert_same_predictions(model.predict(table[turn])[0], found, turn)


def test_table_puts_the_arrays_together(partly, given):
    model, rna, protein = partly.model, given["rna"].toarray(), given["protein"]
    both = model.table(**given)
    assert both.widths == (150, 12)
    np.testing.assert_array_equal(both.toarray(), np.hstack([rna, protein, np.ones((60, 2))]))
    one = np.hstack([np.zeros((60, 150)), protein, np.zeros((60, 1)), np.ones((60, 1))])
    np.testing.assert_array_equal(model.table(protein=protein).toarray(), one)


def test_genes_that_are_not_present_are_told_by_modality(partly, given):
    model = partly.model
    x = {"rna": given["rna"].toarray(), "protein": given["protein"].copy()}
    present = {"rna": np.arange(150) % 3 > 0, "protein": np.arange(12) != 4}
    every = {name: np.ones_like(known) for name, known in present.items()}
    np.testing.assert_array_equal(model.embed(**x, present=every), model.embed(**x))
    z, m = model.place(**x, present=present)
    assert not np.allclose(z, model.embed(**x))
    for name, known in present.items():
        x[name][:, ~known] = np.nan
    np.testing.assert_array_equal(model.embed(**x, present=present), z)
    np.testing.assert_array_equal(model.map(**x, present=present), m)
    assert np.isfinite(m).all()
    only = model.embed(rna=x["rna"], present={"rna": present["rna"]})
    np.testing.assert_array_equal(model.embed(rna=x["rna"], present=present), only)


@pytest.mark.parametrize("name", MODALITIES)
def test_present_by_modality_is_a_truth_for_each_gene(partly, given, name):
    n = len(partly.model.part(name).genes)
    message = f"present is bool of shape (5,): pass True or False for each of {name}'s {n} genes."
    with pytest.raises(ValueError, match=re.escape(message)):
        partly.model.embed(**given, present={name: np.ones(5, dtype=bool)})


@pytest.mark.parametrize("present", [np.ones(150, dtype=bool), {"rnaa": np.ones(150, dtype=bool)}])
def test_present_says_of_which_modality(partly, given, present):
    with pytest.raises((TypeError, ValueError), match=r"rna.*protein"):
        partly.model.embed(**given, present=present)


UNKNOWN = "is not a modality of this model: pass rna=, protein=, or both."
WHICH = "This model has two modalities: say which x is, as in embed(rna=x) or embed(protein=x)."
GENES = "rna has shape (60, 12): pass cells by rna's 150 genes"
PROTEINS = "pass cells by protein's 12 genes, in the order"
NOT_ONE = "is not one of this model: rna, protein."


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda m, rna, protein: m.embed(rna=rna, adt=protein), TypeError, f"'adt' {UNKNOWN}"),
        (lambda m, rna, protein: m.map(RNA=rna), TypeError, f"'RNA' {UNKNOWN}"),
        (lambda m, rna, protein: m.table(), TypeError, "No modality was given: pass rna=, protein=, or both."),
        (lambda m, rna, protein: m.embed(), TypeError, WHICH),
        (lambda m, rna, protein: m.place(rna), TypeError, WHICH),
        (lambda m, rna, protein: m.predict(protein), TypeError, WHICH),
        (lambda m, rna, protein: m.search(protein, 3), TypeError, WHICH),
        (lambda m, rna, protein: m.same(rna, rna), TypeError, "This model has two modalities"),
        (lambda m, rna, protein: m.enroll(rna, ["new"] * 60), TypeError, "This model has two modalities"),
        (lambda m, rna, protein: m.embed(rna, rna=rna), TypeError, "Pass x or rna, not both."),
        (lambda m, rna, protein: m.place(m.table(rna=rna), protein=protein), TypeError, "Pass x or protein, not both."),
        (lambda m, rna, protein: m.embed(rna=rna.toarray().tolist()), TypeError, "rna is list, not an array"),
        (lambda m, rna, protein: m.embed(protein=ad.AnnData(protein)), TypeError, "protein is AnnData, not an array"),
        (lambda m, rna, protein: m.embed(rna=protein), ValueError, GENES),
        (lambda m, rna, protein: m.embed(protein=protein[0]), ValueError, PROTEINS),
        (lambda m, rna, protein: m.embed(rna=rna[:9], protein=protein), ValueError, "got 9 of rna and 60 of protein."),
        (lambda m, rna, protein: m.gene_weights(), ValueError, f"modality=None {NOT_ONE}"),
        (lambda m, rna, protein: m.gene_weights("RNA"), ValueError, f"modality='RNA' {NOT_ONE}"),
        (lambda m, rna, protein: m.part("adt"), ValueError, f"modality='adt' {NOT_ONE}"),
    ],
)
def test_what_is_given_has_the_name_and_shape_of_a_modality(partly, given, wrong, error, message):
    with pytest.raises(error, match=re.escape(message)):
        wrong(partly.model, **given)


def test_a_model_of_one_modality_takes_one_array(trained, new_cells):
    model, x = trained[0], new_cells.X[:5]
    for wrong in (lambda: model.embed(rna=x), lambda: model.predict(rna=x), lambda: model.table(x=x)):
        with pytest.raises(TypeError, match=re.escape("one modality: pass its array alone, as in embed(x).")):
            wrong()
    with pytest.raises(TypeError, match="Pass x or rna, not both"):
        model.embed(x, rna=x)
    with pytest.raises(TypeError, match="x is Pair, not an array"):
        model.embed(Pair((x, x), np.ones((5, 2), dtype=bool)))
    assert (model.modalities, model.alone, model.matches) == ((), {}, {})
    assert model.part() is model.features


# ---------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("rows", [np.array([3, 0, 3]), slice(1, 4), np.array([True, False, True, False, True])])
def test_some_of_the_predictions(rows):
    five = np.arange(5)
    sets = np.arange(10).reshape(5, 2) % 3 == 0
    found = Prediction(
        five, five / 10, five / 20, five > 2, sets, sets / 2, five / 30, five / 5, five > 3, five, five > 4
    )
    for field in fields(Prediction):
        expected = [getattr(found, field.name)[i] for i in five[rows]]
        np.testing.assert_array_equal(getattr(found[rows], field.name), expected)
    assert found[rows].sets.shape[1] == 2


@WAYS
def test_predictions_weigh_the_evidence_as_calibrated_for_what_was_measured(partly, given, names):
    model, some = partly.model, {name: given[name] for name in names}
    found, z, m = model.predict(**some, reject=0.2, coverage=0.8)
    np.testing.assert_array_equal(z, model.embed(**some))
    np.testing.assert_array_equal(m, model.map(**some))
    calibration = model.calibration if len(names) == 2 else model.alone[names[0]].calibration
    evidence = model.reference.evidence(z, model.features.pcs(model.table(**some)))
    assert_same_predictions(found, predict(evidence, calibration, 0.2, 0.8), **EXACT)


def test_blocks_of_cells_do_not_show(partly, given, monkeypatch):
    model, table = partly.model, mixed(partly.model, given)
    whole = model.predict(table)[0]
    monkeypatch.setattr("tripletomics.model.model.BLOCK", 7)
    assert_same_predictions(model.predict(table)[0], whole)


@pytest.mark.parametrize("name", MODALITIES)
def test_a_calibration_of_one_modality_moves_no_other_cell(partly, given, name):
    model, table = partly.model, mixed(partly.model, given)
    side, before = model.alone[name], model.predict(table)[0]
    other = replace(side.calibration, weights=side.calibration.weights * 0.1)
    changed = replace(model, alone=model.alone | {name: replace(side, calibration=other)}).predict(table)[0]
    mine = np.arange(60) % 3 == MODALITIES.index(name)
    assert_same_predictions(changed[~mine], before, ~mine, **EXACT)
    assert (changed.confidence[mine] < before.confidence[mine]).mean() > 0.9


def uncalibrated(model):
    return replace(model, alone=model.alone | {"rna": replace(model.alone["rna"], calibration=None)})


def test_a_modality_that_could_not_be_calibrated_says_so(partly, given):
    model = uncalibrated(partly.model)
    for ask in (lambda: model.predict(rna=given["rna"]), lambda: model.predict(mixed(model, given))):
        with pytest.raises(ValueError, match="could not be calibrated"):
            ask()
    assert len(model.predict(protein=given["protein"])[0].codes) == 60
    assert len(model.predict(**given)[0].codes) == 60
    for wrong, message in (({"reject": 1}, "reject=1"), ({"coverage": 0}, "coverage=0")):
        with pytest.raises(ValueError, match=message):
            model.predict(protein=given["protein"], **wrong)


@pytest.mark.parametrize("which", ["both", "partly"])
@pytest.mark.parametrize("name", MODALITIES)
def test_how_a_modality_alone_does_is_counted_on_its_held_out_cells(request, which, name):
    fit = request.getfixturevalue(which)
    model, adata = fit.model, getattr(fit, name)
    query = plain(adata[held_out(adata)])
    kinds = make_pair(400 if which == "both" else 450)[0].obs["kind"][query.obs_names]
    found = model.predict(**ordered(model, **{name: query}))[0]
    tt.predict(query, model, reject=0)
    assert query.obs["tt_label"].tolist() == np.array(model.types)[found.codes].tolist()
    checks, codes = model.alone[name].checks, np.array([model.classes.index(kind) for kind in kinds])
    assert set(checks) == set(model.checks)
    assert checks["cells"] == len(codes) > 20
    assert checks["macro_f1"] == pytest.approx(f1_score(codes, found.codes, average="macro"))
    assert checks["macro_f1"] > (0.8 if which == "both" else 0)
    assert checks["coverage"] == pytest.approx(found.sets[np.arange(len(codes)), codes].mean())
    assert checks["set_size"] == pytest.approx(found.sets.sum() / len(codes))
    assert checks["unassigned"] == pytest.approx(found.unassigned.mean())
    assert (
        f"Predictions of held-out cells by {name} alone: macro-F1 {checks['macro_f1']:.3f} of the most"
        in model.summary()
    )
    assert fit.rna.uns["X_tt"]["alone"][name] == checks


@pytest.mark.parametrize("which", ["both", "unlabelled", "partly"])
def test_how_often_a_cell_finds_itself_across_modalities(request, which):
    fit = request.getfixturevalue(which)
    out = fit.rna.obs_names[held_out(fit.rna)].intersection(fit.protein.obs_names)
    tables = ordered(fit.model, rna=fit.rna[out], protein=fit.protein[out])
    matches, d = fit.model.matches, cdist(*(fit.model.embed(**{name: x}) for name, x in tables.items()))
    assert matches["cells"] == len(out) > 20
    for k in (1, 10, 50):
        ways = [np.mean([(row < row[i]).sum() < k for i, row in enumerate(way)]) for way in (d, d.T)]
        assert matches[f"recall_{k}"] == pytest.approx(np.mean(ways))
        assert matches[f"null_{k}"] == pytest.approx(min(k / len(out), 1))
    assert f"Same cell: {matches['recall_10']:.3f} (by chance {10 / len(out):.3f})." in fit.model.summary()
    assert f"one of {len(out)} held-out cells by rna is found among the 10 nearest by protein" in fit.model.summary()
    assert fit.rna.uns["X_tt"]["matches"] == matches


# ---------------------------------------------------------------------------------------------------- what else it does


@WAYS
def test_search_by_one_or_both(partly, given, names):
    model, rna, protein = partly.model, partly.rna, partly.protein
    some = {name: given[name] for name in names}
    everyone = ad.concat([rna, protein[~protein.obs_names.isin(rna.obs_names)]], join="inner")
    train = everyone[~held_out(everyone)]
    index = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(train.obsm["X_tt_metric"])
    d, rows = index.kneighbors(model.embed(**some))
    for hits in (model.search(k=4, **some), model.search(model.table(**some), 4)):
        assert hits.names.tolist() == train.obs_names.to_numpy()[rows].tolist()
        assert hits.labels.tolist() == train.obs["kind"].to_numpy()[rows].tolist()
        np.testing.assert_allclose(hits.distances, d, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", ["both", "partly"])
def test_a_training_cell_with_both_finds_itself_first(request, which):
    fit = request.getfixturevalue(which)
    shared = fit.rna.obs_names[~held_out(fit.rna)].intersection(fit.protein.obs_names)
    hits = fit.model.search(k=1, **ordered(fit.model, rna=fit.rna[shared], protein=fit.protein[shared]))
    assert hits.names[:, 0].tolist() == shared.tolist()
    np.testing.assert_allclose(hits.distances, 0, atol=1e-3)


def new_type(model, names, n=8):
    levels = 4 + np.random.default_rng(9).normal(0, 0.3, size=(n, 12)).astype(np.float32)
    protein = ad.AnnData(levels)
    protein.var_names = [f"P{i + 1}" for i in range(12)]
    tables = {"rna": make_cells(n, 9, "h"), "protein": protein}
    return ordered(model, **{name: tables[name] for name in names})


@WAYS
def test_a_type_is_enrolled_by_one_or_both(partly, given, names):
    model = replace(partly.model)
    x = new_type(model, names)
    z, m = model.place(**x)
    model.enroll(model.table(**x), ["h"] * 8)
    assert model.types == [*KNOWN, "h"]
    assert partly.model.types == list(KNOWN)
    np.testing.assert_allclose(model.reference.z[-8:], z, atol=1e-5)
    np.testing.assert_allclose(model.reference.map[-8:], m, atol=1e-5)
    np.testing.assert_allclose(model.reference.prototypes[-1], z.mean(axis=0), atol=1e-4)
    found = model.predict(**x)[0]
    assert found.sets.shape == (8, 8)
    assert (found.codes == 7).all()
    assert (model.predict(**given)[0].codes != 7).mean() > 0.9
    with pytest.raises(ValueError, match=r"3 names for 8 cells"):
        model.enroll(model.table(**x), ["i"] * 3)


def test_whether_two_cells_are_of_one_type(partly, fresh, given):
    model, kinds = partly.model, fresh.kinds[:60]
    a, b = np.random.default_rng(0).integers(60, size=(2, 200))
    table = model.table(**given)
    p = model.same(table[a], table[b])
    assert p.shape == (200,)
    np.testing.assert_allclose(model.same(table[b], table[a]), p, rtol=1e-5)
    assert p[kinds[a] == kinds[b]].mean() > p[kinds[a] != kinds[b]].mean() + 0.3
    x = model.features.pcs(table)
    evidence = model.reference.evidence(model.embed(table), x)
    np.testing.assert_allclose(p, model.calibration.same(evidence.of(a), evidence.of(b)), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="pass one cell in each for every pair"):
        model.same(table[a], table[b[:9]])
    across = model.same(model.table(rna=given["rna"]), model.table(protein=given["protein"]))
    apart = model.same(model.table(rna=given["rna"]), model.table(protein=np.roll(given["protein"], 1, axis=0)))
    assert np.isfinite(across).all()
    assert across.mean() > apart[kinds != np.roll(kinds, 1)].mean()


@pytest.mark.parametrize("name", MODALITIES)
def test_gene_weights_are_those_of_one_modality(both, name):
    model, side = both.model, MODALITIES.index(name)
    weights, part, other = model.gene_weights(name), model.part(name), MODALITIES[1 - side]
    assert part is model.features.parts[side]
    assert weights.shape == (len(part.genes),)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()
    kept = np.arange(len(weights)) != 3  # a gene that reaches no component weighs nothing
    seen = model.features.seen
    changed_parts = [replace(p, axes=p.axes * kept) if p is seen.parts[side] else p for p in seen.parts]
    changed = replace(model, features=replace(model.features, seen=replace(seen, parts=tuple(changed_parts))))
    np.testing.assert_allclose(changed.gene_weights(name), weights * kept / weights[kept].sum())
    np.testing.assert_array_equal(changed.gene_weights(other), model.gene_weights(other))
    changed = replace(model, networks=copy.deepcopy(model.networks))
    with torch.no_grad():
        changed.networks.encoder.encoders[side].trunk[0].weight[:, 0] = 0
    assert not np.allclose(changed.gene_weights(name), weights)
    np.testing.assert_array_equal(changed.gene_weights(other), model.gene_weights(other))


def test_gene_weights_are_how_far_a_gene_moves_the_first_layer(partly):
    model, protein = partly.model, partly.protein
    x = ordered(model, protein=protein[~held_out(protein)])["protein"]
    layer, found = model.networks.encoder.encoders[1].trunk[0], []
    with torch.no_grad():
        for gene in range(12):
            alone = np.tile(x.mean(axis=0), (len(x), 1))
            alone[:, gene] = x[:, gene]
            seen = model.features.normalise(model.table(protein=alone)).sides[1]
            found.append(layer(torch.from_numpy(seen)).var(dim=0, correction=0).sum().sqrt().item())
    np.testing.assert_allclose(model.gene_weights("protein"), np.array(found) / np.sum(found), rtol=1e-3)


def test_the_summary_and_the_record_of_two_modalities(partly, trained, tmp_path):
    model = partly.model
    predictions = "Predictions of held-out cells"
    starts = ["15-NN macro-F1", "held-out cells", "permuted labels", "training cells", f"{predictions}: macro-F1 ",
              f"{predictions} by rna alone", f"{predictions} by protein alone", "Same cell: "]  # fmt: skip
    lines = model.summary().split("\n")
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=False)] == starts
    for summary in (replace(model, alone={}, matches={}).summary(), trained[0].summary()):
        assert not re.search(r" alone|Same cell", summary)
    record = model.record()
    assert record["alone"] == {name: model.alone[name].checks for name in MODALITIES}
    assert record["matches"] == model.matches
    assert set(record) == set(trained[0].record()) | {"alone", "matches"}
    assert partly.rna.uns["X_tt"] is not partly.protein.uns["X_tt"]
    for adata in (partly.rna, partly.protein):
        adata.write_h5ad(tmp_path / "a.h5ad")
        again = ad.read_h5ad(tmp_path / "a.h5ad")
        assert_same_coordinates(again, adata)
        for written in (adata.uns["X_tt"], again.uns["X_tt"]):
            assert set(written) == set(record)
            assert dict(written["matches"]) == model.matches
            assert {name: dict(checks) for name, checks in written["alone"].items()} == record["alone"]
            assert written["settings"]["modalities"] == "rna, protein"


# ---------------------------------------------------------------------------------------------------- its file


@pytest.fixture(scope="module")
def loaded(partly, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "pair.tt"
    partly.model.save(path, index=True)
    return tt.load(path), path


def test_a_file_of_two_modalities_embeds_and_names_exactly_as_before(partly, fresh, given, loaded):
    model, again = partly.model, loaded[0]
    present = {"rna": np.arange(150) % 3 > 0, "protein": np.arange(12) != 4}
    for way in ({"rna": given["rna"]}, {"protein": given["protein"]}, given, {"x": mixed(model, given)}):
        for known in (None, present):
            np.testing.assert_array_equal(again.embed(**way, present=known), model.embed(**way, present=known))
            np.testing.assert_array_equal(again.map(**way, present=known), model.map(**way, present=known))
        assert_same_predictions(again.predict(**way)[0], model.predict(**way)[0], **EXACT)
        for one, other in zip(again.search(k=5, **way), model.search(k=5, **way), strict=True):
            np.testing.assert_array_equal(one, other)
    for name in MODALITIES:
        np.testing.assert_array_equal(again.gene_weights(name), model.gene_weights(name))
        one, two = (predicted(getattr(fresh, name), asked) for asked in (model, again))
        pd.testing.assert_frame_equal(one.obs, two.obs)
        assert_same_coordinates(one, two, KEYS[:2])


def test_a_file_of_two_modalities_keeps_everything(partly, loaded):
    model, again = partly.model, loaded[0]
    for name in ("modalities", "classes", "settings", "scores", "p_value", "seconds", "versions", "checks", "matches"):
        assert getattr(again, name) == getattr(model, name), name
    assert list(again.alone) == list(model.alone)
    for name, side in model.alone.items():
        assert again.alone[name].checks == side.checks
        assert_same_fields(again.alone[name].calibration, side.calibration)
    assert_same_fields(again.calibration, model.calibration)
    assert again.features.names == model.features.names
    for one, other in zip(again.features.parts, model.features.parts, strict=True):
        assert_same_fields(one, other)
    for name in ("units", "to_first", "to_second"):
        np.testing.assert_array_equal(getattr(again.features, name), getattr(model.features, name))
        assert getattr(again.features, name).dtype == np.float32
    assert again.summary() == model.summary()
    assert repr(again) == repr(model)


def test_a_file_of_two_modalities_is_written_again(partly, given, loaded, tmp_path):
    model, path = partly.model, tmp_path / "again.tt"
    loaded[0].save(path, index=True)
    again = tt.load(path)
    np.testing.assert_array_equal(again.embed(**given), model.embed(**given))
    assert again.record()["matches"] == model.matches
    with safe_open(path, framework="pt") as one, safe_open(loaded[1], framework="pt") as other:
        assert set(one.keys()) == set(other.keys())
        assert json.loads(one.metadata()["tripletomics"]) == json.loads(other.metadata()["tripletomics"])


def test_a_file_of_two_modalities_holds_no_expression(partly, tmp_path):
    model, path = partly.model, tmp_path / "plain.tt"
    model.save(path)
    sizes = {450, len(model.catalog.names), len(model.reference.z), partly.rna.n_obs, partly.protein.n_obs}
    sizes.add(partly.rna.obs_names.isin(partly.protein.obs_names).sum())
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    of_cells = {name for name, shape in shapes.items() if sizes & {*shape}}
    assert of_cells == {"reference.z", "reference.map", "reference.codes"}
    assert not any(name.encode() in path.read_bytes() for name in partly.rna.obs_names[:20])


def test_an_enrolled_type_and_a_missing_calibration_are_kept(partly, given, tmp_path):
    model = uncalibrated(partly.model)
    model.enroll(model.table(**new_type(model, MODALITIES)), ["h"] * 8)
    model.save(tmp_path / "m.tt")
    again = tt.load(tmp_path / "m.tt")
    assert again.types == [*KNOWN, "h"]
    assert again.alone["rna"].calibration is None
    assert_same_fields(again.alone["protein"].calibration, model.alone["protein"].calibration)
    assert_same_predictions(again.predict(**given)[0], model.predict(**given)[0], **EXACT)


def test_a_file_of_one_modality_still_loads(trained, new_cells, tmp_path):
    model = trained[0]
    model.save(tmp_path / "m.tt")
    again = tt.load(tmp_path / "m.tt")
    assert (again.modalities, again.alone, again.matches) == ((), {}, {})
    assert isinstance(again.networks.encoder, Encoder)
    np.testing.assert_array_equal(again.embed(new_cells.X), model.embed(new_cells.X))
    assert_same_predictions(again.predict(new_cells.X)[0], model.predict(new_cells.X)[0], **EXACT)
    assert again.record().keys() == model.record().keys() - {"n_train"}  # which the index counts
    assert "modalities" not in again.settings


def test_its_card_says_how_it_is_used(both, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both.model.save("model.tt")
    card = both.model.card()
    code = card.split("```python\n")[1].split("```")[0]
    assert "# new_cells: an AnnData of 'rna' or 'protein', or {'rna': first, 'protein': second}" in code
    for given in (("rna",), ("protein",), ("rna", "protein")):
        new = {name: getattr(fresh, name)[:30].copy() for name in given}
        exec(code, {"new_cells": new if len(new) > 1 else new[given[0]]})
        assert all(adata.obs["tt_label"].notna().all() for adata in new.values())
    labelled = (~held_out(both.rna) & both.rna.obs["kind"].notna()).sum()
    assert f"Cells: {labelled} labelled ones that were not held out." in card
