"""Self-training: cells without a label take one for a second training of the encoder, and for nothing else."""

import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import tripletomics as tt
from tripletomics import crossfit, metrics, pp
from tripletomics.experiment import settings as texts
from tripletomics.labels.calibration import fit_calibration
from tripletomics.monitor import silent
from tripletomics.problem import Settings
from tripletomics.sources import Memory
from tripletomics.training import train_encoder

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
    """The settings and the problem of a fit."""
    given = {"self_training": True, "hold_out": "out"} | SMALL | given
    return pp.prepare(adata, Settings(label, **given))[1:]


def trainings(settings, problem):
    """The encoders of both trainings."""
    first = train_encoder(problem, settings)
    second = crossfit.train_again(problem, settings, first, silent, None)
    return [first] if second is None else [first, second]


def self_train(settings, problem):
    return crossfit.self_train(problem, settings, train_encoder(problem, settings))


def fit(adata, **given):
    return tt.fit(adata, "kind", **({"self_training": True, "hold_out": "out", "progress": False} | SMALL | given))


def weights(learned):
    return {name: weight.numpy() for name, weight in learned.encoder.state_dict().items()}


def assert_same(one, other):
    for name, weight in weights(one).items():
        np.testing.assert_array_equal(weight, weights(other)[name], err_msg=name)


def misled(z, pcs, codes, rows, seed):
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
    taught = crossfit.pseudo_labels(z, z, codes, rows, 0)
    np.testing.assert_array_equal(taught[:40], np.repeat([0, 1], 20))
    np.testing.assert_array_equal(taught[40:], [-1, 0, -1])


def test_cells_that_are_not_trained_on_teach_nothing(clusters):
    z, codes, rows = clusters
    moved, renamed = z.copy(), codes.copy()
    moved[41:], renamed[41:] = 100, 1
    for other in (crossfit.pseudo_labels(moved, moved, codes, rows, 0), crossfit.pseudo_labels(z, z, renamed, rows, 0)):
        np.testing.assert_array_equal(other[rows], crossfit.pseudo_labels(z, z, codes, rows, 0)[rows])


def test_the_order_of_the_cells_and_blocks_of_them_do_not_matter(clusters, monkeypatch):
    z, codes, rows = clusters
    expected = crossfit.pseudo_labels(z, z, codes, rows, 0)
    order = np.random.default_rng(1).permutation(len(z))
    place = np.argsort(order)
    np.testing.assert_array_equal(
        crossfit.pseudo_labels(z[order], z[order], codes[order], place[rows], 0)[place], expected
    )
    monkeypatch.setattr(crossfit, "BLOCK", 7)
    np.testing.assert_array_equal(crossfit.pseudo_labels(z, z, codes, rows, 0), expected)


# ------------------------------------------------------------------------------------------- what they see


@pytest.mark.parametrize("table", ["few", "half"])
def test_cells_that_are_left_out_do_not_reach_the_training(table, request):
    settings, problem = settled(request.getfixturevalue(table))
    assert problem.calibration.any() == (table == "half")
    left_out = problem.held_out | problem.calibration
    moved = replace(problem, rows=Memory(scrambled(problem.rows.x, left_out), problem.rows.scaler))
    renamed = replace(problem, codes=np.where(left_out, (problem.codes + 1) % 3, problem.codes))
    expected = trainings(settings, problem)
    assert len(expected) == 2
    for other in (moved, renamed):
        found = trainings(settings, other)
        for one, two in zip(found, expected, strict=True):
            assert_same(one, two)
            np.testing.assert_array_equal(one.codes[~left_out], two.codes[~left_out])
    assert not np.array_equal(weights(expected[0])["trunk.0.weight"], weights(expected[1])["trunk.0.weight"])


def test_what_is_said_of_a_batch_knows_nothing_of_its_labels():
    settings, problem = settled(cells(180, 20), batch="donor", steps=4)
    batch = (problem.batch_codes == 0) & ~problem.held_out
    codes = np.where(batch & (problem.codes >= 0), (problem.codes + 1) % 3, problem.codes)
    both = problem, replace(problem, codes=codes)
    parts = [next(part for part in crossfit._folds(one, settings) if part[batch].all()) for one in both]
    np.testing.assert_array_equal(*parts)
    said = [crossfit._ask_fold(one, settings, parts[0], 2, silent, None) for one in both]
    for first, second in zip(*said, strict=True):
        np.testing.assert_array_equal(first.types[""][0].logits, second.types[""][0].logits)


def test_labels_that_were_taken_count_nowhere(trained, half):
    model, adata = trained
    labelled = (half.obs["kind"].notna() & ~half.obs["out"]).sum()
    assert model.findings["self_training_cells"].sum() > 20
    assert model.reference.sizes.sum() == labelled
    assert (model.catalog.codes >= 0).sum() == labelled
    assert model.calibration.n_cells == settled(half)[1].calibration.sum()
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
    settings, problem = settled(adata, loss="softmax", steps=30)
    y, out = adata.obs["truth"].map(ord).to_numpy() - ord("a"), problem.held_out
    places = [crossfit.embed(one.encoder, problem.rows) for one in trainings(settings, problem)]
    first, second = (metrics.knn_macro_f1(z[~out], y[~out], z[out], y[out]) for z in places)
    assert second > first + 0.05


# ------------------------------------------------------------------------------------------- the guard


def test_an_encoder_that_drifts_is_not_kept(monkeypatch):
    """Then all is as without self-training: places, calibration, scores and null."""
    adata, settings = cells(360, 40, signal=0.6), {"steps": 30, "loss": "softmax"}
    plain = adata.copy()
    expected = fit(plain, self_training=False, **settings)
    monkeypatch.setattr(crossfit, "pseudo_labels", misled)
    with pytest.warns(
        UserWarning, match=r"pseudo-labels of 120 cells, would do worse on labelled cells .*log loss 0\."
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


@pytest.mark.parametrize(("pseudo_labels", "kept"), [(misled, 0), (crossfit.pseudo_labels, 1)])
def test_few_labels_guard_by_being_left_out_in_turn(monkeypatch, pseudo_labels, kept):
    """Each is asked about by encoders that never saw it, and what the kept ones say is calibrated on."""
    settings, problem = settled(cells(270, 12, signal=0.6), steps=30, loss="softmax")
    monkeypatch.setattr(crossfit, "pseudo_labels", pseudo_labels)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        first = train_encoder(problem, settings)
        chosen = crossfit.self_train(problem, settings, first)
    assert len(given) == 1 - kept
    assert chosen.rounds == 1 + kept
    assert (chosen.encoder is first.encoder) == (chosen.loss is first.loss) == (not kept)
    calibration, log_losses = fit_calibration(chosen.answers), chosen.summary["self_training"]
    assert calibration.n_cells == 36
    odds = [calibration.odds(evidence)[np.arange(len(codes)), codes] for evidence, codes in chosen.answers]
    assert log_losses[kept] == pytest.approx(np.log1p(np.exp(-np.concatenate(odds))).mean())
    assert log_losses[kept] == log_losses.min()
    nowhere = crossfit.Embedding({"metric": problem.pcs}, problem.pcs, problem.train)
    again = crossfit.calibrate(problem, settings, chosen, {"": nowhere}).types[""]
    np.testing.assert_array_equal(again.weights, calibration.weights)
    part, *_ = crossfit._folds(problem, settings)
    (*_, expected) = crossfit._ask_fold(problem, settings, part, 1 + kept, silent, None)
    np.testing.assert_array_equal(chosen.answers[0][0].logits, expected.types[""][0].logits)


def test_with_nothing_to_compare_on_the_first_is_kept():
    adata = cells(90, 1)
    adata.obs.loc["cell 3", "kind"] = "a"  # a pair of one type, so that there is something to learn
    with pytest.warns(UserWarning, match="Types of one training cell"):
        settings, problem = settled(adata, steps=4)
    with pytest.warns(UserWarning, match="too few labelled cells to leave any out. The first one is kept"):
        chosen = self_train(settings, problem)
    assert np.isnan(chosen.summary["self_training"]).all()


def test_an_encoder_that_is_sure_of_nothing_is_trained_once(half, monkeypatch):
    monkeypatch.setattr(crossfit, "PSEUDO_LABEL_P", 1.0)
    with pytest.warns(UserWarning, match=r"the encoder is not sure of any unlabelled cell .*above 1.0"):
        chosen = self_train(*settled(half))
    assert chosen.rounds == 1
    assert chosen.summary["self_training_cells"].tolist() == [0, 0, 0]
    settings, problem = settled(half, self_training=False)
    assert_same(chosen, train_encoder(problem, settings))


# ------------------------------------------------------------------------------------------- what is given


def test_with_all_labels_there_is_nothing_to_do(half):
    with pytest.warns(UserWarning, match="self_training=True changes nothing, because all training cells have labels"):
        settings, problem = settled(half, "truth")
    first = train_encoder(problem, settings)
    assert first.rounds == 1
    assert crossfit.self_train(problem, settings, first) is first


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
        (pair, {}, "self_training=True works with one modality, and two were given: leave"),
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
    assert texts.parse_method("tt:self_training=true")["self_training"] is True
    assert texts.parse_method("tt")["self_training"] is False
