"""What predictions are calibrated on: a slice of the training cells, or whole batches in turn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import KNOWN, make_cells, predicted, state

import tripletomics as tt
from tripletomics import crossfit, pp
from tripletomics.folds import calibration_split
from tripletomics.labels import reference
from tripletomics.problem import Settings
from tripletomics.sources import Memory
from tripletomics.training import train_encoder


def settled(adata, label="kind", **given):
    """The settings and the problem of a fit."""
    return pp.prepare(adata, Settings(label, **({"steps": 4} | given)))[1:]


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_of_each_type_is_spared_and_five_cells_are_always_left(seed):
    sizes = [1000, 200, 60, 15, 6, 5, 1, 0]
    codes = np.random.default_rng(9).permutation(np.repeat([*range(8), -1], [*sizes, 300]))
    spared = calibration_split(codes, np.ones(len(codes), dtype=bool), seed)
    assert [int(spared[codes == code].sum()) for code in range(8)] == [100, 20, 6, 2, 1, 0, 0, 0]
    assert not spared[codes < 0].any()
    np.testing.assert_array_equal(spared, calibration_split(codes, np.ones(len(codes), dtype=bool), seed))
    assert not np.array_equal(spared, calibration_split(codes, np.ones(len(codes), dtype=bool), seed + 1))


def test_held_out_cells_are_not_spared_and_do_not_count():
    random = np.random.default_rng(0)
    codes, train = random.integers(-1, 4, 2000), random.random(2000) < 0.5
    codes[(codes == 3) & train & (np.cumsum((codes == 3) & train) > 7)] = 0
    spared = calibration_split(codes, train, 0)
    assert spared.any()
    assert not spared[~train].any()
    for code in range(4):
        n = (train & (codes == code)).sum()
        assert spared[codes == code].sum() == min(round(0.1 * n), n - 5)
    changed = np.where(train, codes, random.integers(-1, 9, 2000))
    np.testing.assert_array_equal(calibration_split(changed, train, 0), spared)


def test_at_most_5000_cells_are_spared_an_equal_part_of_each_type():
    codes = np.repeat([0, 1], [150_000, 50_000])
    spared = calibration_split(codes, np.ones(200_000, dtype=bool), 0)
    assert [int(spared[codes == code].sum()) for code in (0, 1)] == [3750, 1250]


def encoder_of(settings, problem):
    return {name: weight.numpy() for name, weight in train_encoder(problem, settings).encoder.state_dict().items()}


def scramble(x, rows):
    x = x.toarray() if sp.issparse(x) else x.copy()
    x[rows] = np.random.default_rng(0).permuted(x[rows], axis=1) * 2
    return sp.csr_matrix(x)


def test_calibration_cells_do_not_train_the_encoder():
    settings, problem = settled(make_cells(700, 1))
    assert problem.calibration.sum() == pytest.approx(63, abs=7)
    assert not (problem.calibration & problem.held_out).any()
    moved = replace(problem, rows=Memory(scramble(problem.rows.x, problem.calibration), problem.rows.scaler))
    renamed = replace(problem, codes=np.where(problem.calibration, (problem.codes + 1) % 7, problem.codes))
    first = encoder_of(settings, problem)
    for other in (moved, renamed):
        for name, weight in encoder_of(settings, other).items():
            np.testing.assert_array_equal(weight, first[name], err_msg=name)
    trained = ~problem.calibration & ~problem.held_out
    taught = replace(problem, rows=Memory(scramble(problem.rows.x, trained), problem.rows.scaler))
    assert any((weight != first[name]).any() for name, weight in encoder_of(settings, taught).items())


def test_components_of_calibration_cells_are_those_of_new_cells():
    """So are those of training cells: the usual ones are further out, for they were fitted to these cells."""
    _, problem = settled(make_cells(1600, 1), hold_out=0.3)
    usual, out, spared = problem.features.pcs(problem.x), problem.held_out, problem.calibration

    def spread(scores, rows):
        return scores[rows, 10:].std(axis=0).mean() / usual[out, 10:].std(axis=0).mean()

    np.testing.assert_array_equal(problem.pcs[out], usual[out])
    for rows in (spared, ~out & ~spared):
        assert spread(problem.pcs, rows) == pytest.approx(1, abs=0.07)
        assert spread(usual, rows) > 1.12


def test_it_is_asked_about_calibration_cells_by_the_components_of_the_map():
    settings, problem = settled(make_cells(300, 1))
    z = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    codes = np.where(problem.held_out | problem.calibration, -1, problem.codes)
    known = reference.build_reference(z, z[:, :0], problem.pcs, codes, len(problem.classes), 0)
    expected = known.evidence(z[problem.calibration], problem.pcs[problem.calibration])
    whole = {"": crossfit.Embedding({"metric": z}, problem.pcs, problem.fully_measured)}
    found = crossfit.calibrate(problem, settings, train_encoder(problem, settings), whole).types[""]
    assert found.n_cells == problem.calibration.sum()
    np.testing.assert_allclose(found.center[:2], [expected.near.mean(), expected.typical.mean()], rtol=1e-5)
    np.testing.assert_allclose(found.scale[:2], [expected.near.std(), expected.typical.std()], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Types that only held-out cells have")
@pytest.mark.parametrize("batch", [None, "donor"])
def test_held_out_cells_influence_neither_reference_nor_calibration(batch):
    adata = make_cells(300, 1)
    random = np.random.default_rng(0)
    adata.obs["donor"] = [f"d{i}" for i in random.integers(3, size=300)]
    adata.obs["out"] = np.arange(300) % 10 == 0
    other = adata.copy()
    other.X = scramble(adata.X, np.flatnonzero(adata.obs["out"]))
    other.obs.loc[adata.obs["out"], "kind"] = random.choice(["0", *KNOWN, "z"], 30)  # two types of their own
    one, two = (tt.fit(x, "kind", hold_out="out", batch=batch, steps=8, progress=False) for x in (adata, other))
    for part in ("features", "reference", "calibration", "catalog"):
        for name, value in vars(getattr(one, part)).items():
            if name not in ("index", "clusters"):  # they only search
                np.testing.assert_array_equal(value, getattr(getattr(two, part), name), err_msg=f"{part}.{name}")


@pytest.mark.parametrize("batch", [None, "donor"])
def test_label_sets_and_rejections_are_right_about_cells_never_seen(batch):
    adata = make_cells(1600, 6)
    adata.obs["donor"] = np.resize(["d0", "d1"], 1600)
    model = tt.fit(adata, "kind", batch=batch, hold_out=0.5, steps=25, progress=False)
    n = 800
    assert model.checks["cells"] == pytest.approx(n, abs=5)
    for name, share in (("coverage", 0.9), ("unassigned", 0.05)):
        spread = np.sqrt(share * (1 - share) * (1 / n + 1 / model.calibration.n_cells))
        assert model.checks[name] == pytest.approx(share, abs=4 * spread)
    assert model.checks["ece"] < 0.05


@pytest.fixture(scope="module")
def donors():
    """Cells of four donors, each with a shift of its own in every gene; a few are of no donor."""
    adata = make_cells(500, 9)
    random = np.random.default_rng(0)
    donor = random.integers(4, size=500)
    shift = np.exp(0.25 * random.normal(size=(4, 150)))
    adata.X = sp.csr_matrix(random.poisson(adata.X.toarray() * shift[donor]).astype(np.float32))
    adata.obs["donor"] = np.array([f"d{i}" for i in donor], dtype=object)
    adata.obs.loc[adata.obs_names[:20], "donor"] = np.nan
    adata.obs["one"] = "run 1"
    return adata


def test_batches_calibrate_on_whole_batches_without_sparing_a_cell(donors):
    _, problem = settled(donors, batch="donor", hold_out="donor=d3")
    assert not problem.calibration.any()
    model = tt.fit(donors.copy(), "kind", batch="donor", hold_out="donor=d3", steps=15, progress=False)
    out = (donors.obs["donor"] == "d3").to_numpy()
    assert model.calibration.n_cells == (~out & donors.obs["donor"].notna()).sum()
    assert model.checks["cells"] == out.sum()
    found = predicted(donors[out], model, reject=0)
    assert (found.obs["tt_label"] == found.obs["kind"]).mean() > 0.9
    assert model.checks["coverage"] > 0.75
    assert found.obs["tt_confidence"].between(0, 1).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"batch": "one"}, ValueError, "batch='one': the training cells are of one batch, 'run 1', so there is"),
        ({"batch": "doner"}, KeyError, "batch='doner' is not a column of adata.obs. Did you mean 'donor'?"),
        (
            {"batch": "donor", "hold_out": "donor=d0,d1,d2"},
            ValueError,
            "batch='donor': the training cells are of one batch, 'd3'",
        ),
        ({"batch": "none"}, ValueError, "batch='none': the training cells are of no batch"),
    ],
)
def test_batches_that_teach_nothing_are_refused(donors, given, error, message):
    adata = donors.copy()
    adata.obs["none"] = pd.Series(np.nan, adata.obs_names, dtype=object)
    before = state(adata)
    with pytest.raises(error) as caught:
        tt.fit(adata, "kind", progress=False, **given)
    assert str(caught.value.args[0]).startswith(message)
    assert state(adata) == before


def test_no_type_may_be_called_what_cells_like_no_type_are(donors):
    adata = donors.copy()
    adata.obs["kind"] = adata.obs["kind"].replace({"c": "unassigned"})
    with pytest.raises(ValueError, match="label='kind' has a type 'unassigned', which is what predict calls cells of"):
        tt.fit(adata, "kind", unlabelled=(), progress=False)
    assert state(adata)[1:3] == [[], []]


def test_types_that_each_belong_to_one_batch_cannot_be_calibrated_but_are_fitted(donors):
    adata = donors[donors.obs["kind"].isin(["a", "b", "c"])].copy()
    adata.obs["run"] = np.where(adata.obs["kind"] == "a", "first", "second")
    with pytest.warns(UserWarning, match="Predictions cannot be calibrated, and predict will refuse.*leave batch out"):
        model = tt.fit(adata, "kind", batch="run", steps=3, progress=False)
    assert model.calibration is None
    assert "No predictions: they could not be calibrated" in model.summary()
    with pytest.raises(ValueError, match=r"The model could not be calibrated.*two batches"):
        tt.predict(adata, model)
    assert model.search(adata.X[:2], 3).names.shape == (2, 3)
