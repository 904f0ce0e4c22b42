"""An embedding in place of the genes: `use_rep`."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from samples import BRIEF, FAST, make_cells, make_pair, mudata_of
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

import tripletomics as tt
from tripletomics import features, pp
from tripletomics.model.assembly import assemble, disassemble
from tripletomics.problem import Settings

KEY = "X_mine"


@pytest.fixture(scope="module")
def axes():
    return PCA(12, random_state=0).fit(np.log1p(make_cells(300, 1).X.toarray()))


def embed(adata, axes, key=KEY, factor=1.0):
    adata.obsm[key] = (factor * axes.transform(np.log1p(adata.X.toarray()))).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def fitted(axes):
    cells = embed(make_cells(300, 1), axes)
    return cells, tt.fit(cells, "kind", use_rep=KEY, **FAST)


@pytest.fixture
def cells(fitted):
    return fitted[0].copy()


@pytest.fixture(scope="module")
def model(fitted):
    return fitted[1]


@pytest.fixture
def query(axes):
    return embed(make_cells(60, 2), axes)


def content_of(model):
    """What a file of the model holds."""
    header, tensors = disassemble(model, False)
    return json.loads(json.dumps(header, default=np.ndarray.tolist)), tensors


def same(one, other):
    return all(np.array_equal(one.obsm[key], other.obsm[key]) for key in ("X_tt", "X_tt_metric"))


# what the model reads


def test_the_genes_are_not_read(axes, fitted):
    cells = embed(make_cells(300, 1), axes)
    bare = ad.AnnData(obs=cells.obs, obsm={KEY: cells.obsm[KEY]})
    tt.fit(bare, "kind", use_rep=KEY, **FAST)
    assert same(bare, fitted[0])


def test_distances_are_kept(cells):
    """Up to 50 dimensions are only centred and rotated: an oracle from scipy and scikit-learn."""
    assert np.allclose(pdist(cells.obsm["X_tt_pca"]), pdist(cells.obsm[KEY]), rtol=1e-4)
    train = (cells.obs["tt_split"] == "train").to_numpy()
    own = PCA(12).fit(cells.obsm[KEY][train].astype(float)).transform(cells.obsm[KEY].astype(float))
    assert np.allclose(np.abs(own), np.abs(cells.obsm["X_tt_pca"]), atol=1e-3)


def test_the_encoder_sees_one_scale_and_nothing_is_cut():
    x = np.random.default_rng(0).normal(size=(200, 8)) * np.arange(1, 9) + 100
    x[0, 0] = 1e4
    own = features.fit(x, list("abcdefgh"), False, 0, features.Choice.of_embedding(KEY, 8))
    rows = own.standardise(own.normalise(x))
    assert np.allclose(rows, (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0).mean()), atol=1e-4)
    assert np.allclose(own.pcs(x, fitted=np.full(200, True)), own.pcs(x), atol=0)  # nothing was fitted to the cells
    assert np.allclose(pdist(own.pcs(x)), pdist(x), rtol=1e-4)
    assert np.allclose(own.deviation, x.std(axis=0), rtol=1e-5)


def test_a_wide_embedding_has_fitted_components():
    """Of 150 noisy dimensions, 50 axes follow the noise of the training cells, which is corrected as in genes."""
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 150)).astype(np.float32)
    x[:, :3] *= 5
    train = np.arange(400) < 120
    names = [f"d{i}" for i in range(150)]
    own = features.fit(x[train], names, False, 0, features.Choice.of_embedding(KEY, 150))
    assert own.width == 50
    spread = [own.pcs(x, fitted=rows).std(axis=0) for rows in (np.zeros(400, bool), train)]
    before, after = (
        own.pcs(x, fitted=rows)[train].std(axis=0)[5:].mean() / spread[0][5:].mean()
        for rows in (np.zeros(400, bool), train)
    )
    new = own.pcs(x)[~train].std(axis=0)[5:].mean() / spread[0][5:].mean()
    assert abs(after - new) < 0.3 * abs(before - new)


def test_any_unit_gives_the_same_map(cells):
    maps = []
    for factor in (1, 1e-4, 1e4):
        other = cells.copy()
        other.obsm[KEY] = factor * other.obsm[KEY]
        tt.fit(other, "kind", use_rep=KEY, **BRIEF)
        maps.append(other.obsm["X_tt"])
    for other in maps[1:]:
        assert np.median(np.linalg.norm(other - maps[0], axis=1)) < 0.02 * np.ptp(maps[0])


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, pd.DataFrame, np.float64])
def test_any_storage_gives_the_same_problem(cells, kind):
    other = cells.copy()
    x = other.obsm[KEY]
    other.obsm[KEY] = pd.DataFrame(x, other.obs_names) if kind is pd.DataFrame else kind(x)
    one, two = (pp.prepare(adata, Settings.of({"label": "kind", "use_rep": KEY}))[2] for adata in (cells, other))
    assert np.array_equal(one.pcs, two.pcs)
    assert np.array_equal(one.rows.rows(slice(None)), two.rows.rows(slice(None)))
    assert np.array_equal(one.seen.hashes, two.seen.hashes)


def test_a_cell_of_the_fit_is_found(cells, model):
    with pytest.warns(UserWarning, match="of 300 cells were part of the fit"):
        tt.transform(cells, model)
    assert set(cells.obs["tt_split"]) == {"train", "held-out"}


# new cells


def test_new_cells(query, model, tmp_path):
    tt.predict(query, model)
    assert (query.obs["tt_label"] == query.obs["kind"]).mean() > 0.8
    assert query.uns["tt_mapping"]["use_rep"] == KEY
    model.save(tmp_path / "m.tt")
    other = query.copy()
    tt.transform(other, tt.load(tmp_path / "m.tt"))
    assert same(other, query)
    direct = model.embed(query.obsm[KEY])
    assert np.array_equal(direct, query.obsm["X_tt_metric"])


def test_another_key_and_other_order_of_columns(query, axes, cells, model):
    tt.transform(query, model)
    other = query.copy()
    other.obsm["X_other"] = other.obsm.pop(KEY)
    tt.transform(other, model, use_rep="X_other")
    assert same(other, query)
    names = [f"topic {i}" for i in range(12)]
    cells.obsm[KEY] = pd.DataFrame(cells.obsm[KEY], cells.obs_names, names)
    named = tt.fit(cells, "kind", use_rep=KEY, **FAST)
    assert named.features.genes == names
    query.obsm[KEY] = pd.DataFrame(query.obsm[KEY], query.obs_names, names)[names[::-1]]
    turned = query.copy()
    tt.transform(turned, named)
    assert same(turned, query)
    query.obsm[KEY].columns = list("abcdefghijkl")
    with pytest.raises(ValueError, match=r"lacks 12 of the model's 12 dimensions by name \(first: topic 0"):
        tt.transform(query, named)
    tt.transform(query, model)  # whose dimensions have no names of their own


def test_explain_names_dimensions(cells, model):
    table = tt.explain(cells, model, "kind")
    assert set(table["gene"]) == {f"{KEY}_{i + 1}" for i in range(12)}
    assert repr(model).startswith(f"<tripletomics.Model: 12 dimensions of {KEY}, 7 types")


def test_disk_equals_memory(cells, query, model, tmp_path):
    files = [tmp_path / "cells.h5ad", tmp_path / "query.zarr"]
    before = cells.copy()
    for key in ("X_tt", "X_tt_metric", "X_tt_pca"):
        del cells.obsm[key]
    cells.obsm[KEY] = sp.csr_matrix(cells.obsm[KEY])
    cells.write_h5ad(files[0])
    query.write_zarr(files[1])
    on_disk = tt.fit(files[0], "kind", use_rep=KEY, **FAST)
    assert same(ad.read_h5ad(files[0]), before)
    model.save(tmp_path / "m.tt")
    tt.tl.transform_shard(files[1], tmp_path / "m.tt", "1/1", key_added="X_shard")
    tt.transform(files[1], on_disk)
    tt.transform(query, model)
    read = ad.read_zarr(files[1])
    assert same(read, query)
    assert np.array_equal(read.obsm["X_shard"], query.obsm["X_tt"])
    with pytest.raises(KeyError, match=r"use_rep='X_min' is not in obsm of .* Did you mean 'X_mine'\?"):
        tt.fit(files[0], "kind", use_rep="X_min", **FAST)
    cells.obsm["X_less"] = before.obsm[KEY][:, :11]
    less = tt.fit(cells, "kind", use_rep="X_less", **BRIEF)
    with pytest.raises(ValueError, match="12 dimensions in the query, and the model was fitted on 11"):
        tt.transform(files[1], less, use_rep=KEY)


def test_two_modalities(axes):
    rna, protein = make_pair()
    embed(rna, axes)
    pair = tt.fit((rna, protein), "kind", use_rep=KEY, **BRIEF)
    assert [part.use_rep for part in pair.features.parts] == [KEY, None]
    assert pair.settings["embedding"] == "may have seen held-out cells"
    for one in (rna[:30].copy(), protein[:30].copy()):
        tt.transform(one, pair)  # the model finds out which modality it is
        assert one.obsm["X_tt"].shape == (30, 2)


def test_the_command_line_reads_it(cells, query, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells.write_h5ad("cells.h5ad")
    query.write_h5ad("query.h5ad")
    given = ("--label", "kind", "--use-rep", KEY)
    status, said, error = run("fit", "cells.h5ad", *given, "--out", "map.h5ad", "--model", "m.tt", "--steps", "30")
    assert status == 0, error
    assert "The embedding may have seen the held-out cells" in said
    assert same(ad.read_h5ad("map.h5ad"), cells)
    status, _, said = run("predict", "query.h5ad", "--model", "m.tt", "--out", "labels.h5ad")
    assert (status, f"The 12 dimensions of {KEY} were read." in said) == (0, True), said
    status, _, error = run("fit", "cells.h5ad", "--label", "kind", "--use-rep", "X_min", "--out", "map.h5ad")
    assert (status, "Did you mean 'X_mine'?" in error) == (1, True)


def test_a_file_with_a_damaged_record(model):
    header, tensors = content_of(model)
    for name, value in {"norm": -1.0, "use_rep": 3}.items():
        damaged = header | {"features": header["features"] | {name: value}}
        with pytest.raises(ValueError, match="features"):
            assemble(tt.Model, damaged, tensors)


# what scores say


def test_scores_say_that_the_embedding_may_have_seen_the_cells(cells, model):
    words = f"The data is the embedding {KEY}. The embedding may have seen the held-out cells"
    assert words in model.summary()
    assert words in tt.evaluate(cells, "kind").attrs["summary"]
    given = {"seeds": 1, "use_rep": KEY, "cache": None, "progress": False}
    result = tt.compare(cells, "kind", ["mlp", "pca50"], **given)
    assert words in result.summary()
    assert list(result.adata.var_names) == [f"{KEY}_{i + 1}" for i in range(12)]


def test_components_of_training_cells_are_known(cells):
    """`tt.pca` writes down what it was fitted on; another split, or other values, are not believed."""
    tt.pca(cells, "kind", hold_out=0.2, key_added="X_new")
    held_out = (cells.obs["X_new_split"] == "held-out").to_numpy()

    def blind(**given):
        return pp.prepare(cells, Settings.of({"label": "kind", "use_rep": "X_new_pca", **given}))[2].blind

    assert blind(hold_out=held_out)
    assert not blind(hold_out=0.5)
    model = tt.fit(cells, "kind", use_rep="X_new_pca", hold_out="X_new_split", **BRIEF)
    assert "made from the training cells alone" in model.summary()
    assert "made from the training cells alone" in tt.evaluate(cells, "kind").attrs["summary"]
    cells.obsm["X_new_pca"][0] += 1
    assert not blind(hold_out=held_out)
    assert pp.prepare(cells, Settings.of({"label": "kind"}))[2].blind is None


# bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"use_rep": "X_min"},
            KeyError,
            "use_rep='X_min' is not in adata.obsm. Did you mean 'X_mine'? Present: ",
        ),
        ({"use_rep": "X"}, KeyError, "For the genes in .X, leave use_rep out."),
        ({"use_rep": 3}, TypeError, "use_rep=3 is not a key of adata.obsm"),
        ({"layer": "a"}, ValueError, "takes an embedding in place of the genes, and layer='a' is about genes"),
        ({"counts": True}, ValueError, "takes an embedding in place of the genes, and counts=True is about genes"),
        ({"augment": "thin"}, ValueError, "changes values of genes, and use_rep='X_mine' is an embedding: take 'mask'"),
        ({"use_rep": "X_tt_pca"}, ValueError, "would be written over, because the map goes to 'X_tt'"),
    ],
)
def test_settings_that_cannot_be(cells, change, error, words):
    before = cells.copy()
    with pytest.raises(error) as raised:
        tt.fit(cells, "kind", **({"use_rep": KEY} | FAST | change))
    assert words in str(raised.value)
    assert cells.uns.keys() == before.uns.keys()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x: np.where(x == x[3, 1], np.nan, x), ValueError, "NaN, infinite or too large values in 1 of 300 rows"),
        (lambda x: x.astype(float) * 1e38, ValueError, "too large values in"),
        (lambda x: x[:, :1], ValueError, "has 1 dimension, and a map needs two or more"),
        (lambda x: x[:, :0], ValueError, "has 0 dimensions, and a map needs two or more"),
        (lambda x: x.astype(str), TypeError, "not numbers"),
        (lambda x: x[:, :, None], ValueError, "has shape (300, 12, 1): pass cells by dimensions"),
        (lambda x: np.ones_like(x), ValueError, "No dimension of use_rep='X_mine' varies among the training cells"),
        (lambda x: "twice", ValueError, "has several columns of one name (first: a)"),
    ],
)
def test_embeddings_that_cannot_be(cells, change, error, words):
    x = change(cells.obsm[KEY])
    if isinstance(x, str):
        x = pd.DataFrame(cells.obsm[KEY][:, :2], cells.obs_names, ["a", "a"])
    cells.obsm[KEY] = x
    with pytest.raises(error) as raised:
        tt.fit(cells, "kind", use_rep=KEY, **FAST)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("change", "given", "error", "words"),
    [
        (lambda q: q.obsm.pop(KEY), {}, KeyError, "use_rep='X_mine' is not in adata.obsm. Present: none."),
        (lambda q: q.obsm.update({KEY: q.obsm[KEY][:, :5]}), {}, ValueError, "has 5 dimensions in the query"),
        (lambda q: q.obsm.update({KEY: 20 * q.obsm[KEY]}), {}, ValueError, "times further from the middle"),
        (
            lambda q: q.obsm.update({KEY: q.obsm[KEY] / np.linalg.norm(q.obsm[KEY], axis=1)[:, None]}),
            {}, ValueError, "all cells of the query have the same length (1 in the query",
        ),
        (lambda q: None, {"missing": "impute"}, ValueError, "missing='impute' is about genes, but the model"),
        (lambda q: None, {"alias": "id"}, ValueError, "alias='id' is about genes"),
        (lambda q: None, {"layer": "raw"}, ValueError, "layer='raw' is about genes"),
        (lambda q: None, {"use_rep": KEY, "layer": "raw"}, ValueError, "layer='raw' is about genes"),
        (lambda q: None, {"key_added": KEY}, ValueError, "would be written over"),
    ],
)  # fmt: skip
def test_queries_that_cannot_be(query, model, change, given, error, words):
    change(query)
    before = set(query.obsm)
    for verb in (tt.transform, tt.predict):
        with pytest.raises(error) as raised:
            verb(query, model, **given)
        assert words in str(raised.value)
    assert set(query.obsm) == before


def test_scales_that_are_odd(query, cells, model):
    z_scored = query.copy()
    z_scored.obsm[KEY] = z_scored.obsm[KEY] / z_scored.obsm[KEY].std(axis=0) * cells.obsm[KEY].std()
    with pytest.warns(UserWarning, match="All dimensions of the embedding vary alike in the query"):
        tt.transform(z_scored, model)
    query.obsm[KEY] = 3 * query.obsm[KEY]
    with pytest.warns(UserWarning, match="3 times further from the middle"):
        tt.transform(query, model)


def test_cells_of_one_type_are_no_warning(query, model, recwarn):
    for kind in "abcdefg":
        tt.transform(query[query.obs["kind"] == kind].copy(), model)
    assert not [w for w in recwarn if "scale" in str(w.message)]


def test_genes_and_embeddings_do_not_mix(cells, query):
    of_genes = tt.fit(cells, "kind", key_added="X_genes", **BRIEF)
    with pytest.raises(ValueError, match="the model was fitted on genes: leave use_rep out"):
        tt.transform(query, of_genes, use_rep=KEY)
    header, tensors = content_of(of_genes)
    newer = ("use_rep", "norm", "norm_spread")  # than format 8
    older = {name: value for name, value in header["features"].items() if name not in newer}
    again = assemble(tt.Model, header | {"features": older}, tensors)
    assert np.array_equal(again.map(query.X), of_genes.map(query.X))


def test_neither_of_two_modalities_has_it():
    rna, protein = make_pair()
    with pytest.raises(KeyError, match=r"use_rep='X_a' is in neither of the two datasets.*rna: none"):
        tt.fit((rna, protein), "kind", use_rep="X_a", **FAST)
    mudata = mudata_of(rna=rna, protein=protein)
    mudata.obsm["X_a"] = np.zeros((mudata.n_obs, 3))
    with pytest.raises(KeyError, match=r"of the MuData itself .* anndata.AnnData\(obs=mdata.obs, obsm="):
        tt.fit(mudata, "kind", use_rep="X_a", **FAST)


def test_an_embedding_of_another_kind_is_doubted(query, model):
    query.obsm[KEY] = query.obsm[KEY][:, ::-1].copy()
    with pytest.warns(UserWarning, match=r"cells are unlike all types of the model\. Was 'X_.*' made by"):
        tt.predict(query, model)


def test_copies_of_a_cell_are_no_embedding_of_one_length(query, model):
    copies = query[np.zeros(40, dtype=int)].copy()
    tt.predict(copies, model)
    np.testing.assert_allclose(copies.obsm["X_tt"], np.repeat(copies.obsm["X_tt"][:1], 40, axis=0), rtol=1e-4)
