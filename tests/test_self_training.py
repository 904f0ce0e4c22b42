"""Self-training: cells without a label take one for a second training of the encoder, and for nothing else."""

import inspect
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import tripletomics as tt
from tripletomics import metrics
from tripletomics.experiment import settings
from tripletomics.labels.calibration import fit as fit_calibration
from tripletomics.sources import Memory
from tripletomics.tl import self_training
from tripletomics.tl.preparing import prepare
from tripletomics.training import silent

SMALL = {"encoder": "mlp:hidden=16", "steps": 8}


def cells(n, labelled, seed=0, signal=0.8, genes=100):
    """Poisson counts of three types, of which so many cells a type have a label and a third is held out."""
    shape, random = np.random.default_rng(0), np.random.default_rng(seed)
    rates = np.exp(shape.normal(-0.3, 0.7, genes) + signal * shape.normal(size=(3, genes)))
    kinds = np.arange(n) % 3
    adata = ad.AnnData(sp.csr_matrix(random.poisson(rates[kinds]).astype(np.float32)))
    adata.obs["truth"] = np.array(list("abc"))[kinds]
    adata.obs["out"] = np.arange(n) // 3 % 3 == 2
    adata.obs["donor"] = np.where(np.arange(n) // 3 % 2, "d1", "d2")
    known = (np.cumsum(~adata.obs["out"].to_numpy().reshape(-1, 3), axis=0) <= labelled).ravel()
    adata.obs["kind"] = adata.obs["truth"].where(known | adata.obs["out"])
    adata.obs_names = [f"cell {i}" for i in range(n)]
    return adata


def settled(adata, label="kind", **given):
    settings = {name: setting.default for name, setting in inspect.signature(tt.fit).parameters.items()}
    for name in ("adata", "label", "key_added", "progress"):
        del settings[name]
    return prepare(adata, label, **(settings | {"self_training": True, "hold_out": "out"} | SMALL | given))


def fit(adata, **given):
    return tt.fit(adata, "kind", **({"self_training": True, "hold_out": "out", "progress": False} | SMALL | given))


def weights(learned):
    return {name: weight.numpy() for name, weight in learned.encoder.state_dict().items()}


def assert_same(one, other):
    for name, weight in weights(one).items():
        np.testing.assert_array_equal(weight, weights(other)[name], err_msg=name)


def misled(z, scores, codes, rows, seed):
    """Give every unlabelled cell a type that has nothing to do with it."""
    return np.where(codes < 0, np.arange(len(codes)) // 3 % 3, codes)


def scrambled(x, rows):
    x = x.toarray()
    x[rows] = np.random.default_rng(0).permuted(x[rows], axis=1) * 2
    return sp.csr_matrix(x)


@pytest.fixture(scope="module")
def few():
    return cells(180, 4)


@pytest.fixture(scope="module")
def half():
    """As many labels as can be spared to calibrate on."""
    return cells(360, 40, seed=1)


@pytest.fixture(scope="module")
def trained(half):
    adata = half.copy()
    return fit(adata), adata


# ------------------------------------------------------------------------------------------- who takes a label


@pytest.fixture
def clusters():
    """Two types in two clusters, a cell between them, and a labelled and an unlabelled cell that must not matter."""
    random = np.random.default_rng(0)
    z = np.concatenate(
        [random.normal([-9, 0], 1, (20, 2)), random.normal([9, 0], 1, (20, 2)), [[0, 0], [0, 1], [9, 0]]]
    )
    codes = np.full(43, -1)
    codes[:6], codes[20:26], codes[41] = 0, 1, 0
    return z.astype(np.float32), codes, np.arange(41)


def test_cells_take_the_type_that_they_lie_with_and_those_between_none(clusters):
    z, codes, rows = clusters
    taught = self_training.teach(z, z, codes, rows, 0)
    np.testing.assert_array_equal(taught[:40], np.repeat([0, 1], 20))
    np.testing.assert_array_equal(taught[40:], [-1, 0, -1])


def test_cells_that_are_not_trained_on_teach_nothing(clusters):
    z, codes, rows = clusters
    moved, renamed = z.copy(), codes.copy()
    moved[41:], renamed[41:] = 100, 1
    for other in (self_training.teach(moved, moved, codes, rows, 0), self_training.teach(z, z, renamed, rows, 0)):
        np.testing.assert_array_equal(other[rows], self_training.teach(z, z, codes, rows, 0)[rows])


def test_the_order_of_the_cells_and_blocks_of_them_do_not_matter(clusters, monkeypatch):
    z, codes, rows = clusters
    expected = self_training.teach(z, z, codes, rows, 0)
    order = np.random.default_rng(1).permutation(len(z))
    place = np.argsort(order)
    np.testing.assert_array_equal(
        self_training.teach(z[order], z[order], codes[order], place[rows], 0)[place], expected
    )
    monkeypatch.setattr(self_training, "BLOCK", 7)
    np.testing.assert_array_equal(self_training.teach(z, z, codes, rows, 0), expected)


# ------------------------------------------------------------------------------------------- what they see


@pytest.mark.parametrize("table", ["few", "half"])
def test_cells_that_are_left_out_do_not_reach_the_training(table, request):
    task = settled(request.getfixturevalue(table))
    assert task.calibration.any() == (table == "half")
    left_out = task.held_out | task.calibration
    moved = replace(task, cells=Memory(scrambled(task.cells.x, left_out), task.cells.contract))
    renamed = replace(task, codes=np.where(left_out, (task.codes + 1) % 3, task.codes))
    expected = task.encode(silent)
    assert len(expected) == 2
    for other in (moved, renamed):
        found = other.encode(silent)
        for one, two in zip(found, expected, strict=True):
            assert_same(one, two)
            np.testing.assert_array_equal(one.taught[~left_out], two.taught[~left_out])
    assert not np.array_equal(weights(expected[0])["trunk.0.weight"], weights(expected[1])["trunk.0.weight"])


def test_what_is_said_of_a_batch_knows_nothing_of_its_labels():
    task = settled(cells(180, 20), batch="donor", steps=4)
    batch = (task.groups == 0) & ~task.held_out
    renamed = replace(task, codes=np.where(batch & (task.codes >= 0), (task.codes + 1) % 3, task.codes))
    one, two = (next(part for part in other._parts() if part[batch].all()) for other in (task, renamed))
    np.testing.assert_array_equal(one, two)
    for first, second in zip(task._ask_without(one, silent), renamed._ask_without(two, silent), strict=True):
        np.testing.assert_array_equal(first[""][0].logits, second[""][0].logits)


def test_labels_that_were_taken_count_nowhere(trained, half):
    model, adata = trained
    labelled = (half.obs["kind"].notna() & ~half.obs["out"]).sum()
    assert model.findings["self_training_cells"].sum() > 20
    assert model.reference.sizes.sum() == labelled
    assert (model.catalog.codes >= 0).sum() == labelled
    assert model.calibration.n_cells == settled(half).calibration.sum()
    assert model.classes == ["a", "b", "c"]
    assert model.checks["cells"] == half.obs["out"].sum()
    assert adata.obs["kind"].equals(half.obs["kind"])


def test_the_same_seed_gives_the_same_and_the_file_keeps_it(trained, half, tmp_path):
    model, adata = trained
    again = half.copy()
    fit(again)
    np.testing.assert_array_equal(again.obsm["X_tt"], adata.obsm["X_tt"])
    np.testing.assert_array_equal(again.obsm["X_tt_metric"], adata.obsm["X_tt_metric"])
    assert model.settings["self_training"] == "True"
    model.save(tmp_path / "m.tt")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    loaded, record = tt.load(tmp_path / "m.tt"), ad.read_h5ad(tmp_path / "cells.h5ad").uns["X_tt"]
    for name in ("self_training", "self_training_cells"):
        np.testing.assert_array_equal(loaded.findings[name], model.findings[name])
        np.testing.assert_array_equal(record["findings"][name], model.findings[name])
    taken = model.findings["self_training_cells"].sum()
    assert f"Self-training: {taken} cells took a label; log loss" in loaded.summary()
    before, after = model.findings["self_training"]
    assert f"The {'second' if after <= before else 'first'} encoder is kept." in loaded.summary()


def test_it_helps_where_labels_are_few():
    adata = cells(360, 2, signal=0.6)
    task = settled(adata, loss="softmax", steps=30)
    y, out = adata.obs["truth"].map(ord).to_numpy() - ord("a"), task.held_out
    places = [self_training.placed(learned.encoder, task.cells) for learned in task.encode(silent)]
    first, second = (metrics.knn_macro_f1(z[~out], y[~out], z[out], y[out]) for z in places)
    assert second > first + 0.05


# ------------------------------------------------------------------------------------------- the guard


def test_an_encoder_that_drifts_is_not_kept(monkeypatch):
    """Then all is as without self-training: places, calibration, scores and null."""
    adata, settings = cells(360, 40, signal=0.6), {"steps": 30, "loss": "softmax"}
    plain = adata.copy()
    expected = fit(plain, self_training=False, **settings)
    monkeypatch.setattr(self_training, "teach", misled)
    with pytest.warns(
        UserWarning, match=r"labels which 120 cells took would do worse on labelled cells .*log loss 0\."
    ):
        model = fit(adata, **settings)
    before, after = model.findings["self_training"]
    assert after > before
    np.testing.assert_array_equal(adata.obsm["X_tt"], plain.obsm["X_tt"])
    np.testing.assert_array_equal(adata.obsm["X_tt_metric"], plain.obsm["X_tt_metric"])
    np.testing.assert_array_equal(model.calibration.weights, expected.calibration.weights)
    assert model.scores == expected.scores
    assert model.checks == expected.checks
    assert f"left out {before:.3f}, and {after:.3f} with them. The first encoder is kept." in model.summary()


@pytest.mark.parametrize(("teach", "kept"), [(misled, 0), (self_training.teach, 1)])
def test_few_labels_guard_by_being_left_out_in_turn(monkeypatch, teach, kept):
    """Each is asked about by encoders that never saw it, and what the kept ones say is calibrated on."""
    task = settled(cells(270, 12, signal=0.6), steps=30, loss="softmax")
    monkeypatch.setattr(self_training, "teach", teach)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        chosen = self_training.study(task, silent)
    assert len(given) == 1 - kept
    assert chosen.rounds == 1 + kept
    assert chosen.loss is chosen.lesson.learned.loss
    calibration, log_losses = fit_calibration(chosen.lesson.answers), chosen.lesson.findings["self_training"]
    assert calibration.n_cells == 36
    odds = [calibration.odds(evidence)[np.arange(len(codes)), codes] for evidence, codes in chosen.lesson.answers]
    assert log_losses[kept] == pytest.approx(np.log1p(np.exp(-np.concatenate(odds))).mean())
    assert log_losses[kept] == log_losses.min()
    np.testing.assert_array_equal(chosen.calibrate(np.zeros(0), {})[""].weights, calibration.weights)
    (*_, expected) = task._ask_without(task._parts()[0], silent)[: 1 + kept]
    np.testing.assert_array_equal(chosen.lesson.answers[0][0].logits, expected[""][0].logits)


def test_with_nothing_to_compare_on_the_first_is_kept():
    adata = cells(90, 1)
    adata.obs.loc["cell 3", "kind"] = "a"  # a pair of one type, so that there is something to learn
    with pytest.warns(UserWarning, match="Types of one training cell"):
        task = settled(adata, steps=4)
    with pytest.warns(UserWarning, match="too few labelled cells to leave any out. The first one is kept"):
        chosen = self_training.study(task, silent)
    assert np.isnan(chosen.lesson.findings["self_training"]).all()


def test_an_encoder_that_is_sure_of_nothing_is_trained_once(half, monkeypatch):
    monkeypatch.setattr(self_training, "SURE", 1.0)
    with pytest.warns(UserWarning, match=r"of no cell without a label is the encoder sure .*above 1.0"):
        chosen = self_training.study(settled(half), silent)
    assert chosen.rounds == 1
    assert chosen.lesson.findings["self_training_cells"].tolist() == [0, 0, 0]
    (expected,) = settled(half, self_training=False).encode(silent)
    assert_same(chosen.lesson.learned, expected)


# ------------------------------------------------------------------------------------------- what is given


def test_with_all_labels_there_is_nothing_to_do(half):
    with pytest.warns(UserWarning, match="self_training=True changes nothing, for all training cells have labels"):
        task = settled(half, "truth")
    assert task.rounds == 1
    assert self_training.study(task, silent) is task


def test_what_cannot_be_used_is_refused_with_nothing_written(half):
    adata = half.copy()
    pair = (adata, ad.AnnData(adata.X[:, :20].toarray(), obs=adata.obs[[]], var={"name": [f"p{i}" for i in range(20)]}))
    for table, given, message in (
        (
            adata,
            {"label": None},
            "self_training=True gives labels to cells like those that have one, and label=None gives none: name",
        ),
        (adata, {"self_training": "yes"}, "self_training='yes' is neither True nor False"),
        (pair, {}, "self_training=True takes labels from one table, and here are two modalities: leave"),
    ):
        with pytest.raises(ValueError, match=message):
            tt.fit(table, **({"label": "kind", "self_training": True, "hold_out": 0.1, "progress": False} | given))
    assert not adata.obsm


def test_it_arrives_from_the_command_line_and_in_comparisons(run, few, tmp_path):
    few.write_h5ad(tmp_path / "in.h5ad")
    status, out, error = run(
        "fit", tmp_path / "in.h5ad", "--label", "kind", "--hold-out", "out", "--self-training", "--steps", 4,
        "--encoder", "mlp:hidden=16", "--out", tmp_path / "out.h5ad",
    )  # fmt: skip
    assert (status, error) == (0, "")
    assert "Self-training: " in out
    assert settings.parse_method("tt:self_training=true")["self_training"] is True
    assert settings.parse_method("tt")["self_training"] is False
