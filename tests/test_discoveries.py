"""Lists of novel cells: p-values, scores and the procedure against plain loops and scipy, and the rate they promise."""

import warnings

import numpy as np
import pytest
from samples import NEW, make_cells, predicted
from scipy.stats import false_discovery_control

import tripletomics as tt
from tripletomics.labels import discoveries
from tripletomics.labels.calibration import Calibration
from tripletomics.labels.discoveries import NEIGHBOURHOODS, QUANTILE, conformal, discover, p_values, score, shortest


def calibration_of(novelty, pcs):
    nothing = np.zeros(3)
    return Calibration(np.ones(4), nothing, nothing + 1, 0.5, novelty, nothing, nothing, len(novelty), 2, pcs)


def draw(n, n_novel, random, shift=1.0):
    """Known cells, and at the end novel ones of one group: novelty and two components."""
    novelty, pcs = random.normal(size=n + n_novel), random.normal(size=(n + n_novel, 2)).astype(np.float32)
    novelty[n:] += shift
    pcs[n:] = 2 + 0.3 * random.normal(size=(n_novel, 2))
    return novelty, pcs


def test_p_counts_the_calibration_cells_that_score_as_high():
    random = np.random.default_rng(0)
    known, new = random.integers(20, size=50) / 4, random.integers(-2, 25, size=40) / 4  # with ties
    wanted = [(1 + sum(one >= value for one in known)) / 51 for value in new]
    np.testing.assert_allclose(conformal(known, new, 50), wanted)


@pytest.mark.parametrize("n", [1002, 3777])
def test_p_from_the_quantiles_of_an_older_file_is_never_too_small(n):
    random = np.random.default_rng(1)
    cells, new = random.normal(size=n), random.normal(size=300) * 2
    exact = conformal(cells, new, n)
    bound = conformal(np.quantile(cells, np.linspace(0, 1, 1001)), new, n)
    assert (bound >= exact - 1e-12).all()
    assert (bound - exact).max() < 2.01 / 1000


@pytest.mark.parametrize("n", [5, 80])
def test_the_score_against_a_plain_loop(n):
    novelty, pcs = draw(n, 0, np.random.default_rng(2))
    wanted = []
    for place in pcs.astype(float):
        order = np.argsort(np.linalg.norm(pcs - place, axis=1), kind="stable")
        wanted.append(max(np.quantile(novelty[order[:k]], QUANTILE) - less for k, less in NEIGHBOURHOODS.items()))
    np.testing.assert_allclose(score(novelty, pcs), wanted)


def test_the_list_is_that_of_benjamini_and_hochberg():
    random = np.random.default_rng(3)
    for fdr in (0.01, 0.1, 0.5):
        for _ in range(20):
            p = np.round(random.uniform(size=60) ** 3, 2).clip(0.005, 1)
            np.testing.assert_array_equal(discover(p, fdr), false_discovery_control(p) <= fdr + 1e-12)
    assert discover(np.ones(0), 0.1).shape == (0,)


@pytest.mark.parametrize("n_novel", [0, 40])
def test_the_rate_is_kept_on_average_and_neighbours_find_what_single_cells_do_not(n_novel):
    random, proportions, powers, alone = np.random.default_rng(4), [], [], []
    for _ in range(150):
        known = calibration_of(*draw(100, 0, random))
        novelty, pcs = draw(80, n_novel, random)
        found = discover(p_values(known, novelty, pcs), 0.2)
        proportions.append(found[:80].sum() / max(found.sum(), 1))
        powers.append(found[80:].mean() if n_novel else 0)
        one_by_one = discover(conformal(known.novelties, novelty, 100), 0.2)
        alone.append(one_by_one[80:].mean() if n_novel else 0)
    assert np.mean(proportions) < 0.2 + 3 * np.std(proportions) / np.sqrt(150)
    if n_novel:
        assert np.mean(powers) > np.mean(alone) + 0.3


def test_the_order_of_the_cells_does_not_matter():
    random = np.random.default_rng(5)
    (known, places), (novelty, pcs) = draw(90, 0, random), draw(50, 30, random)
    p, turn, back = (
        p_values(calibration_of(known, places), novelty, pcs),
        random.permutation(80),
        random.permutation(90),
    )
    np.testing.assert_array_equal(
        p_values(calibration_of(known[back], places[back]), novelty[turn], pcs[turn]), p[turn]
    )
    assert p_values(calibration_of(known, places), novelty[:0], pcs[:0]).shape == (0,)


def test_many_cells_are_compared_in_parts(monkeypatch):
    random = np.random.default_rng(6)
    known, (novelty, pcs) = calibration_of(*draw(90, 0, random)), draw(300, 200, random, shift=2)
    whole = p_values(known, novelty, pcs)
    monkeypatch.setattr(discoveries, "PART", 170)
    parts = p_values(known, novelty, pcs)
    assert np.corrcoef(whole, parts)[0, 1] > 0.7
    assert discover(parts, 0.2)[300:].mean() > 0.8


def test_the_shortest_list_is_the_first_that_can_pass():
    for n_new, n_known, fdr in ((100, 99, 0.1), (1000, 184, 0.1), (7, 200, 0.05), (3, 9, 0.1)):
        k = shortest(n_new, n_known, fdr)
        lists = [discover(np.where(np.arange(n_new) < n, 1 / (n_known + 1), 1), fdr).sum() for n in range(n_new + 1)]
        assert min(filter(None, lists), default=k) == k


# ---------------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def model():
    return tt.fit(make_cells(700, 1), "kind", steps=30, progress=False, hold_out=0)


@pytest.fixture(scope="module")
def query():
    return make_cells(160, 2, types="abcdefg" + 3 * NEW)


def test_predict_writes_the_list_and_what_it_promises(model, query):
    found = predicted(query, model, fdr=0.2)
    said = model.predict(query.X, fdr=0.2)[0]
    np.testing.assert_array_equal(found.obs["tt_novel"], said.novel)
    np.testing.assert_array_equal(found.obs["tt_novel_p"], said.p)
    assert found.obs["tt_novel"].dtype == bool
    new = (query.obs["kind"] == NEW).to_numpy()
    assert said.novel[new].mean() > 0.9
    assert said.novel[~new].mean() < 0.1
    record, n = found.uns["tt_mapping"], model.calibration.n_cells
    assert (record["fdr"], record["novel"], record["calibration_cells"]) == (0.2, said.novel.sum(), n)
    assert record["shortest_list"] == shortest(160, n, 0.2) <= said.novel.sum()
    plain = predicted(query, model)
    assert plain.obs["tt_label"].equals(found.obs["tt_label"])
    assert not {"tt_novel", "tt_novel_p"} & {*plain.obs}


def test_an_earlier_list_is_removed(model, query):
    found = predicted(query, model, fdr=0.2, key_added="X_new")
    assert {"X_new_novel", "X_new_novel_p"} <= {*found.obs}
    tt.predict(found, model, key_added="X_new")
    assert not {"X_new_novel", "X_new_novel_p"} & {*found.obs}
    assert "fdr" not in found.uns["X_new_mapping"]


def test_cells_of_the_fit_are_not_on_the_list_and_change_nothing(model, query):
    seen, new = make_cells(700, 1).X[:200], query.X
    said = model.predict(np.concatenate([seen.toarray(), new.toarray()]), fdr=0.2)[0]
    assert not said.novel[:200].any()
    assert (said.p[:200] == 1).all()
    np.testing.assert_allclose(said.p[200:], model.predict(new, fdr=0.2)[0].p)


def test_a_model_file_gives_the_same_list(model, query, tmp_path):
    model.save(tmp_path / "m.tt")
    said, again = (one.predict(query.X, fdr=0.2)[0] for one in (model, tt.load(tmp_path / "m.tt")))
    np.testing.assert_array_equal(again.p, said.p)


def test_too_few_calibration_cells_are_told(model, query):
    n = model.calibration.n_cells
    with pytest.warns(UserWarning, match=rf"fdr=0.001 takes 999 calibration cells or more, and the model has {n}: the"):
        assert not model.predict(query.X, fdr=0.001)[0].novel.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(query.X, fdr=1 / (n + 1))


def test_calibration_cells_lie_where_the_model_puts_them_also_if_another_encoder_was_asked():
    adata = make_cells(210, 3)
    adata.obs["donor"] = np.array(list("xyz"))[np.random.default_rng(0).integers(3, size=210)]
    for batch in (None, "donor"):
        found = tt.fit(adata, "kind", batch=batch, steps=3, progress=False, hold_out=0).calibration
        assert found.pcs.shape == (found.n_cells, 20)
        rows = {row.tobytes() for row in adata.obsm["X_tt_pca"][:, :20]}
        assert len(rows & {row.tobytes() for row in found.pcs}) == found.n_cells


def test_cells_of_one_modality_are_compared_with_calibration_cells_as_seen_by_it(both, fresh):
    known, x = both.model.alone["rna"].calibration, fresh.rna.X
    found = both.model.predict(rna=x, fdr=0.3)[0]
    pcs = both.model.features.pcs(both.model.table(rna=x))
    np.testing.assert_array_equal(found.p, p_values(known, found.deviation, pcs))
    np.testing.assert_array_equal(found.novel, discover(found.p, 0.3))


@pytest.mark.parametrize("fdr", [0, 1, -0.1, 1.5, np.nan, True, "0.1"])
def test_an_fdr_out_of_range_is_refused_and_nothing_is_written(model, query, fdr):
    asked = query.copy()
    with pytest.raises(ValueError, match=r"fdr=.* is not a share between 0 and 1, such as 0\.1; None makes no list"):
        tt.predict(asked, model, fdr=fdr)
    assert list(asked.obs) == list(query.obs)
    assert not asked.obsm
