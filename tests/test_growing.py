"""A fit that starts from a model: old cells stay, new types get room, and everything knows both."""

import re
from dataclasses import fields, replace
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from samples import KEYS, make_cells, make_pair, predicted, refusal, state
from scipy.spatial.distance import cdist
from scipy.stats import poisson
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import tripletomics as tt
from tripletomics import cli, growth, seen
from tripletomics.growth import networks, simulation, targets
from tripletomics.labels.calibration import fit_calibration
from tripletomics.losses import Softmax

OLD, NEW = "abcde", "efgh"
SHORT = {"steps": 60, "progress": False, "label": "kind"}
QUICK = SHORT | {"steps": 5}


@pytest.fixture(scope="module")
def old():
    cells = make_cells(300, 1, OLD)
    return tt.fit(cells, **SHORT), cells


@pytest.fixture(scope="module")
def grown(old):
    cells = make_cells(160, 2, NEW)
    return tt.fit(cells, init=old[0], **SHORT), cells


def test_it_knows_old_and_new_types(old, grown):
    model, cells = grown
    assert model.classes == sorted({*OLD, *NEW})
    asked = predicted(make_cells(200, 3, "abcdefgh"), model, reject=0)
    assert (asked.obs["tt_label"].astype(str) == asked.obs["kind"]).mean() > 0.9
    truth = asked.obs["kind"].to_numpy()
    for space, known in (("X_tt", model.reference.map), ("X_tt_metric", model.reference.z)):
        votes = KNeighborsClassifier(15).fit(known, np.array(model.types)[model.reference.codes])
        assert f1_score(truth, votes.predict(asked.obsm[space]), average="macro") > 0.85
    assert model.scores["held-out"]["metric"] > model.scores["permuted"]["metric"] + 0.2
    assert sorted(cells.obsm) == sorted(KEYS)
    assert cells.uns["X_tt"]["seen"] == model.id != old[0].id == model.settings["init"]


def test_old_cells_stay(old, grown):
    model, cells = old
    assert len(model.reference.z) < len(grown[0].reference.z)
    np.testing.assert_array_equal(grown[0].reference.map[: len(model.reference.map)], model.reference.map)
    np.testing.assert_array_equal(grown[0].reference.z[: len(model.reference.z)], model.reference.z)
    x = cells[:, model.features.genes].X
    moved = np.linalg.norm(grown[0].map(x) - model.map(x), axis=1) / np.ptp(model.reference.map, axis=0).max()
    assert np.median(moved) < 0.02
    np.testing.assert_array_equal(grown[0].pcs(x), model.pcs(x))  # features are not fitted again
    assert grown[0].findings["moved"].shape == (2,)
    assert re.search(r"Half of the old cells moved by less than \d\.\d %", grown[0].summary())


def test_it_remembers_old_and_new_cells(old, grown):
    for model, cells in (old, grown):
        x = cells[:, model.features.genes].X
        held_out = (cells.obs["tt_split"] == "held-out").to_numpy()
        assert ((grown[0].seen.find(x)[0] == seen.HELD_OUT) == held_out).all()
        train = cells[~held_out]
        assert grown[0].search(train[:, model.features.genes].X, 1).names[:, 0].tolist()[:1] != [""]
        assert set(train.obs_names) <= set(grown[0].catalog.names)
    index = grown[0].catalog
    kinds = [cells.obs["kind"][cells.obs["tt_split"] == "train"] for _, cells in (old, grown)]
    assert [grown[0].types[code] for code in index.codes] == [*kinds[0], *kinds[1]]


def test_its_card_does_not_mix_old_and_new_cells(old, grown):
    held_out = sum(int((cells.obs["tt_split"] == "held-out").sum()) for _, cells in (old, grown))
    learned, calibrated = ((old[0].seen.roles == role).sum() for role in (seen.TRAINING, seen.CALIBRATION))
    new = (grown[1].obs["tt_split"] == "train").sum()
    assert (
        f"Old: {learned} trained the first encoder. Old or new: {calibrated + new} calibrated the predictions or "
        f"trained the encoder when it grew, and {held_out} were held out." in grown[0].card()
    )


def test_it_is_a_normal_model(grown, tmp_path):
    model = grown[0]
    model.save(tmp_path / "grown.tt", index=True)
    loaded, asked = tt.load(tmp_path / "grown.tt"), make_cells(30, 9, "abh")
    for key in ("tt_label", "tt_confidence"):
        assert predicted(asked, loaded).obs[key].tolist() == predicted(asked, model).obs[key].tolist()
    assert loaded.id == model.id
    again = tt.fit(make_cells(60, 5, "ah"), init=tmp_path / "grown.tt", **QUICK)
    assert again.classes == model.classes
    assert again.settings["init"] == model.id


def test_the_same_seed_gives_the_same(old):
    cells, dense = make_cells(60, 2, NEW), make_cells(60, 2, NEW)
    dense.X = dense.X.toarray()
    one, other = (tt.fit(table, init=old[0], **QUICK) for table in (cells, dense))
    assert one.networks.state_dict().keys() == other.networks.state_dict().keys()
    np.testing.assert_allclose(cells.obsm["X_tt"], dense.obsm["X_tt"], atol=1e-3)
    np.testing.assert_array_equal(tt.fit(cells, init=old[0], **QUICK).reference.map, one.reference.map)


def test_from_disk_and_one_new_type_and_unlabelled_cells(old, tmp_path):
    cells = make_cells(60, 4, "g")
    cells.obs.loc[cells.obs_names[:20], "kind"] = None
    cells.write_h5ad(tmp_path / "more.h5ad")
    old[0].save(tmp_path / "old.tt")
    from_disk = tt.fit(tmp_path / "more.h5ad", init=str(tmp_path / "old.tt"), **QUICK)
    in_memory = tt.fit(cells, init=old[0], **QUICK)
    np.testing.assert_array_equal(from_disk.reference.map, in_memory.reference.map)
    assert from_disk.catalog is None  # the file has no index of the old cells
    assert in_memory.catalog.codes.tolist().count(-1) == (cells.obs["tt_split"][:20] == "train").sum()


def test_an_enrolled_type_and_proteins_can_grow():
    random = np.random.default_rng(0)
    table = make_cells(120, 1, "abc", genes=20)
    model = tt.fit(table, **QUICK)
    new = make_cells(20, 2, "d", genes=20)
    model.enroll(new[:5, model.features.genes].X, ["d"] * 5)
    grown = tt.fit(make_cells(40, 3, "dg", genes=20), init=model, **QUICK)
    assert grown.classes == list("abcdg")
    assert not grown.enrolled
    values = table.copy()
    values.X = random.normal(size=values.shape) + 3 * (values.obs["kind"] == "a").to_numpy()[:, None]
    model = tt.fit(values[values.obs["kind"] != "b"].copy(), **QUICK)
    assert tt.fit(values[values.obs["kind"] == "b"].copy(), init=model, **QUICK).classes == list("abc")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init": 3}, r"TypeError: init=3 is neither a model nor the path of one: pass what tripletomics.fit"),
        ({"label": None}, r"init= needs label=, the column of the types"),
        ({"metric_dim": 5}, r"metric_dim=5 is not that of the model in init=, 32: leave it out"),
        ({"dim": 3}, r"dim=3 is not that of the model in init=, 2"),
        ({"encoder": "mlp:hidden=8"}, r"encoder=mlp:hidden=8 is not that of the model in init=, mlp"),
        ({"structure": 0.2}, r"structure=0.2 is not that of the model in init=, 0.5"),
        ({"counts": False}, r"counts=False is not that of the model in init=, True"),
        ({"batch": "kind"}, r"batch='kind' cannot be used with init=: leave it out"),
        ({"self_training": True}, r"self_training=True cannot be used with init="),
        ({"checkpoint": "a.ckpt"}, r"checkpoint= cannot be used with init="),
        ({"loss": "simclr"}, r"loss='simclr' compares views or mines cells, .*: take a loss of one view"),
        ({"loss": "hierarchical_triplet"}, r"loss='hierarchical_triplet' compares views or mines cells"),
        ({"unlabelled": tuple(NEW)}, r"label='kind': no training cell is labelled, and without types no map can grow"),
    ],
)  # fmt: skip
def test_what_cannot_grow(old, given, message):
    cells = make_cells(60, 2, NEW)
    before = state(cells)
    assert re.search(message, refusal(tt.fit, cells, **SHORT | {"init": old[0]} | given))
    assert state(cells) == before


def test_cells_that_cannot_be_added(old):
    model, cells = old
    assert "240 of 240 cells were part of the fit" in refusal(tt.fit, cells[:240].copy(), init=model, **QUICK)
    message = refusal(tt.fit, make_cells(40, 2, NEW)[:, :60].copy(), init=model, **QUICK)
    assert re.search(r"The new cells lack 90 of the 150 genes of the model in init= \(first: Gene\d+, ", message)
    assert "init= is a model of one modality" in refusal(tt.fit, make_pair(60), init=model, **QUICK)
    named = make_cells(40, 2, NEW)
    named.obs.loc[named.obs["kind"] == "f", "kind"] = "unassigned"
    assert "'unassigned', which is what predict calls" in refusal(tt.fit, named, init=model, unlabelled=("x",), **QUICK)
    unlike = make_cells(40, 2, NEW)
    unlike.X = unlike.X.log1p()
    assert "counts" in refusal(tt.fit, unlike, init=model, **QUICK)


def test_models_that_cannot_grow(old):
    cells, unlabelled = make_cells(60, 2, NEW), make_cells(60, 3)
    fast = {"steps": 3, "progress": False}
    assert "init= is a model without labels" in refusal(tt.fit, cells, init=tt.fit(unlabelled, **fast), **SHORT)
    pair = tt.fit(make_pair(80), "kind", **fast)
    assert "init= is a model of two modalities (rna and protein)" in refusal(tt.fit, cells, init=pair, **SHORT)
    older = tt.Model(**vars(old[0]) | {"seen": None})
    assert "init= comes from a file of an older version" in refusal(tt.fit, cells, init=older, **SHORT)
    with pytest.raises(FileNotFoundError, match=r"There is no model file 'none\.tt'"):
        tt.fit(cells, init="none.tt", **SHORT)


def test_warnings(old):
    cells = make_cells(60, 2, "fg")
    cells.obs["kind"] = cells.obs["kind"].map({"f": " A", "g": "g"})
    with pytest.warns(UserWarning, match=r"The new type ' A' is called 'a' in the model in init=: they count as two"):
        tt.fit(cells, init=old[0], **QUICK)
    with pytest.warns(UserWarning, match=r"The new cells lack 5 genes of the model in init= \(first: .*as unknown"):
        tt.fit(make_cells(60, 2, "fg")[:, 5:].copy(), init=old[0], **QUICK)
    cells = make_cells(60, 2, "fg")
    cells.obs["out"] = cells.obs["kind"] == "f"
    with pytest.warns(UserWarning, match=r"Types that only held-out cells have: f"):
        model = tt.fit(cells, init=old[0], **QUICK, hold_out="out")
    assert "f" not in model.classes


def test_drawn_cells_are_like_those_that_they_stand_for(old):
    model, cells = old
    simulated = growth.simulate(model.features, model.reference, model.networks.encoder, 0)
    assert np.bincount(simulated.codes).tolist() == np.bincount(model.reference.codes).tolist()
    assert sp.issparse(simulated.x)
    assert (simulated.x.data == simulated.x.data.round()).all()
    again = growth.simulate(model.features, model.reference, model.networks.encoder, 0)
    np.testing.assert_array_equal(again.pcs, simulated.pcs)
    white = simulated.pcs @ model.reference.whiten
    assert (cdist(white, model.reference.means).argmin(axis=1) == simulated.codes).mean() > 0.95
    truth = model.pcs(cells[:, model.features.genes].X)[(cells.obs["kind"] == "a").to_numpy()]
    mine = simulated.pcs[simulated.codes == 0]
    near = np.linalg.norm(truth.mean(axis=0) - mine.mean(axis=0)) / np.linalg.norm(truth.std(axis=0))
    assert near < 0.8


def test_expected_logged_counts_against_a_sum():
    rate = simulation.RATES[150]
    by_hand = sum(poisson.pmf(k, rate) * np.log1p(2.5 * k) for k in range(200))
    assert simulation._expected(2.5)[150] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_new_type_gets_free_room_near_where_the_old_map_puts_it(dim):
    random = np.random.default_rng(0)
    landmarks = np.concatenate([random.normal(size=(300, dim)), random.normal(size=(300, dim)) + 12]).astype(np.float32)
    reference = SimpleNamespace(map=landmarks, z=landmarks, codes=np.repeat([0, 1], 300))
    m = np.concatenate([random.normal(size=(100, dim)) * 0.1, random.normal(size=(2, dim)) * 0.1 + 12])
    codes = np.repeat([2, 0], [100, 2])
    found, width = targets.find_targets(reference, m, m.astype(np.float32), random.normal(size=(102, 5)), codes)
    assert width == pytest.approx(np.ptp(landmarks, axis=0).max())
    assert np.median(cdist(found[:100], landmarks).min(axis=1)) > np.median(np.sort(cdist(landmarks, landmarks))[:, 1])
    centre = found[:100].mean(axis=0)
    assert np.linalg.norm(centre) < np.linalg.norm(centre - 12)  # next to the type that it was put on
    assert np.linalg.norm(found[100:], axis=1).max() < 4  # cells of type 0 that lay among type 1


def test_joined_references_are_those_of_all_cells(old):
    reference, random = old[0].reference, np.random.default_rng(0)
    n, dim = 40, reference.z.shape[1]
    z, m, pcs = random.normal(size=(n, dim)), random.normal(size=(n, 2)), random.normal(size=(n, len(reference.whiten)))
    codes = np.repeat([0, 5], n // 2)
    wide = growth.recode(reference, np.array([0, 1, 2, 3, 4]), 6)
    joined = growth.join_reference(wide, z, m, pcs, codes, 0)
    own = reference.z[reference.codes == 0]
    np.testing.assert_allclose(joined.prototypes[0], np.concatenate([own, z[:20]]).mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(joined.means[5], (pcs[20:] @ reference.whiten).mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(np.exp(joined.prior), joined.sizes / joined.sizes.sum())
    assert joined.sizes.sum() == reference.sizes.sum() + n
    swapped = growth.recode(reference, np.array([4, 3, 2, 1, 0]), 5)
    asked = random.normal(size=(7, dim)), random.normal(size=(7, len(reference.whiten)))
    np.testing.assert_allclose(swapped.evidence(*asked).logits[:, ::-1], reference.evidence(*asked).logits)


def test_a_joined_calibration_has_the_cells_of_both(old):
    model, cells = old
    x = cells[:100, model.features.genes].X
    evidence, codes = model.reference.evidence(model.embed(x), model.pcs(x)), np.arange(100) % 5
    first, second = (evidence.of(rows) for rows in (np.arange(50), np.arange(50, 100)))
    joined = growth.join_calibration(model.calibration, (second, codes[50:]), (first, codes[:50]))
    assert joined.n_cells == model.calibration.n_cells + 50
    novelty = np.concatenate([model.calibration.novelties, joined.novelty(second)])
    np.testing.assert_array_equal(joined.novelties, novelty)
    np.testing.assert_array_equal(joined.pcs, np.concatenate([model.calibration.pcs, second.pcs]))
    assert growth.join_calibration(None, (second, codes[50:]), (first, codes[:50])).weights == pytest.approx(
        fit_calibration([(second, codes[50:])]).weights
    )
    assert growth.join_calibration(None, (second.of(np.arange(1)), codes[:1]), (first, codes[:50])) is None


def test_the_loss_of_new_and_drawn_cells_against_a_plain_loop():
    import torch

    z, before, codes = torch.randn(6, 4), torch.randn(6, 4), np.array([0, 1, 2, 0, 1, 1])
    loss = Softmax()
    loss.build(4, 3)
    kept = networks.Kept(loss, codes, 3, 2.0)
    away = np.mean([((z[i] - before[i]) ** 2).mean().item() for i in range(3, 6)])
    wanted = loss(z, torch.from_numpy(codes)).item() + networks.KEPT * away / 4
    assert kept(torch.cat([z, before], dim=1), torch.arange(6)).item() == pytest.approx(wanted, rel=1e-5)
    goals = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    placed, m, old_m = networks.TargetDistance(goals, 10.0), torch.randn(5, 2), torch.randn(5, 2)
    goal = [*torch.from_numpy(goals), *old_m[3:]]
    c = networks.FAR * 10
    by_hand = np.mean([np.log1p(((a - b) ** 2).sum().item() / c**2) for a, b in zip(m, goal, strict=True)])
    value = placed(torch.cat([m, old_m], dim=1), torch.arange(5)).item()
    assert value == pytest.approx(networks.WEIGHT * networks.FAR**2 * by_hand, rel=1e-5)


def test_seen_cells_are_joined_in_order(old):
    known = old[0].seen
    other = replace(known, hashes=known.hashes + np.uint64(1))
    joined = growth.join_seen(known, other)
    assert (np.diff(joined.hashes.astype(float)) >= 0).all()
    assert len(joined.hashes) == len({*known.hashes.tolist(), *other.hashes.tolist()})
    assert {len(getattr(joined, field.name)) for field in fields(joined)} == {len(joined.hashes)}


@pytest.mark.parametrize("kept", [{"map": "X_given"}, {"use_rep": "X_mine"}, {"map": "X_given", "use_rep": "X_mine"}])
def test_a_model_of_an_adopted_map_or_of_an_embedding_grows(kept):
    random = np.random.default_rng(0)
    axes = random.normal(size=(150, 12))
    pair = make_cells(300, 1, OLD), make_cells(160, 2, NEW)
    for cells in pair:
        cells.obsm["X_mine"] = np.log1p(cells.X.toarray()) @ axes
        cells.obsm["X_given"] = cells.obsm["X_mine"][:, :2]
    model = tt.fit(pair[0], **QUICK, **kept)
    later = tt.fit(pair[1], init=model, **QUICK)  # the model knows what it reads
    assert later.types == sorted({*OLD, *NEW})
    np.testing.assert_array_equal(later.reference.map[: len(model.reference.map)], model.reference.map)
    assert later.part().use_rep == kept.get("use_rep")
    assert later.part().genes == model.part().genes
    tt.predict(pair[0], later)
    with pytest.raises(ValueError, match=r"map='X_given' cannot be used with init=: leave it out\."):
        tt.fit(pair[1], init=model, map="X_given", **QUICK)


def test_cells_of_the_names_of_old_ones_are_pointed_out(old):
    cells = make_cells(60, 2, NEW)
    cells.obs_names = [*old[1].obs_names[old[1].obs["tt_split"] == "train"][:3], *cells.obs_names[3:]]
    with pytest.warns(UserWarning, match=r"3 of 60 cells have the name of a training cell of the model in init= "):
        tt.fit(cells, init=old[0], **QUICK)


def test_a_dataset_of_which_a_fit_sees_a_sample_cannot_grow(old, tmp_path, monkeypatch):
    """A cell that the model has seen might be among those that are not in the sample."""
    monkeypatch.setattr("tripletomics.store.sampling.WHOLE_CELLS", 20)
    path = tmp_path / "more.h5ad"
    make_cells(60, 2, NEW).write_h5ad(path)
    before = path.read_bytes()
    assert "grow by a part of it in memory, and transform the rest" in refusal(tt.fit, path, init=old[0], **QUICK)
    assert path.read_bytes() == before


def test_the_cells_that_a_model_grew_by_are_not_rejected(old, grown):
    """They are no nearer to others than new cells are."""
    asked = predicted(grown[1], grown[0])
    assert (asked.obs["tt_label"] == "unassigned").mean() < 0.15


def test_the_command_line_grows_a_model_from_its_file(old, tmp_path, capsys):
    old[0].save(tmp_path / "old.tt")
    cells = make_cells(60, 2, NEW)
    cells.write_h5ad(tmp_path / "more.h5ad")
    cli.main(["fit", str(tmp_path / "more.h5ad"), "--out", str(tmp_path / "out.h5ad"), "--label", "kind",
              "--init", str(tmp_path / "old.tt"), "--model", str(tmp_path / "new.tt"), "--steps", "5",
              "--no-progress"])  # fmt: skip
    assert "Grown from model" in capsys.readouterr().out
    model = tt.fit(cells, init=tmp_path / "old.tt", **QUICK)
    assert tt.load(tmp_path / "new.tt").id == model.id
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_tt"], cells.obsm["X_tt"])
