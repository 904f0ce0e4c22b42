"""Which cells a model has seen: the hashes, the file, and what the verbs write and believe."""

import copy
import json
import struct
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from safetensors import safe_open
from safetensors.torch import save_file
from samples import BRIEF, make_cells

import tripletomics as tt
from tripletomics import keys, pl, tl
from tripletomics.features import Pair
from tripletomics.model.storage import FORMAT, seal
from tripletomics.seen import SeenCells, hash_rows

ALL = 2**64 - 1
SOME = r"^{} of {} cells were part of the fit \(the model was trained on them\)"


def plain(row):
    """Hash a row value by value, in whole numbers of Python."""
    total = 0
    for column, value in enumerate(np.asarray(row).astype(np.float32)):
        if value != 0:
            z = ((column + 1) << 32) | int.from_bytes(struct.pack(">f", value), "big")
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
            total = (total + (z ^ (z >> 31))) & ALL
    return total


@pytest.fixture(scope="module")
def x():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 30)).astype(np.float32).astype(float) * (random.random((40, 30)) < 0.4)
    x[3] = 0
    return x


# ------------------------------------------------------------------------------------------------- hashes


def test_the_hash_is_that_of_a_plain_loop(x):
    found = hash_rows(x)
    assert found.dtype == np.uint64
    assert found.tolist() == [plain(row) for row in x]
    assert found[3] == 0


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, np.asfortranarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_storage_makes_no_difference(x, make, dtype):
    np.testing.assert_array_equal(hash_rows(make(x.astype(dtype))), hash_rows(x))


def test_whole_numbers_of_any_type(x):
    whole = np.round(np.abs(3 * x))
    for dtype in (np.uint8, np.int64, np.float16, np.float32):
        np.testing.assert_array_equal(hash_rows(whole.astype(dtype)), hash_rows(whole))
    np.testing.assert_array_equal(hash_rows(whole > 0), hash_rows((whole > 0).astype(float)))


def test_zeros_that_are_stored_and_values_in_parts(x):
    rows, columns = np.indices(x.shape).reshape(2, -1)
    stored = sp.csr_matrix((np.where(x.ravel() == 0, -0.0, x.ravel()), (rows, columns)), shape=x.shape)
    assert stored.nnz == x.size
    np.testing.assert_array_equal(hash_rows(stored), hash_rows(x))
    np.testing.assert_array_equal(hash_rows(np.where(x == 0, -0.0, x)), hash_rows(x))
    parts = [x.ravel() - 1, np.ones(x.size)]
    order = np.argsort(np.tile(rows, 2), kind="stable")
    indptr = np.arange(0, 2 * x.size + 1, 2 * x.shape[1])
    twice = sp.csr_matrix((np.concatenate(parts)[order], np.tile(columns, 2)[order], indptr), shape=x.shape)
    before = twice.data.copy()
    np.testing.assert_array_equal(hash_rows(twice), hash_rows(np.reshape(parts[0] + 1, x.shape)))
    np.testing.assert_array_equal(twice.data, before)


@pytest.mark.parametrize("block", [1, 7, 40, 10**6])
def test_the_size_of_blocks_makes_no_difference(x, block, monkeypatch):
    expected = hash_rows(x)
    monkeypatch.setattr("tripletomics.seen.BLOCK", block)
    np.testing.assert_array_equal(hash_rows(x), expected)
    np.testing.assert_array_equal(hash_rows(sp.csr_matrix(x)), expected)


def test_no_two_cells_of_a_random_table_collide_and_each_value_counts():
    random = np.random.default_rng(1)
    x = np.unique(random.poisson(0.2, (60_000, 30)), axis=0)  # many small whole numbers, alike in most columns
    assert len(np.unique(hash_rows(x))) == len(x)
    changed = x.copy()
    changed[np.arange(len(x)), random.integers(30, size=len(x))] += 1
    swapped = x[:, ::-1]
    assert (hash_rows(changed) != hash_rows(x)).all()
    assert ((hash_rows(swapped) == hash_rows(x)) == (swapped == x).all(axis=1)).all()
    bits = (hash_rows(x)[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02  # every digit is as often 0 as 1


def test_a_pair_is_its_dense_table(x):
    random = np.random.default_rng(2)
    measured = np.array([[True, True], [True, False], [False, True]])[np.arange(40) % 3]
    proteins = random.poisson(2, (40, 5)).astype(float)
    pair = Pair((sp.csr_matrix(x * measured[:, :1]), proteins * measured[:, 1:]), measured)
    np.testing.assert_array_equal(hash_rows(pair), hash_rows(pair.toarray()))
    alone = hash_rows(pair.only(0))
    assert (
        alone[measured[:, 0]]
        == hash_rows(Pair((pair.sides[0], 0 * proteins), measured & [True, False]))[measured[:, 0]]
    ).all()  # what is hidden does not count
    assert (alone != hash_rows(pair))[pair.both].all()


# ------------------------------------------------------------------------------------------------- cells


def test_roles_and_what_components_were_fitted_on_are_found_again(x):
    held_out, calibration, fitted = np.arange(40) % 4 == 0, np.arange(40) % 4 == 1, np.arange(40) % 5 > 1
    seen = SeenCells.of(x, held_out, calibration, fitted)
    assert (seen.hashes.dtype, seen.roles.dtype, seen.fitted.dtype) == (np.uint64, np.uint8, bool)
    assert (np.diff(seen.hashes.astype(object)) > 0).all()
    order = np.random.default_rng(0).permutation(40)
    roles, found = seen.find(sp.csc_matrix(x[order].astype(np.float32)))
    assert (roles.dtype, found.dtype) == (np.int8, bool)
    np.testing.assert_array_equal(roles, np.select([held_out, calibration], [0, 2], 1)[order])
    np.testing.assert_array_equal(found, fitted[order])
    for roles, found in (seen.find(x + 1), SeenCells.of(x[:0], *np.zeros((3, 0), dtype=bool)).find(x)):
        assert set(roles) == {-1}
        assert not found.any()


def test_of_cells_with_the_same_values_those_that_were_trained_on_count(x):
    same = x[[0, 0, 0, 1, 1, 2]]
    held_out, calibration = np.array([1, 0, 0, 1, 0, 1], dtype=bool), np.array([0, 1, 0, 0, 1, 0], dtype=bool)
    seen = SeenCells.of(same, held_out, calibration, np.array([0, 0, 1, 0, 0, 0], dtype=bool))
    roles, fitted = seen.find(x[:3])
    assert roles.tolist() == [1, 2, 0]
    assert fitted.tolist() == [True, False, False]


def test_a_cell_of_two_modalities_is_met_by_one_of_them(x):
    measured = np.ones((40, 2), dtype=bool)
    measured[5, 1] = False
    pair = Pair((x, x[:, :4] * measured[:, 1:] + measured[:, 1:]), measured)
    held_out = np.arange(40) < 10
    seen = SeenCells.of(pair, held_out, np.zeros(40, dtype=bool), ~held_out)
    for query in (pair, pair.only(0)):
        roles, fitted = seen.find(query)
        assert (roles == ~held_out).all()
        assert (fitted == ~held_out).all()
    assert (seen.find(pair.only(1))[0][6:] >= 0).all()
    assert seen.find(pair.only(1))[0][5] == -1  # never measured


# ------------------------------------------------------------------------------------------------- models and files


@pytest.fixture(scope="module")
def table():
    """Cells that a model was fitted to, 30 % held out, and that model."""
    adata = make_cells(200, 1)
    return adata, tt.fit(adata, "kind", hold_out=0.3, **BRIEF)


@pytest.fixture(scope="module")
def other():
    """A model of the same cells that has seen all of them."""
    return tt.fit(make_cells(200, 1), "kind", hold_out=0, seed=1, **BRIEF)


def held(adata, column="tt_split"):
    return (adata.obs[column] == "held-out").to_numpy()


def quiet(verb, *given, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verb(*given, **settings)


def test_a_fit_keeps_its_cells_and_names_itself(table, other):
    adata, model = table
    roles, fitted = model.seen.find(adata[:, model.features.genes].X)
    assert ((roles == 0) == held(adata)).all()
    assert (roles == 2).sum() >= 10  # calibration cells
    assert (fitted == ~held(adata)).all()  # calibration cells among them
    assert adata.uns["X_tt"]["seen"] == model.id != other.id
    assert len(model.id) == 16
    assert set(model.seen.find(make_cells(50, 2).X)[0]) == {-1}
    assert copy.deepcopy(model).id == replace(model).id == model.id
    assert replace(model, seen=other.seen).id != model.id


def test_the_file_keeps_them(table, tmp_path):
    _, model = table
    model.save(tmp_path / "m.tt")
    loaded = tt.load(tmp_path / "m.tt")
    assert loaded.id == model.id
    for name in ("hashes", "roles", "fitted"):
        found, expected = getattr(loaded.seen, name), getattr(model.seen, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    own = copy.deepcopy(model)
    own.enroll(make_cells(5, 3, types="h").X, ["h"] * 5)
    assert own.id == model.id
    own.save(tmp_path / "own.tt")
    assert tt.load(tmp_path / "own.tt").id == model.id


@pytest.fixture
def old(table, tmp_path):
    """The model as the format before wrote it: without the cells, how components shrink, and transport."""
    table[1].save(tmp_path / "m.tt")
    with safe_open(tmp_path / "m.tt", framework="pt") as file:
        names = [name for name in file.keys() if not name.startswith(("cells.", "networks.map_head.even."))]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
        header = json.loads(file.metadata()["tripletomics"])
    del (
        header["sha256"], header["cells"], header["settings"]["spread"], header["features"]["residual"],
        tensors["features.shrink"],
    )  # fmt: skip
    save_file(tensors, tmp_path / "old.tt", {"tripletomics": json.dumps(header | {"format": 6})})
    with pytest.warns(UserWarning, match="in format 6, which carries no checksum"):
        return tt.load(tmp_path / "old.tt")


def test_a_file_of_the_format_before_loads_and_knows_no_cells(table, old, tmp_path):
    adata, model = table
    assert old.seen is old.features.shrink is old.networks.map_head.even is None
    assert old.id != model.id
    before = copy.deepcopy(model)
    before.seen = before.networks.map_head.even = None
    x = adata[:, model.features.genes].X
    np.testing.assert_array_equal(old.map(x), before.map(x))
    np.testing.assert_array_equal(old.pcs(x), model.features.pcs(x))
    old.save(tmp_path / "again.tt")
    np.testing.assert_array_equal(tt.load(tmp_path / "again.tt").map(x), before.map(x))


def test_a_model_that_knows_no_cells_takes_the_split_away(table, old):
    again = table[0].copy()
    tt.predict(again, old)
    assert "seen" not in again.uns["tt_mapping"]
    assert again.uns["X_tt"] == {"seen": old.id}
    assert again.obs["tt_split"].isna().all()
    with pytest.raises(ValueError, match="Nothing says which cells were held out from X_tt"):
        tt.evaluate(again, "kind")
    labels = {collection.get_label() for collection in pl.embedding(again, "kind").collections}
    assert "held-out" not in labels
    fresh = make_cells(20, 2)
    tt.transform(fresh, old)
    assert "tt_split" not in fresh.obs


@pytest.mark.parametrize("number", [5, FORMAT + 1])
def test_other_formats_are_refused(table, tmp_path, number):
    table[1].save(tmp_path / "m.tt")
    with safe_open(tmp_path / "m.tt", framework="pt") as file:
        header = json.loads(file.metadata()["tripletomics"]) | {"format": number}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "m.tt", {"tripletomics": json.dumps(header)})
    seal(tmp_path / "m.tt")
    with pytest.raises(ValueError, match=f"{'an older' if number < 6 else 'a newer'} tripletomics, in format {number}"):
        tt.load(tmp_path / "m.tt")


# ------------------------------------------------------------------------------------------------- what verbs write


@pytest.mark.parametrize("verb", [tt.transform, tt.predict])
def test_the_own_model_changes_nothing_and_says_what_it_saw(table, verb):
    adata, model = table
    again, n = adata.copy(), int((~held(adata)).sum())
    with pytest.warns(UserWarning, match=SOME.format(n, 200)) as said:
        verb(again, model)
    assert len(said) == 1
    assert said[0].filename == __file__
    pd.testing.assert_series_equal(again.obs["tt_split"], adata.obs["tt_split"])
    assert again.uns["X_tt"]["scores"] == adata.uns["X_tt"]["scores"]
    if verb is tt.predict:
        assert again.uns["tt_mapping"]["seen"] == n
        assert isinstance(again.uns["tt_mapping"]["seen"], int)


@pytest.mark.parametrize("verb", [tt.transform, tt.predict])
def test_another_model_leaves_no_split_of_the_first(table, other, verb):
    again = table[0].copy()
    quiet(verb, again, other)
    assert again.uns["X_tt"] == {"seen": other.id}
    assert (again.obs["tt_split"] == "train").all()


def test_scores_use_no_split_of_an_earlier_model(table, other):
    again = table[0].copy()
    quiet(tt.transform, again, other)
    with pytest.raises(ValueError, match=r"obs\['tt_split'\] holds no cell out: .*Fit again with hold_out=0\.3"):
        tt.evaluate(again, "kind")
    with pytest.raises(ValueError, match="was written by transform, and uns does not say how its model was fitted"):
        tt.evaluate(again, "kind", refits=1)
    with pytest.warns(UserWarning, match=r"X_tt was fitted on cells that splits=0\.3 holds out.*Fit again"):
        tt.evaluate(again, "kind", splits=0.3)


def test_new_cells_alone_have_no_split_in_any_storage(table):
    model, new = table[1], make_cells(60, 2)
    for x in (new.X.tocsc(), new.X.toarray().astype(np.float64)):
        query = new.copy()
        query.X = x
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tt.predict(query, model)
        assert query.obs["tt_split"].isna().all()
        assert query.uns["X_tt"] == {"seen": model.id}
        assert query.uns["tt_mapping"]["seen"] == 0
    with pytest.raises((ValueError, KeyError), match="split"):
        tt.evaluate(query, "kind")


def test_a_subset_with_its_genes_in_another_order_and_on_another_layer(table):
    adata, model = table
    part = adata[::3, ::-1].copy()
    del part.uns["X_tt"], part.obs["tt_split"]
    part.layers["counts"] = part.X.astype(np.int32)
    part.X = np.zeros(part.shape, dtype=np.float32)
    quiet(tt.transform, part, model, layer="counts")
    assert (held(part) == held(adata[::3])).all()


def test_cells_whose_values_changed_stay_training_cells_of_their_own_model(table, other):
    adata, model = table
    changed = adata.copy()
    changed.X = changed.X.copy()
    changed.X.data[:] += 1
    n = int((~held(adata)).sum())
    with pytest.warns(UserWarning, match=f"^{n} training cells of this model, as the split in obs says, have other"):
        tt.transform(changed, model)
    assert (held(changed) == held(adata)).all()
    quiet(tt.transform, changed, other)  # by another model they are not found: what transform says of itself
    assert changed.obs["tt_split"].isna().all()


def test_reference_and_query_in_one_table(table):
    adata, model = table
    query = make_cells(60, 2)
    tt.predict(query, model)
    both = ad.concat([adata, query], join="outer")
    assert "X_tt" not in both.uns
    assert held(both).sum() == held(adata).sum()
    with pytest.warns(
        UserWarning, match=r"uns\['X_tt'\] is missing, as after anndata.concat.*Run tripletomics.transform"
    ):
        table_ = tt.evaluate(both[both.obs["tt_split"].notna()].copy(), "kind")
    assert "Nothing in uns says which model wrote X_tt: its scores are evidence only if" in table_.attrs["summary"]
    both = ad.concat([adata, query], join="outer", uns_merge="first")
    with pytest.raises(
        ValueError, match=r"obs\['tt_split'\] says nothing about 60 of 260 cells, as after anndata.concat"
    ):
        tt.evaluate(both, "kind")
    with pytest.raises(ValueError, match="hold_out='tt_split' says nothing about 60 of 260 cells: mark"):
        tt.evaluate(both, "kind", splits="tt_split")
    with pytest.warns(
        UserWarning, match=r"obs\['tt_split'\] says nothing about 60 of 260 cells: they are drawn as a gr"
    ):
        ax = pl.embedding(both, "kind")
    assert {part.get_label(): len(part.get_offsets()) for part in ax.collections}["no split"] == 60
    assert "cells without a split (60)" in [text.get_text() for text in ax.get_legend().get_texts()]
    quiet(tt.transform, both, model)
    assert held(both).tolist() == [*held(adata), *[True] * 60]
    assert "Nothing in uns" not in quiet(tt.evaluate, both, "kind").attrs["summary"]


def test_a_concat_of_the_tables_of_two_models(table, other):
    """The held-out cells of the one are training cells of the other."""
    adata, model = table
    mine = adata.copy()
    quiet(tt.transform, mine, other)
    both = ad.concat([adata, mine], keys=["a", "b"], index_unique="-", uns_merge="first")
    both.obs["tt_split"] = np.where(np.arange(400) < 200, both.obs["tt_split"].astype(str), "held-out")
    quiet(tt.transform, both, model)  # named already, and yet no training cell of its passes as held out
    assert held(both).tolist() == [*held(adata), *held(adata)]


@pytest.mark.parametrize("merge", [None, "same", "unique", "only", "first"])
def test_a_concat_of_the_tables_of_two_fits(table, merge):
    adata, model = table
    second = make_cells(120, 3)
    tt.fit(second, "kind", hold_out=0.3, seed=2, **BRIEF)
    both = ad.concat([adata, second], uns_merge=merge)  # a dict of dicts is merged in depth: a part of it is left
    if merge == "first":
        n = (both.obs["tt_split"] == "train").sum()
        with pytest.raises(ValueError, match=rf"marks {n} training cells, but the model .* was trained on 140, as"):
            tt.evaluate(both, "kind")
    else:
        with pytest.warns(UserWarning, match=r"uns\['X_tt'\] is missing, as after anndata.concat"):
            assert "Nothing in uns says which model wrote X_tt" in tt.evaluate(both, "kind").attrs["summary"]
    quiet(tt.transform, both, model)
    assert held(both).tolist() == [*held(adata), *[True] * 120]


def test_keys_do_not_share_a_split(table, other):
    adata, model = table
    adata = adata.copy()
    quiet(tt.transform, adata, other, key_added="X_b")
    assert held(adata, "X_b_split").sum() == 0
    assert keys.split_of(adata, "X_b_metric") == "X_b_split"
    del adata.obs["X_b_split"]
    assert keys.split_of(adata, "X_b") is None  # tt_split is of another model
    with pytest.raises(ValueError, match="Nothing says which cells were held out from X_b"):
        tt.evaluate(adata, "kind", basis="X_b")
    with pytest.raises(ValueError, match="marks no held-out cells"):
        pl.confusion(adata, "kind", basis="X_b")
    with pytest.warns(UserWarning, match="X_b may have been fitted on cells that splits='tt_split' holds out"):
        tt.evaluate(adata, "kind", basis="X_b", splits="tt_split")
    quiet(tt.transform, adata, model, key_added="X_b")
    del adata.obs["X_b_split"]
    assert keys.split_of(adata, "X_b") == "tt_split"  # of the same model
    assert keys.split_of(adata, "X_umap") == "tt_split"


def test_figures_mark_the_cells_that_the_model_of_each_map_held_out(table, other):
    adata = table[0].copy()
    quiet(tt.transform, adata, other, key_added="X_b")

    def drawn(ax):
        return {part.get_label(): len(part.get_offsets()) for part in ax.collections}

    n = int(held(adata).sum())
    assert drawn(pl.embedding(adata, "kind")) == {"train": 200 - n, "held-out": n}
    first, second = pl.compare(adata, "kind", bases=["X_tt", "X_b"]).axes[:2]
    assert drawn(first)["held-out"] == n
    assert "held-out" not in drawn(second)
    quiet(tt.transform, adata, other)
    assert "held-out" not in drawn(pl.embedding(adata, "kind"))


# ------------------------------------------------------------------------------------------------- files and pairs


@pytest.mark.parametrize("end", ["h5ad", "zarr"])
def test_tables_on_disk(table, other, tmp_path, end):
    adata, model = table
    path = tmp_path / f"cells.{end}"
    small = ad.AnnData(adata.X, adata.obs[["tt_split"]], adata.var, {"X_tt": {"seen": model.id, "scores": "kept"}})
    getattr(small, f"write_{end}")(path)
    read = getattr(ad, f"read_{end}")
    with pytest.warns(UserWarning, match=SOME.format(int((~held(adata)).sum()), 200)):
        tt.transform(path, model)
    found = read(path)
    assert found.obs["tt_split"].tolist() == adata.obs["tt_split"].tolist()
    assert found.uns["X_tt"]["scores"] == "kept"
    quiet(tt.transform, path, other)
    found = read(path)
    assert not held(found).any()
    assert found.uns["X_tt"] == {"seen": other.id}


def test_shards_name_the_model_and_refuse_the_split_of_another(table, tmp_path):
    _, model = table
    model.save(tmp_path / "m.tt")
    new = make_cells(60, 2)
    new.write_zarr(tmp_path / "new.zarr")
    for part in ("1/2", "2/2"):
        tl.transform_shard(tmp_path / "new.zarr", tmp_path / "m.tt", part)
    found = ad.read_zarr(tmp_path / "new.zarr")
    assert found.uns["X_tt"] == {"seen": model.id}
    with pytest.raises(ValueError, match="Nothing says which cells were held out from X_tt"):
        tt.evaluate(found, "kind")
    new.obs["tt_split"] = "train"
    new.write_zarr(tmp_path / "stale.zarr")
    with pytest.raises(ValueError, match=r"^obs/tt_split of '.*stale.zarr' is not of this model"):
        tl.transform_shard(tmp_path / "stale.zarr", tmp_path / "m.tt", "1/1")


def test_two_modalities_together_and_alone(tmp_path):
    rna, protein = make_cells(120, 1), make_cells(120, 1, genes=12)
    protein.var_names = [f"P{i}" for i in range(12)]
    model = tt.fit((rna, protein), "kind", hold_out=0.3, **BRIEF)
    model.save(tmp_path / "m.tt")
    model = tt.load(tmp_path / "m.tt")
    split, n = held(rna), int((~held(rna)).sum())
    for given in ((rna.copy(), protein.copy()), rna.copy(), protein.copy()):
        sides = given if isinstance(given, tuple) else (given,)
        for side in sides:
            del side.obs, side.uns["X_tt"]
        with pytest.warns(UserWarning, match=SOME.format(n, 120)):
            tt.predict(given, model)
        for side in sides:
            assert held(side).tolist() == split.tolist()
            assert side.uns["X_tt"] == {"seen": model.id}
            assert side.uns["tt_mapping"]["seen"] == n


def test_the_command_line_says_how_many(table, tmp_path, run):
    adata, model = table
    model.save(tmp_path / "m.tt")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    n = int((~held(adata)).sum())
    status, _, error = run(
        "predict", tmp_path / "cells.h5ad", "--model", tmp_path / "m.tt", "--out", tmp_path / "out.h5ad"
    )
    assert status == 0
    assert error.startswith(f"warning: {n} of 200 cells were part of the fit")
    assert error.count("part of the fit") == 1
