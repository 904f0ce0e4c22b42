"""The estimator for scikit-learn: its own checks, its tools, and the same results as `tt.fit`."""

import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import make_cells
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tripletomics as tt
from tripletomics.sklearn import TripletMap

ARRAY_API = """
from sklearn.utils import estimator_checks as checks
from tripletomics.sklearn import TripletMap
checks.check_array_api_input("TripletMap", TripletMap(steps=2), "numpy", expect_only_array_outputs=False)
"""
ABSENT = {"random_state": "seed", "reject": None}  # what is no keyword of `fit`


@pytest.fixture(scope="module")
def cells():
    return make_cells(160, 1, "abc", genes=40)


@pytest.fixture(scope="module")
def fitted(cells):
    return TripletMap(steps=20).fit(cells.X, cells.obs["kind"])


@parametrize_with_checks([TripletMap(steps=5)])
def test_what_scikit_learn_asks_of_every_estimator(estimator, check):
    if check.func.__name__ == "check_array_api_input":
        said = subprocess.run(
            [sys.executable, "-c", ARRAY_API], env=os.environ | {"SCIPY_ARRAY_API": "1"}, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
        return
    check(estimator)


def test_its_keywords_are_those_of_fit():
    ours, theirs = (inspect.signature(function).parameters for function in (TripletMap, tt.fit))
    for name, parameter in ours.items():
        if (other := ABSENT.get(name, name)) and name != "hold_out":
            assert parameter.default == theirs[other].default, name
    assert ours["hold_out"].default == ours["reject"].default == 0


def test_it_is_the_fit_of_an_anndata(cells, fitted):
    adata = cells.copy()
    model = tt.fit(adata, "kind", steps=20, hold_out=0, progress=False)
    assert np.array_equal(fitted.fit_transform(cells.X, cells.obs["kind"]), fitted.transform(cells.X))
    np.testing.assert_allclose(fitted.transform(cells.X), adata.obsm["X_tt"], atol=1e-5)
    new = make_cells(60, 2, "abc", genes=40)
    tt.predict(new, model, reject=0)
    assert fitted.predict(new.X).tolist() == new.obs["tt_label"].tolist()
    p = fitted.predict_proba(new.X)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    known = model.predict(new.X)[0].probabilities
    np.testing.assert_allclose(p, known / known.sum(axis=1, keepdims=True), atol=1e-4)
    assert fitted.model_.scores.keys() == {"train"}  # nothing was held out, and no labels were permuted


def test_an_unusual_cell_scores_low(fitted):
    new = make_cells(200, 3, "abch", genes=40)
    assert roc_auc_score(new.obs["kind"] != "h", fitted.score_samples(new.X)) > 0.8
    far = fitted.predict_proba(np.full((1, 40), 1e5, dtype=np.float32) * np.arange(40))
    assert far.sum() == pytest.approx(1)


def test_grid_search_in_a_pipeline(cells):
    """Of a matrix, sparse or a DataFrame, with labels of any kind."""
    steps = make_pipeline(MaxAbsScaler(), TripletMap(steps=8, counts=False))
    search = GridSearchCV(steps, {"tripletmap__structure": [0, 0.5]}, cv=2).fit(cells.X, cells.obs["kind"])
    assert search.best_score_ > 0.8
    assert search.predict(cells.X[:5]).dtype == cells.obs["kind"].to_numpy().dtype
    assert search.transform(cells.X).shape == (160, 2)
    codes = cells.obs["kind"].map({"a": 10, "b": -1, "c": 7})
    found = cross_val_score(clone(steps), cells.to_df(), codes, cv=2)
    assert found.min() > 0.8


def test_dataframes_in_and_out(cells, fitted):
    frame = cells.to_df()
    own = clone(fitted).set_output(transform="pandas").fit(frame, cells.obs["kind"].astype("category"))
    found = own.transform(frame)
    assert found.columns.tolist() == ["tripletmap0", "tripletmap1"] == own.get_feature_names_out().tolist()
    assert found.index.equals(frame.index)
    np.testing.assert_allclose(found, fitted.transform(cells.X.toarray()), atol=1e-5)
    assert own.model_.features.genes == frame.columns.tolist() == own.feature_names_in_.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        own.predict(frame.iloc[:, ::-1])


def test_any_order_and_any_storage_give_the_same(cells, fitted):
    order = np.random.default_rng(0).permutation(160)
    for x in (cells.X, sp.csc_array(cells.X), cells.X.toarray()):
        for method in (fitted.transform, fitted.predict_proba, fitted.score_samples, fitted.predict):
            assert np.array_equal(method(x[order]), method(x)[order])


def test_a_copy_from_a_pickle_is_the_same(cells, fitted):
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(cells.X), fitted.transform(cells.X))


def test_without_labels(cells):
    model = TripletMap(steps=5).fit(cells.X)
    assert model.transform(cells.X).shape == (160, 2)
    assert len(model.classes_) == 0
    with pytest.raises(ValueError, match="fitted without labels, so it knows no type"):
        model.predict(cells.X)


def test_missing_labels_are_unlabelled(cells):
    labels = cells.obs["kind"].astype(object).to_numpy()
    labels[::4], labels[1::4], labels[2::16] = "Unknown", None, np.nan
    model = TripletMap(steps=5).fit(cells.X, labels)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert set(model.predict(cells.X)) <= set("abc")


def test_few_cells(cells):
    some = np.flatnonzero(cells.obs["kind"] != "c")[:8]
    model = TripletMap(steps=5).fit(cells.X[some], cells.obs["kind"].iloc[some])
    assert model.predict_proba(cells.X).shape == (160, 2)
    with pytest.raises(ValueError, match=r"1 sample\(s\).*minimum of 4"):
        TripletMap().fit(cells.X[:1], ["a"])


def test_held_out_cells_are_scored(cells):
    model = TripletMap(steps=5, hold_out=0.3).fit(cells.X, cells.obs["kind"])
    assert model.model_.scores.keys() == {"train", "held-out", "permuted"}


def test_the_seed(cells):
    def fit(seed):
        return TripletMap(steps=2, random_state=seed).fit_transform(cells.X, cells.obs["kind"])

    assert np.array_equal(fit(3), fit(np.int64(3)))
    assert np.array_equal(fit(np.random.RandomState(1)), fit(np.random.RandomState(1)))
    assert not np.array_equal(fit(None), fit(3))


def test_rejected_cells_are_unassigned(cells, fitted):
    model = pickle.loads(pickle.dumps(fitted)).set_params(reject=0.1)
    far = make_cells(80, 4, "h", genes=40)
    assert (model.predict(far.X) == "unassigned").mean() > (fitted.predict(far.X) == "unassigned").mean() == 0
    codes = pd.factorize(cells.obs["kind"])[0]
    with pytest.raises(
        ValueError, match=r"reject=0\.1 gives some cells the name 'unassigned', but y holds int64: pass"
    ):
        TripletMap(reject=0.1).fit(cells.X, codes)
    for share in (2, -1, np.nan):
        with pytest.raises(ValueError, match=r"reject=\S+ is not a share in \[0, 1\)"):
            TripletMap(reject=share).fit(cells.X, cells.obs["kind"])


def test_one_class_is_refused(cells):
    with pytest.raises(
        ValueError, match=r"y has 1 class: there is nothing to distinguish\. Pass labels of two classes"
    ):
        TripletMap().fit(cells.X, ["a"] * 160)


def test_it_must_be_fitted(cells):
    with pytest.raises(NotFittedError):
        TripletMap().score_samples(cells.X)
    assert tt.sklearn.TripletMap is TripletMap
