"""A published map: which coordinates are adopted, how learned ones are scored, and what is refused."""

import re
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from samples import BRIEF, make_cells, make_pair, mudata_of, refusal
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import tripletomics as tt
from tripletomics import adoption, cli, features, pp
from tripletomics.checkpoint import Checkpoint
from tripletomics.problem import Settings
from tripletomics.samplers import Shuffled
from tripletomics.store import sampling

COLORS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#00ffff", "#ff00ff", "#808080"]


def with_map(n=240, seed=1, dim=2):
    """Cells with a map in units of its own, which follows from their genes."""
    adata = make_cells(n, seed)
    x = adata.X.toarray()
    x = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    adata.obsm["X_umap"] = 3 * PCA(dim, random_state=0).fit_transform(x) + 40
    adata.obs["kind"] = adata.obs["kind"].astype("category")
    adata.uns["kind_colors"] = COLORS
    return adata


@pytest.fixture(scope="module")
def fitted():
    adata = with_map()
    model = tt.fit(adata, "kind", map="X_umap", hold_out=0.25, steps=40, progress=False)
    return adata, model


def split(adata):
    return (adata.obs["tt_split"] == "train").to_numpy()


# what is written


def test_training_cells_keep_their_coordinates(fitted):
    adata, model = fitted
    train, before = split(adata), with_map().obsm["X_umap"]
    np.testing.assert_array_equal(adata.obsm["X_umap"], before)
    assert adata.obsm["X_tt"].dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_tt"][train], before[train].astype(np.float32))
    assert not np.isclose(adata.obsm["X_tt"][~train], before[~train]).any(axis=1).all()
    landmarks = {tuple(m) for m in model.reference.map}
    assert landmarks <= {tuple(m) for m in before.astype(np.float32)[train]}


def test_learned_coordinates_are_near_the_true_ones(fitted):
    adata, model = fitted
    train, true = split(adata), adata.obsm["X_umap"]
    error = np.linalg.norm(adata.obsm["X_tt"] - true, axis=1)[~train]
    table = model.map_errors.set_index(["method", "cell_type"])
    width = np.ptp(true[train], axis=0).max()
    whole = table.loc[("tt", "all")]
    assert whole["median"] == pytest.approx(np.median(error), rel=1e-5)
    assert whole["p90"] == pytest.approx(np.quantile(error, 0.9), rel=1e-5)
    assert whole["median_percent"] == pytest.approx(100 * np.median(error) / width, rel=1e-4)
    assert whole["median_percent"] < 9 < 15 < table.loc[("permuted coordinates", "all"), "median_percent"]
    assert whole["p_value"] < 0.01
    assert whole["cells"] == (~train).sum() == table.loc["tt"]["cells"].iloc[1:].sum()


def test_labels_at_learned_and_at_true_places(fitted):
    adata, model = fitted
    train, y = split(adata), adata.obs["kind"].to_numpy()
    whole = model.map_errors.set_index(["method", "cell_type"]).loc[("tt", "all")]
    votes = KNeighborsClassifier(15).fit(adata.obsm["X_umap"][train].astype(np.float32), y[train])
    for key, end in (("X_tt", ""), ("X_umap", "_true")):
        found = votes.predict(adata.obsm[key][~train].astype(np.float32))
        assert whole[f"right_type{end}"] == pytest.approx((found == y[~train]).mean(), abs=0.02)  # ties
        assert whole[f"macro_f1{end}"] == pytest.approx(f1_score(y[~train], found, average="macro"), abs=0.02)


def test_new_cells_lie_where_held_out_cells_do(fitted):
    adata, model = fitted
    again = adata.copy()
    tt.transform(again, model)
    train = split(adata)
    np.testing.assert_array_equal(again.obsm["X_tt"][~train], adata.obsm["X_tt"][~train])
    assert np.median(np.linalg.norm(again.obsm["X_tt"] - adata.obsm["X_umap"], axis=1)[train]) < 5
    alone = tt.Model.map(model, adata[:3].X)
    np.testing.assert_allclose(alone, again.obsm["X_tt"][:3], rtol=1e-4, atol=1e-3)


def test_the_file_holds_it_all(fitted, tmp_path):
    adata, model = fitted
    model.save(tmp_path / "a.tt")
    read = tt.load(tmp_path / "a.tt")
    pd.testing.assert_frame_equal(read.map_errors, model.map_errors)
    assert read.colors == model.colors == dict(zip("abcdefg", COLORS, strict=True))
    assert read.summary() == model.summary()
    np.testing.assert_array_equal(read.map(adata.X), model.map(adata.X))
    adata.write_h5ad(tmp_path / "a.h5ad")
    kept = pd.DataFrame(dict(ad.read_h5ad(tmp_path / "a.h5ad").uns["X_tt"]["map_errors"]))
    np.testing.assert_allclose(kept["median"], model.map_errors["median"])


def test_a_damaged_file_is_refused(fitted, tmp_path):
    _, model = fitted
    model.save(tmp_path / "a.tt")
    for change, said in (
        (
            lambda m: setattr(m, "map_errors", m.map_errors.drop(columns="p_value")),
            "map_errors lacks some of its columns",
        ),
        (lambda m: setattr(m, "colors", {"a": 1}), "colors=.* is not dict"),
        (
            lambda m: setattr(m, "features", replace(m.features, plain=m.features.plain[:, 1:])),
            r"features\.plain is .* genes",
        ),
    ):
        read = tt.load(tmp_path / "a.tt")
        change(read)
        read.save(tmp_path / "b.tt")
        with pytest.raises(ValueError, match=said):
            tt.load(tmp_path / "b.tt")


def test_the_summary_says_how_far_off_it_is(fitted):
    said = fitted[1].summary()
    assert re.search(
        r"Map adopted from X_umap: held-out cells lie \d\.\d % of its width from their true coordinates", said
    )
    assert "The mean of the 15 nearest training cells: " in said
    assert "cannot be learned" not in said


def test_a_map_of_noise_cannot_be_learned():
    adata = with_map()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    model = tt.fit(adata, "kind", map="X_umap", hold_out=0.25, steps=20, progress=False)
    assert "This map cannot be learned from these genes" in model.summary()
    assert model.card().splitlines()[2].startswith("**This map cannot be learned from these genes")


def test_nothing_is_said_without_held_out_cells():
    adata = with_map()
    model = tt.fit(adata, "kind", map="X_umap", hold_out=0, **BRIEF)
    assert model.map_errors.empty
    np.testing.assert_array_equal(adata.obsm["X_tt"], adata.obsm["X_umap"].astype(np.float32))


def test_an_own_map_knows_no_published_one():
    adata = with_map()
    model = tt.fit(adata, "kind", **BRIEF)
    assert model.map_errors.empty
    assert not model.colors
    assert model.features.plain is None
    assert "map_errors" not in adata.uns["X_tt"]


# where a map comes from


def test_a_key_a_frame_and_a_file_are_the_same(tmp_path):
    found = []
    frame = pd.DataFrame(with_map().obsm["X_umap"], index=with_map().obs_names).astype(np.float32)
    for end, sep in ((".csv", ","), (".tsv", "\t")):
        frame.sample(frac=1, random_state=0).to_csv(tmp_path / f"umap{end}", sep=sep)
    for given in (
        "X_umap",
        frame.sample(frac=1, random_state=1),
        *(str(tmp_path / f"umap{e}") for e in (".csv", ".tsv")),
    ):
        adata = with_map()
        tt.fit(adata, "kind", map=given, **BRIEF)
        found.append(adata.obsm["X_tt"])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_cells_without_coordinates_get_learned_ones():
    adata = with_map()
    frame = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names)
    model = tt.fit(adata, "kind", map=frame[60:], steps=40, progress=False)
    train = split(adata)
    np.testing.assert_array_equal(
        adata.obsm["X_tt"][60:][train[60:]], adata.obsm["X_umap"][60:][train[60:]].astype("f4")
    )
    assert np.isfinite(adata.obsm["X_tt"]).all()
    held = np.flatnonzero(~train)
    np.testing.assert_array_equal(adata.obsm["X_tt"][held], model.map(adata.X)[held])
    assert 0 < np.median(np.linalg.norm(adata.obsm["X_tt"] - adata.obsm["X_umap"], axis=1)[:60]) < 9
    assert model.map_errors["cells"][0] == (~train[60:]).sum()


def test_three_dimensions_and_no_labels():
    adata = with_map(dim=3)
    model = tt.fit(adata, map="X_umap", steps=40, progress=False)
    assert adata.obsm["X_tt"].shape[1] == 3 == int(model.settings["dim"])
    assert list(model.map_errors["cell_type"]) == ["all"] * 3
    assert model.map_errors["macro_f1"].isna().all()
    assert "Map adopted from X_umap" in model.summary()


def test_without_held_out_cells_nothing_is_known_of_the_error():
    model = tt.fit(with_map(60), "kind", map="X_umap", hold_out=0, steps=3, progress=False)
    said = "Map adopted from X_umap: nothing says how far learned coordinates are from the true ones."
    assert said in model.summary()


def test_a_comparison_says_that_a_map_may_have_seen_the_held_out_cells():
    given = {"methods": ("tt:map=X_umap,steps=3", "pca2"), "seeds": 1, "progress": False}
    found = tt.compare(with_map(90), "kind", **given)
    assert "tt:map=X_umap,steps=3: a map that was made of all cells has seen the held-out ones." in found.summary()


@pytest.mark.parametrize("where", ["whole", "rna"])
def test_two_modalities(where):
    rna, protein = make_pair(210)
    mudata = mudata_of(rna=rna, protein=protein)
    target = mudata if where == "whole" else mudata["rna"]
    target.obsm["X_wnn"] = PCA(2).fit_transform(protein.X)
    model = tt.fit(mudata, "kind", map="X_wnn", **BRIEF)
    train = (mudata["rna"].obs["tt_split"] == "train").to_numpy()
    np.testing.assert_array_equal(mudata["rna"].obsm["X_tt"][train], target.obsm["X_wnn"][train].astype(np.float32))
    assert len(model.map_errors)


def test_batches():
    adata = with_map()
    adata.obs["donor"] = np.arange(adata.n_obs) % 3
    adata.obs["donor"] = adata.obs["donor"].map("d{}".format)
    assert len(tt.fit(adata, "kind", map="X_umap", batch="donor", **BRIEF).map_errors)


def test_a_sample_of_a_dataset_on_disk(tmp_path, monkeypatch):
    """Training cells that the sample lacks keep their coordinates too."""
    adata = with_map(600)
    frame = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names)
    adata.write_h5ad(tmp_path / "a.h5ad")
    frame.to_csv(tmp_path / "umap.csv")
    monkeypatch.setattr(sampling, "WHOLE_BYTES", 200 * 150 * 8)
    monkeypatch.setattr(sampling, "SAMPLE_CELLS", 300)
    for given in ("X_umap", str(tmp_path / "umap.csv")):
        model = tt.fit(tmp_path / "a.h5ad", "kind", map=given, **BRIEF)
        assert model.settings["cells"] == "300 of 600"
        read = ad.read_h5ad(tmp_path / "a.h5ad")
        train = split(read)
        np.testing.assert_array_equal(read.obsm["X_tt"][train], adata.obsm["X_umap"][train].astype(np.float32))
        assert not np.array_equal(read.obsm["X_tt"][~train], adata.obsm["X_umap"][~train].astype(np.float32))
    with pytest.raises(KeyError, match=r"map='X_umab' is not in adata.obsm.*X_umap"):
        tt.fit(tmp_path / "a.h5ad", "kind", map="X_umab", **BRIEF)


def test_the_command_line(tmp_path, capsys):
    adata = with_map()
    adata.write_h5ad(tmp_path / "a.h5ad")
    out = tmp_path / "b.h5ad"
    cli.main(["fit", str(tmp_path / "a.h5ad"), "--out", str(out), "--label", "kind", "--map", "X_umap",
                     "--steps", "5", "--no-progress"])  # fmt: skip
    assert "Map adopted from X_umap" in capsys.readouterr().out
    read = ad.read_h5ad(out)
    np.testing.assert_array_equal(read.obsm["X_tt"][split(read)], read.obsm["X_umap"][split(read)].astype("f4"))


# what is refused


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("X_umab", KeyError, r"map='X_umab' is not in adata.obsm.*Did you mean 'X_umap'\? Keys: X_umap"),
        ("nowhere.csv", FileNotFoundError, "map='nowhere.csv': there is no such file"),
        (lambda m: m.assign(a=m["a"].mask(m.index == m.index[7])), ValueError, r"1 of 240 cells .* NaN .*first: row 7"),
        (lambda m: m.assign(b=1.0), ValueError, "same coordinate in dimension 2"),
        (lambda m: m[["a"]], ValueError, "has 1 dimensions: a map has 2 or 3"),
        (lambda m: m[["a", "b", "a", "b"]], ValueError, "has 4 dimensions: a map has 2 or 3"),
        (lambda m: m.assign(b="x"), TypeError, "column 'b' holds text, not numbers"),
        (lambda m: m.set_axis([f"c{i}" for i in range(240)]), ValueError, "0 of 240 cells, such as c0, c1 in the map"),
        (lambda m: m.set_axis(["c"] * 240), ValueError, r"several cells of one name \(first: c\)"),
    ],
)  # fmt: skip
def test_a_map_that_cannot_be_adopted(given, error, said):
    adata = with_map()
    frame = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names, columns=["a", "b"])
    given = given if isinstance(given, str) else given(frame)
    with pytest.raises(error, match=said):
        tt.fit(adata, "kind", map=given, **BRIEF)
    assert "X_tt" not in adata.obsm
    assert "tt_split" not in adata.obs


def test_too_few_training_cells_with_coordinates():
    adata = with_map(150)
    frame = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names)
    with (
        pytest.warns(UserWarning, match="has coordinates of 16 of 150"),
        pytest.raises(ValueError, match="of 12 training cells, and a map is learned from 16 or more"),
    ):
        tt.fit(adata, "kind", map=frame[:16], hold_out=np.arange(150) < 4, **BRIEF)


def test_few_matching_cells_give_a_warning():
    adata = with_map()
    frame = pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names)
    with pytest.warns(UserWarning, match="has coordinates of 60 of 240 cells; the others get learned coordinates"):
        tt.fit(adata, "kind", map=frame[:60], **BRIEF)


@pytest.mark.parametrize(("name", "value"), [("structure", 0.2), ("spread", 0.0), ("dim", 3)])
def test_settings_that_contradict_a_map(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}.*leave {name} out"):
        tt.fit(with_map(), "kind", map="X_umap", **{name: value}, **BRIEF)


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00,\x80\n")
    with pytest.raises((ValueError, TypeError), match=r"map='.*a.csv' "):
        tt.fit(with_map(), "kind", map=str(tmp_path / "a.csv"), **BRIEF)


# its parts


def test_the_loss_is_the_mean_distance_in_tenths_of_the_width():
    given = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32) * [3, 9] + 5
    loss = adoption.Distance(given.astype(np.float32))
    a, rows = torch.randn(6, 2), torch.tensor([3, 1, 4, 15, 9, 2])
    middle, unit = (given.max(axis=0) + given.min(axis=0)) / 2, np.ptp(given, axis=0).max() / 10
    wanted = np.linalg.norm(a.numpy() - (given[rows] - middle) / unit, axis=1).mean()
    assert float(loss(a, rows)) == pytest.approx(wanted, abs=1e-4)


def test_the_mean_of_neighbours_is_the_better_one():
    random = np.random.default_rng(0)
    given = random.normal(size=(80, 2))
    good, bad = given + 0.01, random.normal(size=(80, 2))
    kinds = {"bad": bad, "good": good}
    found = adoption.nearest_means(
        {k: v[:60] for k, v in kinds.items()}, given[:60], {k: v[60:] for k, v in kinds.items()}, given[60:]
    )
    rows = NearestNeighbors(n_neighbors=15).fit(good[:60]).kneighbors(good[60:])[1]
    np.testing.assert_allclose(found, given[:60][rows].mean(axis=1))


def test_every_cell_is_shown_before_one_comes_again():
    minibatches = iter(Shuffled(10, 3, 0))
    shown = np.concatenate([next(minibatches)[0] for _ in range(3)])
    assert len(set(shown)) == 9


def test_a_fit_that_was_stopped_continues(tmp_path, monkeypatch):
    whole, again, path = with_map(), with_map(), tmp_path / "fit.ck"
    settings = {"label": "kind", "map": "X_umap", "steps": 6, "progress": False}
    tt.fit(whole, **settings)
    monkeypatch.setattr("tripletomics.checkpoint.EVERY", 0)
    note, calls = Checkpoint.note, []

    def stop(self, loop, step, last):
        note(self, loop, step, last)
        calls.append(step)
        if len(calls) == 16:  # in the middle of the map
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "note", stop)
    with pytest.raises(KeyboardInterrupt):
        tt.fit(again, **settings, checkpoint=path)
    other = with_map()
    other.obsm["X_umap"] = other.obsm["X_umap"][::-1]
    with pytest.raises(ValueError, match="was started with another published map"):
        tt.fit(other, **settings, checkpoint=path)
    tt.fit(again, **settings, checkpoint=path)
    np.testing.assert_array_equal(again.obsm["X_tt"], whole.obsm["X_tt"])


def test_plain_components_are_those_of_sklearn():
    adata = with_map()
    _, _, problem = pp.prepare(adata, Settings("kind", map="X_umap", hold_out=0.25))
    held = problem.held_out
    x = np.log1p(1e4 * (c := adata.X.toarray()) / c.sum(axis=1, keepdims=True))
    wanted = PCA(50, svd_solver="full").fit(x[~held]).transform(x[held])
    found = problem.map_pcs[held][:, problem.features.width :]
    one, other = (np.linalg.norm(a[:, None] - a[None], axis=2) for a in (found, wanted))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
    np.testing.assert_array_equal(problem.map_pcs[:, : problem.features.width], problem.pcs)


def test_missing_genes_are_imputed_in_plain_components():
    adata = with_map()
    _, _, problem = pp.prepare(adata, Settings("kind", map="X_umap"))
    part, present = problem.features, np.arange(150) % 10 > 0
    whole = part.map_pcs(adata.X, part.pcs(adata.X))
    some = part.map_pcs(adata.X, part.pcs(adata.X, present), present)
    zeros = adata.X.toarray() * present
    naive = part.map_pcs(zeros, part.pcs(zeros))
    plain = slice(part.width, None)
    off = [np.linalg.norm((other - whole)[:, plain], axis=1).mean() for other in (some, naive)]
    assert off[0] < 0.8 * off[1]
    assert isinstance(part, features.Features)


# figures and scores


def test_the_query_lies_on_the_published_figure(fitted):
    _, model = fitted
    query = make_cells(60, 9)
    tt.predict(query, model)
    figure = tt.pl.mapping(query, model)
    ax = figure.axes[0]
    layers = {layer.get_label(): layer for layer in ax.collections}
    assert ax.get_xlabel() == "UMAP 1"
    pale = {tuple(np.round(0.45 * np.array(to_rgb(color)) + 0.55, 4)) for color in COLORS}
    assert {tuple(np.round(face[:3], 4)) for face in layers["reference"].get_facecolors()} == pale
    bright = {tuple(np.round(to_rgb(color), 4)) for color in COLORS}
    assert {tuple(np.round(face[:3], 4)) for face in layers["new cells"].get_facecolors()} <= bright


def test_refits_adopt_the_map_again():
    adata = with_map()
    tt.fit(adata, "kind", map="X_umap", **BRIEF)
    table = tt.evaluate(adata, "kind", refits=1, progress=False)
    assert (table["split"] == "held-out").any()


def test_refits_need_a_map_by_its_key():
    adata = with_map()
    tt.fit(adata, "kind", map=pd.DataFrame(adata.obsm["X_umap"], index=adata.obs_names), **BRIEF)
    with pytest.raises(ValueError, match=r"map was a table .* into adata\.obsm"):
        tt.evaluate(adata, "kind", refits=1, progress=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 2)), r"TypeError: map is ndarray: name a key of adata\.obsm or a \.csv or \.tsv file"),
        (
            "X_far",
            r"ValueError: map='X_far' lies so far from 0 \(up to 1e\+08, and is .* wide\) that",
        ),
        ("X_tiny", r"ValueError: map='X_tiny' is .*e-\d+ wide: bring it to other units"),
        ("X_huge", r"ValueError: map='X_huge' is .*e\+\d+ wide: bring it to other units"),
        ("bare.csv", r"ValueError: map='bare\.csv': its first line holds numbers \(.*\), not names of columns"),
        ("tabs.csv", r"ValueError: map='tabs\.csv' has one column: are its columns separated by ','\?"),
    ],
)
def test_maps_that_would_be_misread_are_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata = make_cells(60, 1, "ab")
    m = np.random.default_rng(0).normal(size=(60, 2))
    adata.obsm.update({"X_far": 1e8 + m, "X_tiny": 1e-30 * m, "X_huge": 2e31 * m})
    pd.DataFrame(m, adata.obs_names).to_csv("bare.csv", header=False)
    pd.DataFrame(m, adata.obs_names, ["x", "y"]).to_csv("tabs.csv", sep="\t")
    assert re.search(message, refusal(tt.fit, adata, "kind", map=given, progress=False))
    assert "X_tt" not in adata.obsm


@pytest.mark.parametrize("key", ["X_mine", "X_mine_metric", "X_mine_pca"])
def test_results_are_not_written_over_the_map_that_is_adopted(key):
    adata = make_cells(60, 1, "ab")
    adata.obsm[key] = np.random.default_rng(0).normal(size=(60, 2))
    said = refusal(tt.fit, adata, "kind", map=key, key_added="X_mine", progress=False)
    assert said.startswith(f"ValueError: map={key!r} would be written over, because the map goes to 'X_mine'")


def test_two_modalities_with_two_maps_are_refused():
    rna, protein = make_pair(60)
    for adata in (rna, protein):
        adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    protein.obsm["X_umap"] *= 2
    said = refusal(tt.fit, (rna, protein), "kind", map="X_umap", progress=False)
    assert "is another map in the two modalities" in said


@pytest.mark.parametrize(
    ("colors", "kept"),
    [
        (5, {}), ("red", {}), (np.ones((2, 4)), {}), ({"a": "#ff0000"}, {"a": "#ff0000"}),
        (["#ff0000", "#00ff00"], {"a": "#ff0000", "b": "#00ff00"}),
    ],
)  # fmt: skip
def test_colours_of_any_form_do_no_harm(colors, kept):
    adata = make_cells(60, 1, "ab")
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    adata.uns["kind_colors"] = colors
    model = tt.fit(adata, "kind", map="X_umap", steps=3, progress=False)
    assert model.colors == kept
